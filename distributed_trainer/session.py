"""The servers and workers of one run while they live: passes over units, weights, rows, decay."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distributed_trainer.checkpoints import TrainerCheckpoints
from distributed_trainer.config import TrainerConfig
from distributed_trainer.errors import TrainingError
from distributed_trainer.pools import TaskOutcome, WorkerPool, WorkerSpec
from distributed_trainer.run_state import RunState
from distributed_trainer.task import TRAIN, DayPass, TaskReport, WorkerTask
from distributed_trainer.units import UnitOfWork, distribute_units
from distributed_trainer.worker import define_on_servers
from pyspark_ps import PSConnectionError, PSError, PSMainClient

if TYPE_CHECKING:
    from pyspark_ps.storage import CheckpointManager

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
# How long after a broken connection the coordinator may take to know that the server is lost.
LOSS_KNOWN_SECONDS = 5.0


class Session:
    """Started servers and workers. For one thread, but for `pushes_done`.

    Attributes:
        state: of the run.
        restorable: the checkpoint that holds all that was trained so far; None where there is none.

    Args:
        spark_context: None = the workers are child processes.
        config: of the training.
        main_client: not started yet; ended by `close`.
        manager: knows where checkpoints lie.
        wrapper: the model in the driver; its weights are the start.
        builder: makes the model in the workers.

    Raises:
        ConfigurationError: Spark has no task slot left for workers.
    """

    def __init__(
        self,
        spark_context: Any,
        config: TrainerConfig,
        main_client: PSMainClient,
        manager: CheckpointManager,
        wrapper: Any,
        builder: Callable[[], Any],
    ) -> None:
        self.config = config
        self.main_client = main_client
        self.wrapper = wrapper
        self.state = RunState.begin(config)
        self.checkpoints = TrainerCheckpoints(config, main_client, manager)
        self.restorable: str | None = None
        self._context = spark_context
        self._builder = builder
        self._pool: WorkerPool | None = None
        self._check_slots()
        main_client.start_servers()
        self._start_workers()

    def _start_workers(self) -> None:
        """New workers that know the servers and the run of now; their first task starts them."""
        define_on_servers(self.main_client.worker_client(), self.config, self.wrapper)
        spec = WorkerSpec(
            run=self.state.run,
            config=self.config.to_dict(),
            server_info=[server.to_dict() for server in self.main_client.get_server_info()],
            model_builder=self._builder,
        )
        self._end_workers()
        if self._context is None:
            from distributed_trainer.pools.processes import ProcessPool

            self._pool = ProcessPool(spec)
        else:
            from distributed_trainer.pools.spark import SparkPool

            self._pool = SparkPool(self._context, spec)

    def _check_slots(self) -> None:
        if self._context is not None:
            from distributed_trainer.pools.slots import check_slots

            check_slots(
                self._context, self.main_client.executor_slots_needed(), self.config.num_workers
            )

    def _end_workers(self) -> None:
        pool, self._pool = self._pool, None
        try:
            if pool is not None:
                pool.close()
        except Exception:
            logger.exception("the workers could not be ended in order")

    def close(self) -> None:
        """Ends workers and servers."""
        self._end_workers()
        self.main_client.shutdown_servers()

    # ---- checkpoints
    def save(self, path: str) -> None:
        """Saves all that the run needs to go on. No push may be under way."""
        self.checkpoints.save(self, path)
        self.restorable = path

    def save_day(self, date: str) -> str | None:
        """Saves after a day as configured; where, or None."""
        self.restorable = self.checkpoints.after_day(self, date)
        return self.restorable

    def resume(self, path: str) -> None:
        """Goes on from a checkpoint: its rows and weights, and the state of its run.

        Raises:
            NotFoundError, DataCorruptionError, StorageError: it cannot be loaded.
            ConfigurationError: it is of another model.
        """
        state = self.checkpoints.load(path, self.wrapper) or self.state
        if self.config.shuffle_seed is not None:
            state = replace(state, seed=self.config.shuffle_seed)
        self.state = state.renamed()
        self.restorable = path
        self._start_workers()
        self.fetch_weights()

    def recover(self) -> None:
        """After the loss of a server: all of them start again and go back to `restorable`."""
        assert self.restorable is not None
        rate_scale = self.state.rate_scale
        self._end_workers()
        try:
            self.main_client.shutdown_servers(0)
        except PSError as error:  # what a cluster without all its servers cannot save; it has ended
            logger.debug("%s", error)
        self.main_client.start_servers()
        self.resume(self.restorable)
        self.state.rate_scale = rate_scale  # callbacks have set it for the day in progress

    def lost_servers(self, after: PSError | None = None) -> list[int]:
        """Ids of servers that ended by themselves.

        Args:
            after: an error that may come from such a loss; the news of it is waited for.
        """
        is_hint = after is not None and PSConnectionError.__name__ in f"{type(after)} {after}"
        deadline = time.monotonic() + (LOSS_KNOWN_SECONDS if is_hint else 0.0)
        while True:
            servers = self.main_client.get_server_info()
            lost = [server.server_id for server in servers if server.status == "lost"]
            if lost or time.monotonic() >= deadline:
                return lost
            time.sleep(0.1)

    @contextmanager
    def _watched(self, pool: WorkerPool) -> Iterator[None]:
        """Ends the workers' tasks when a server is lost: they would only wait for it."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(WATCH_SECONDS):
                if self.lost_servers():
                    with contextlib.suppress(Exception):  # the pass fails in any case
                        pool.cancel()
                    return

        watcher = threading.Thread(target=watch, name="watch-servers", daemon=True)
        watcher.start()
        try:
            yield
        except TrainingError as error:
            lost = self.lost_servers(error)
            if lost:
                raise PSConnectionError(f"servers {lost} have ended; {error}") from error
            raise
        finally:
            done.set()
            watcher.join()

    # ---- passes
    def train(self, date: str, units: Sequence[UnitOfWork]) -> tuple[TaskReport, list[TaskOutcome]]:
        """Trains once on the units of a day; the merged report and each worker's.

        Raises:
            TrainingError: a worker failed; the cause comes first.
        """
        day = self.state.next_pass(date)
        self.state.passes[date] = day.pass_index + 1
        report, outcomes = self._run(day, units, TRAIN, self._number_steps(units))
        client = self.main_client.worker_client()
        client.end_streams([day.stream(unit) for unit in units])
        # The workers' moving statistics, averaged by rows seen, become the servers'.
        moving = report.moving_average()
        if moving:
            client.assign_weights(moving)
        self.wrapper.set_weights(report.local_weights)
        return report, outcomes

    def look(
        self, label: str, units: Sequence[UnitOfWork], mode: str, output_path: str = ""
    ) -> TaskReport:
        """Evaluates or predicts; changes nothing of how the model is trained.

        Args:
            output_path: folder that takes the predictions; "" = the report has them.
        """
        report, _ = self._run(self.state.next_pass(label), units, mode, {}, output_path)
        return report

    def _number_steps(self, units: Sequence[UnitOfWork]) -> dict[str, int]:
        """unit id -> steps of the run before it; what a learning-rate schedule counts by."""
        first: dict[str, int] = {}
        for unit in units:
            first[unit.id] = self.state.steps
            self.state.steps += math.ceil(unit.num_rows / self.config.batch_size)
        return first

    def _run(
        self,
        day: DayPass,
        units: Sequence[UnitOfWork],
        mode: str,
        first_steps: Mapping[str, int],
        output_path: str = "",
    ) -> tuple[TaskReport, list[TaskOutcome]]:
        assert self._pool is not None
        local_weights = self.wrapper.get_local_weights()
        tasks = [
            WorkerTask(
                worker_id,
                day,
                tuple(share),
                mode,
                tuple(first_steps[unit.id] for unit in share) if first_steps else (),
                self.state.rate_scale,
                output_path,
                local_weights,
            )
            for worker_id, share in enumerate(distribute_units(units, self.config.num_workers))
            if share
        ]
        merged = TaskReport()
        with self._watched(self._pool):
            outcomes = self._pool.run(tasks)
            for outcome in outcomes:
                merged.merge(outcome.result())
        return merged, outcomes

    def pushes_done(self) -> int:
        """Batches pushed since the servers started. Thread-safe.

        Every batch pushes to the server that holds a dense weight, so the most that one server has
        received is the number of batches, for a model whose weights fill fewer chunks than that.
        """
        servers = self.main_client.get_cluster_stats()["servers"]
        counts = (server["latency_ms"].get("push", {}).get("count", 0) for server in servers)
        return max(counts, default=0)

    # ---- dense weights
    def _names(self) -> list[str]:
        return [*self.wrapper.get_trainable_names(), *self.wrapper.get_moving_names()]

    def fetch_weights(self) -> None:
        """Gives the driver's model the servers' weights of now."""
        _, weights = self.main_client.worker_client().pull({}, self._names())
        self.wrapper.set_weights(weights)

    def store_weights(self, names: Sequence[str]) -> None:
        """Gives the servers these weights of the driver's model; their optimizer starts fresh."""
        values = self.wrapper.get_weights()
        known = set(self._names())
        self.main_client.worker_client().assign_weights(
            {name: values[name] for name in names if name in known}
        )

    # ---- rows
    def decay(self) -> None:
        """Ages the rows as configured."""
        config = self.config
        if config.decay_after_each_day:
            self.main_client.decay_embeddings(
                method=config.decay_method,
                factor=config.decay_factor,
                min_count=config.prune_threshold,
            )
        self.state.decay_due = False

    def table_rows(self) -> dict[str, int]:
        """Rows on the servers by table of the trainer."""
        rows = dict.fromkeys(self.config.feature_config.get_tables(), 0)
        for server in self.main_client.get_cluster_stats()["servers"]:
            for name in rows:
                rows[name] += server["tables"].get(name, {}).get("rows", 0)
        return rows
