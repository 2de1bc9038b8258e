"""The driver's side: servers' life, dense weights, tables, decay, statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyspark_ps import _core
from pyspark_ps.client.barrier import BarrierCoordinator
from pyspark_ps.client.checkpoints import Checkpoints, hadoop_settings, shutdown_path
from pyspark_ps.client.initial_weights import (
    check_strategy,
    checked_shape,
    initializer,
    is_number,
)
from pyspark_ps.client.options import checked_config, client_options
from pyspark_ps.client.worker_client import PSWorkerClient
from pyspark_ps.communication import CheckpointInfo, Secret, ServerInfo
from pyspark_ps.errors import ClosedError, InvalidArgumentError
from pyspark_ps.placement.cluster import Cluster
from pyspark_ps.placement.credentials import Credentials, uses_tls
from pyspark_ps.placement.external import ExternalCluster
from pyspark_ps.placement.interpreter import check_workers
from pyspark_ps.placement.plan import make_cluster, resolve_placement
from pyspark_ps.utils.config import PSConfig, TableConfig
from pyspark_ps.utils.logging import get_logger
from pyspark_ps.utils.sharding import PARTITION_COUNT

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

_logger = get_logger(__name__)

# A start takes as long as Python needs to start, however short the deadline of calls is.
START_SECONDS_MIN = 30.0
# What a driver that ends without a shutdown gives its servers.
EXIT_GRACE_SECONDS = 1.0


class PSMainClient:
    """A cluster of parameter servers as its driver handles it.

        with PSMainClient(spark_context, config) as main:      # starts the servers
            worker = PSWorkerClient(main.get_server_info(), config)
            ...                                                # the end of the block stops them

    Servers are processes of their own: children of the driver, or of tasks on Spark's executors
    (`PSConfig.placement`). They end with the driver's process, however that ends. Servers that were
    started by hand ("external") are connected to instead, and left running.

    Thread-safe.

    Args:
        spark_context: SparkContext, SparkSession or None (then servers run beside the driver).
        config: of the cluster; a copy is kept.

    Raises:
        ConfigurationError: a field of `config` is not valid.
    """

    def __init__(self, spark_context: SparkContext | SparkSession | None, config: PSConfig) -> None:
        self.config = checked_config(config, "PSMainClient")
        if self.config.placement == "external":
            self.config.num_servers = len(self.config.server_addresses)
        self._context = _context_of(spark_context)
        self._placement = resolve_placement(self._context, self.config)
        uses_tls(self._context, self.config)  # raises where it cannot be as it would have to
        self._lock = threading.RLock()
        self._running: _Running | None = None
        self._infos: list[ServerInfo] = []
        self._end_at_exit: weakref.finalize[Any, Any] | None = None

    def __enter__(self) -> PSMainClient:
        self.start_servers()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown_servers()

    # --- servers

    def start_servers(self) -> list[ServerInfo]:
        """Starts all servers and waits until they serve; does nothing when they were started.

        After a shutdown a new, empty cluster starts.

        Returns:
            The servers, by id; what `PSWorkerClient` takes, also on executors.

        Raises:
            PSError: a server ended while it started (its last words are in the message).
            PSTimeoutError: not all servers started; the message says how many and what to do.
            ConfigurationError: Spark has fewer task slots than servers, or its Python workers
                cannot import this package.
        """
        with self._lock:
            if self._running is None:
                if self._context is not None:
                    check_workers(self._context)
                cluster, credentials = self._new_cluster()
                cluster.start(max(self.config.timeout_seconds, START_SECONDS_MIN))
                self._end_at_exit = weakref.finalize(self, cluster.end, EXIT_GRACE_SECONDS)
                try:
                    self._infos = _server_infos(cluster, credentials, self.config)
                    self._running = _Running(cluster, self._infos, self.config)
                except BaseException:
                    self._end_at_exit()
                    self._infos = []
                    raise
            return self.get_server_info()

    def _new_cluster(self) -> tuple[Cluster | ExternalCluster, Credentials]:
        return make_cluster(self._context, self.config)

    def shutdown_servers(self, grace_period_seconds: float = 30) -> None:
        """Ends all servers; requests under way get the grace period. Rows and weights are gone.
        From external servers it only disconnects.

        With `PSConfig.checkpoint_on_shutdown` and a place for checkpoints they are saved before.
        Does nothing when the servers were not started.

        Raises:
            PSError: they could not be saved; the servers have ended all the same.
        """
        if not is_number(grace_period_seconds) or grace_period_seconds < 0:
            raise InvalidArgumentError(
                f"shutdown_servers: grace_period_seconds = {grace_period_seconds!r}: allowed is a "
                "number >= 0"
            )
        with self._lock:
            running, self._running = self._running, None
            if running is None:
                return
            if self._end_at_exit is not None:
                self._end_at_exit.detach()
            try:
                self._save_at_shutdown(running)
            finally:
                running.close()
                running.cluster.end(float(grace_period_seconds))
                status = running.cluster.final_status
                self._infos = [dataclasses.replace(i, status=status) for i in self._infos]

    def get_server_info(self) -> list[ServerInfo]:
        """A copy of what is known of each server, by id; empty before the first start.

        `status` is "running", "lost" (it ended by itself) or, after a shutdown, "stopped".
        """
        with self._lock:
            if self._running is not None:
                states = {int(r["server_id"]): r for r in self._running.cluster.servers()}
                for info in self._infos:
                    info.status = str(states[info.server_id]["state"])
            return [dataclasses.replace(i, metadata=dict(i.metadata)) for i in self._infos]

    def worker_client(self) -> PSWorkerClient:
        """A client of the running servers, in this process. The same one each time; it is closed by
        `shutdown_servers`."""
        return self._get().worker

    def executor_slots_needed(self) -> int:
        """Task slots of Spark that the servers hold while they run."""
        return self.config.num_servers if self._placement == "executors" else 0

    # --- dense weights and tables

    def init_weights(
        self,
        weight_shapes: Mapping[str, Sequence[int]],
        init_strategy: str = "normal",
        init_scale: float = 0.01,
    ) -> None:
        """Creates dense weights with initial values, which depend on `PSConfig.seed` and the name
        alone, not on the number of servers.

        A name that exists with the same shape gets new values and a fresh optimizer state; names
        that are not given stay as they are.

        Args:
            weight_shapes: name -> shape; `()` is a scalar.
            init_strategy: "zeros", "ones", "random" = uniform(-scale, scale), "normal" =
                N(0, scale^2), "xavier" = N(0, 2 / (fan_in + fan_out)), "he" = N(0, 2 / fan_in);
                fans as Keras counts them.
            init_scale: of "random" and "normal".

        Raises:
            InvalidArgumentError: a name, shape, strategy or scale is not valid, or a name exists
                with another shape; then nothing is changed.
        """
        running = self._get()
        check_strategy(init_strategy, init_scale)
        shapes = {name: checked_shape(name, shape) for name, shape in weight_shapes.items()}
        if not shapes:
            return
        ids = running.define_tensors(shapes)
        tensors = []
        for name, shape in shapes.items():
            init, scale = initializer(init_strategy, init_scale, shape)
            tensors.append({"id": ids[name], "init": init, "scale": scale})
        running.control_all({"op": "init_tensors", "tensors": tensors})

    def set_weights(self, weights: Mapping[str, ArrayLike]) -> None:
        """Uploads values of dense weights, e.g. of a pretrained model.

        A name that exists with the same shape gets the values and a fresh optimizer state; names
        that are not given stay as they are.

        Args:
            weights: name -> finite real values; kept as float32.

        Raises:
            InvalidArgumentError: a value that is not finite, a wrong dtype, or a name that exists
                with another shape; then nothing is changed.
        """
        worker = self._get().worker
        worker.define_weights({n: _as_array(n, v) for n, v in weights.items()}, overwrite=True)

    def create_table(self, name: str, table_config: TableConfig) -> None:
        """Creates a table of embeddings on all servers; the same definition again does nothing.

        Raises:
            InvalidArgumentError: the table exists with another definition.
            ConfigurationError: `name` or `table_config` is not valid.
        """
        self._get().worker.create_table(name, table_config)

    def get_tables(self) -> dict[str, TableConfig]:
        """All tables, their definitions complete."""
        tables: dict[str, TableConfig] = self._get().worker.get_tables()
        return tables

    def decay_embeddings(
        self, method: str = "multiply", factor: float = 0.99, min_count: float = 5
    ) -> dict[str, Any]:
        """Ages the rows of all tables.

        Args:
            method: "multiply" (values and counts times `factor`) or "prune" (rows whose count is
                below `min_count` go, with their optimizer state).
            factor: in (0, 1].
            min_count: >= 0.

        Returns:
            `{"method": method, "results": [one dict per server]}`; of "multiply"
            `{"server_id", "method", "factor"}`, of "prune"
            `{"server_id", "method", "min_count", "pruned"}`.

        Raises:
            InvalidArgumentError: a wrong argument.
            PSConnectionError: a server that does not answer, named.
        """
        running = self._get()
        if method == "multiply":
            if not is_number(factor) or not 0 < factor <= 1:
                raise InvalidArgumentError(
                    f"decay_embeddings: factor = {factor!r}: allowed is a number > 0 and <= 1"
                )
            arguments: dict[str, Any] = {"factor": float(factor)}
        elif method == "prune":
            if not is_number(min_count) or min_count < 0:
                raise InvalidArgumentError(
                    f"decay_embeddings: min_count = {min_count!r}: allowed is a number >= 0"
                )
            arguments = {"min_count": min_count}
        else:
            raise InvalidArgumentError(
                f"decay_embeddings: method = {method!r}: allowed are 'multiply' and 'prune'"
            )
        replies = running.control_all({"op": "decay", "method": method, **arguments})
        results = [
            {"server_id": server, "method": method, **arguments} for server in range(len(replies))
        ]
        if method == "prune":
            for result, reply in zip(results, replies, strict=True):
                result["pruned"] = int(reply["pruned"])
        return {"method": method, "results": results}

    def step(self) -> bool:
        """Counts one step of training, and decays rows when their time has come.

        With `PSConfig.auto_decay` every `decay_interval_steps`-th call multiplies all rows by
        `decay_factor`, then prunes those below `prune_threshold`. Without it nothing happens. The
        count starts with the servers.

        Returns:
            Whether rows were decayed.

        Raises:
            PSConnectionError: a server that does not answer, named.
        """
        running = self._get()
        if not self.config.auto_decay or running.count_step() % self.config.decay_interval_steps:
            return False
        self.decay_embeddings("multiply", factor=self.config.decay_factor)
        pruned = self.decay_embeddings("prune", min_count=self.config.prune_threshold)
        total = sum(result["pruned"] for result in pruned["results"])
        _logger.info("auto_decay: rows times %g, %d pruned", self.config.decay_factor, total)
        return True

    def get_cluster_stats(self) -> dict[str, Any]:
        """What the servers hold and have done.

        Returns:
            `{"servers": [one dict per server], "total_embeddings": rows, "total_weights": dense
            tensors, "total_parameters": values of the dense tensors, "total_memory_bytes"}`.

        Raises:
            PSConnectionError: a server that does not answer, named.
        """
        running = self._get()
        servers = running.control_all({"op": "stats"}, once=False)
        defined = running.cluster.definition()["tensors"]
        tensors = [tensor for tensor in defined if not tensor.get("dropped")]
        return {
            "servers": servers,
            "total_embeddings": sum(server["embeddings"] for server in servers),
            "total_weights": len(tensors),
            "total_parameters": sum(math.prod(tensor["shape"]) for tensor in tensors),
            "total_memory_bytes": sum(server["memory_bytes"] for server in servers),
        }

    # --- barriers

    def create_barrier(self, name: str, num_workers: int) -> None:
        """Makes a barrier for so many workers; the same again does nothing. See
        `BarrierCoordinator.create`."""
        self._get().barriers.create(name, num_workers)

    def wait_barrier(self, name: str, timeout_seconds: float = 300) -> bool:
        """Waits until all workers are in: True; False on time-out. See
        `BarrierCoordinator.wait`."""
        return self._get().barriers.wait(name, timeout_seconds)

    def release_barrier(self, name: str) -> None:
        """Lets the workers inside go; then the name stands for the next round. See
        `BarrierCoordinator.release`."""
        self._get().barriers.release(name)

    # --- checkpoints

    def save_to_s3(
        self,
        path: str,
        save_model: bool = True,
        save_embeddings: bool = True,
        save_optimizer_states: bool = True,
        *,
        trainer: Mapping[str, Any] | None = None,
        trainer_files: Mapping[str, bytes] | None = None,
    ) -> CheckpointInfo:
        """Saves the cluster while it goes on serving; docs/checkpoints.md says what that promises.

        Args:
            path: any path or URL: s3://, s3a://, file://, a plain path, what `pyarrow.fs` reaches.
                A checkpoint that lies there is replaced when the new one is complete.
            save_model, save_embeddings, save_optimizer_states: what is saved.
            trainer: what else the manifest keeps; JSON can hold it.
            trainer_files: small files below `trainer/`, by name.

        Raises:
            InvalidArgumentError: nothing would be saved, or a wrong path.
            StorageError: the place cannot be written.
            PSConnectionError: a server that does not answer any more.
        """
        with self._checkpoints() as checkpoints:
            return checkpoints.save(
                path,
                save_model,
                save_embeddings,
                save_optimizer_states,
                trainer=trainer,
                trainer_files=trainer_files,
            )

    def load_from_s3(
        self,
        path: str,
        load_model: bool = True,
        load_embeddings: bool = True,
        load_optimizer_states: bool = True,
    ) -> CheckpointInfo:
        """Puts what a checkpoint holds in place of what the cluster holds, whatever number of
        servers saved it: all of it, or, when an error is raised, nothing.

        Rows and dense weights that the checkpoint lacks go; tables that the cluster lacks are made.
        Without optimizer states the counts stay and the states start fresh.

        Raises:
            NotFoundError: there is no complete checkpoint, or it lacks a part asked for.
            ConfigurationError: a table that the config declares is another one there.
            DataCorruptionError: a file is missing, damaged or not what the manifest says.
            StorageError: the place cannot be read.
            ResourceExhaustedError: the servers have no room for it beside what they hold.
            PSConnectionError: a server that does not answer any more.
        """
        with self._checkpoints() as checkpoints:
            return checkpoints.load(path, load_model, load_embeddings, load_optimizer_states)

    def checkpoint(self, path: str) -> CheckpointInfo:
        """`save_to_s3` of everything."""
        return self.save_to_s3(path)

    def restore(self, path: str) -> CheckpointInfo:
        """`load_from_s3` of everything."""
        return self.load_from_s3(path)

    def list_checkpoints(self, prefix: str) -> list[CheckpointInfo]:
        """Complete checkpoints at and anywhere below a path, newest first."""
        with self._checkpoints() as checkpoints:
            return checkpoints.manager.list(prefix)

    def delete_checkpoint(self, path: str) -> None:
        """Removes the checkpoint at a path, and nothing else.

        Raises:
            NotFoundError: there is none (a folder of checkpoints is none).
            StorageError: it could not be removed wholly; do it again.
        """
        with self._checkpoints() as checkpoints:
            checkpoints.manager.delete(path)

    def prune_checkpoints(self, prefix: str, keep: int) -> list[CheckpointInfo]:
        """Deletes all but the newest `keep` complete checkpoints below a path.

        Returns:
            Those that were deleted.
        """
        with self._checkpoints() as checkpoints:
            return checkpoints.manager.prune_to(prefix, keep)

    @contextlib.contextmanager
    def _checkpoints(self) -> Iterator[Checkpoints]:
        """One user at a time."""
        with self._get().checkpoints(self._context) as checkpoints:
            yield checkpoints

    def _save_at_shutdown(self, running: _Running) -> None:
        place = shutdown_path(self.config)
        if place is None:
            return
        with running.checkpoints(self._context) as checkpoints:
            info = checkpoints.save(place)
        _logger.info("saved %d rows to %s", info.embedding_count, info.s3_path)

    def _get(self) -> _Running:
        running = self._running
        if running is None:
            state = "were shut down" if self._infos else "have not been started"
            raise ClosedError(f"the servers {state}: call start_servers() first")
        return running


class _Running:
    """A started cluster with the driver's own connections to it."""

    def __init__(
        self, cluster: Cluster | ExternalCluster, infos: list[ServerInfo], config: PSConfig
    ) -> None:
        self.cluster = cluster
        self._infos = infos
        self._config = config
        self._client = _core.Client(*client_options(infos, config))
        self._lock = threading.Lock()
        self._worker: PSWorkerClient | None = None
        self._steps = 0
        self._barriers: BarrierCoordinator | None = None
        self._checkpointing = threading.Lock()

    @property
    def barriers(self) -> BarrierCoordinator:
        with self._lock:
            if self._barriers is None:
                self._barriers = BarrierCoordinator(self._infos, self._config)
            return self._barriers

    @contextlib.contextmanager
    def checkpoints(self, spark_context: SparkContext | None) -> Iterator[Checkpoints]:
        """For one user at a time: what the servers serve must not change under a save or load."""
        from pyspark_ps.storage import CheckpointManager

        manager = CheckpointManager(self._config, hadoop_settings(spark_context))
        with self._checkpointing:
            yield Checkpoints(self._client, self._infos, self._config, manager)

    @property
    def worker(self) -> PSWorkerClient:
        with self._lock:
            if self._worker is None:
                self._worker = PSWorkerClient(self._infos, self._config, client_id="driver")
            return self._worker

    def count_step(self) -> int:
        """Steps so far, this one included."""
        with self._lock:
            self._steps += 1
            return self._steps

    def control_all(self, request: dict[str, Any], once: bool = True) -> list[dict[str, Any]]:
        """Replies of all servers, by id; `once`: a repeated request takes effect once."""
        return [json.loads(r) for r in self._client.control_all(json.dumps(request), once)]

    def define_tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Makes dense tensors that do not exist yet; the id of each."""
        tensors = [{"name": name, "shape": list(shape)} for name, shape in shapes.items()]
        request = {"op": "define_tensors", "tensors": tensors}
        reply = json.loads(self._client.control_coordinator(json.dumps(request)))
        return {tensor["name"]: tensor["id"] for tensor in reply["definition"]["tensors"]}

    def close(self) -> None:
        with self._lock:
            if self._barriers is not None:
                self._barriers.close()
            if self._worker is not None:
                self._worker.close()
            self._client.close()


def _context_of(spark: Any) -> Any:
    """The SparkContext of what a user gave: one, a SparkSession, or None."""
    context = getattr(spark, "sparkContext", spark)
    if context is not None and not hasattr(context, "_jsc"):
        raise InvalidArgumentError(
            f"PSMainClient takes a SparkContext, a SparkSession or None, not {spark!r}"
        )
    return context


def _server_infos(
    cluster: Cluster | ExternalCluster, credentials: Credentials, config: PSConfig
) -> list[ServerInfo]:
    owners = _core.partition_owners(
        config.num_servers, config.virtual_nodes_per_server, PARTITION_COUNT
    )
    fingerprint = credentials.fingerprint
    infos = []
    for record in cluster.servers():
        partitions = np.flatnonzero(owners == record["server_id"])
        infos.append(
            ServerInfo(
                server_id=int(record["server_id"]),
                host=str(record["host"]),
                port=int(record["port"]),
                status=str(record["state"]),
                shard_range=(int(partitions[0]), int(partitions[-1])),
                metadata={
                    "coordinator": cluster.coordinator_address,
                    "secret": Secret(credentials.secret.hex()),
                    "tls_fingerprint": fingerprint,
                    "incarnation": format(int(record["incarnation"]), "x"),
                    "unix_socket": str(record["unix_path"]),
                    "metrics_port": int(record["metrics_port"]) or None,
                },
            )
        )
    return infos


def _as_array(name: str, values: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InvalidArgumentError(f"set_weights: {name!r} is no array: {error}") from error
