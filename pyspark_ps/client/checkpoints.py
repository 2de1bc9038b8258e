"""Saving and loading a running cluster: the driver's part.

Rows and weights go between servers and storage; through here go only the records of files.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyspark_ps import _core
from pyspark_ps.client.checkpoint_fit import load_plan
from pyspark_ps.client.definition import Definition
from pyspark_ps.client.progress import Progress
from pyspark_ps.client.server_jobs import run_on_all
from pyspark_ps.communication import CheckpointInfo, ServerInfo
from pyspark_ps.errors import DataCorruptionError, InvalidArgumentError, PSError
from pyspark_ps.utils.config import PSConfig
from pyspark_ps.utils.logging import get_logger

if TYPE_CHECKING:
    from pyspark import SparkContext

    from pyspark_ps.storage import (
        CheckpointManager,
        FileRecord,
        Manifest,
        Save,
        TableRecord,
        TensorRecord,
    )

_logger = get_logger(__name__)


class Checkpoints:
    """Saves and loads of one running cluster.

    Args:
        client: of the cluster.
        infos: its servers, by id.
        config: of the cluster.
        manager: knows the storage.
    """

    def __init__(
        self,
        client: _core.Client,
        infos: list[ServerInfo],
        config: PSConfig,
        manager: CheckpointManager,
    ) -> None:
        self._client = client
        self._infos = infos
        self._config = config
        self.manager = manager

    # --- saving

    def save(
        self,
        path: str,
        model: bool = True,
        embeddings: bool = True,
        states: bool = True,
        trainer: Mapping[str, Any] | None = None,
        trainer_files: Mapping[str, bytes] | None = None,
    ) -> CheckpointInfo:
        """Saves the cluster while it goes on serving.

        Args:
            model, embeddings, states: what is saved.
            trainer: JSON that the manifest keeps (`Manifest.trainer`).
            trainer_files: small files below `trainer/`, by name.

        Raises:
            InvalidArgumentError: nothing would be saved.
            StorageError: the place cannot be written.
            PSConnectionError: a server that does not answer any more.

        Whatever is raised, a checkpoint that lay there before still does.
        """
        from pyspark_ps.storage import PartWriter, checkpoint_info

        if not (model or embeddings):
            raise InvalidArgumentError(
                "a checkpoint without model and without embeddings would hold nothing: save one"
            )
        save = self.manager.begin(path)
        try:
            writer = PartWriter(save.target, -1)
            own = [writer.write_file(n, data) for n, data in (trainer_files or {}).items()]
            task = {
                "kind": "save",
                "target": save.target.to_dict(),
                "model": model,
                "embeddings": embeddings,
                "states": states,
            }
            with Progress(f"saving {save.target.location}", self._rows()) as progress:
                results = run_on_all(self._client, [task] * len(self._infos), progress)
            manifest = self._manifest(save, task, results, own, dict(trainer or {}))
            save.commit(manifest)
        except BaseException:
            _abandon(save)
            raise
        return checkpoint_info(save.target.location, manifest)

    def _manifest(
        self,
        save: Save,
        task: Mapping[str, Any],
        results: list[dict[str, Any]],
        own_files: list[FileRecord],
        trainer: dict[str, Any],
    ) -> Manifest:
        from pyspark_ps.storage import FileRecord, Manifest, utc_now

        self._client.refresh()
        definition = Definition.parse(self._client.definition())
        files = [FileRecord.from_dict(f) for result in results for f in result["files"]]
        rows = Counter[str]()
        for file in files:
            rows[file.table] += file.rows
        return Manifest(
            id=save.id,
            created=utc_now(),
            partition_count=definition.partition_count,
            seed=definition.seed,
            servers=len(self._infos),
            has_model=task["model"],
            has_embeddings=task["embeddings"],
            has_optimizer_states=task["states"],
            tables=_tables(definition, rows, task["states"]) if task["embeddings"] else (),
            tensors=_tensors(definition, _chunks(results)) if task["model"] else (),
            files=tuple(sorted([*files, *own_files], key=lambda file: file.path)),
            weight_optimizer=definition.weight_optimizer,
            config=self._config.to_dict(),
            trainer=trainer,
        )

    # --- loading

    def load(
        self, path: str, model: bool = True, embeddings: bool = True, states: bool = True
    ) -> CheckpointInfo:
        """Puts what a checkpoint holds in place of what the cluster holds; all or nothing.

        Raises:
            NotFoundError: there is no complete checkpoint, or it lacks a part asked for.
            ConfigurationError: a table that the config declares is another one there.
            DataCorruptionError: a file is missing, damaged or not what the manifest says.
            StorageError: the place cannot be read.
            ResourceExhaustedError: the servers have no room for it.
            PSConnectionError: a server that does not answer any more.

        Whatever is raised, the cluster holds what it held, but for a failure while the servers
        switch, after all of them have proved their part: that error says that they have parted.
        """
        from pyspark_ps.storage import checkpoint_info, read_manifest

        location = self.manager.location(path)
        manifest = read_manifest(location)
        self._client.refresh()
        definition = Definition.parse(self._client.definition())
        plan = load_plan(
            manifest, definition, self._config, str(location), model, embeddings, states
        )
        load = secrets.token_hex(8)
        hosts = Counter(info.host for info in self._infos)
        tasks = [
            {
                "kind": "prepare",
                "load": load,
                "location": location.to_dict(),
                "id": manifest.id,
                "plan": plan,
                "servers_on_host": hosts[info.host],
            }
            for info in self._infos
        ]
        try:
            with Progress(f"loading {location}", manifest.rows if embeddings else None) as progress:
                results = run_on_all(self._client, tasks, progress)
            _check_totals(manifest, results, str(location), embeddings)
            self._adopt(plan)
        except BaseException:
            self._drop(load)
            raise
        self._switch(load, str(location))
        self._client.refresh()
        return checkpoint_info(location, manifest)

    def _switch(self, load: str, place: str) -> None:
        """Every server serves what it has read; what fails here cannot be taken back."""
        try:
            run_on_all(self._client, [{"kind": "commit", "load": load}] * len(self._infos))
        except PSError as error:
            raise type(error)(
                f"{error}; this came while the servers switched to {place}: some serve what it "
                "holds, others what they held before. Load a checkpoint again before anything "
                "else, and where a server was lost, shut the servers down and start them before"
            ) from error

    def _adopt(self, plan: Mapping[str, Any]) -> None:
        """Makes the cluster's definition what was loaded."""
        parts = ("tables", "weights", "tensors", "weight_optimizer")
        request = {"op": "adopt", **{part: plan[part] for part in parts}}
        self._client.control_coordinator(json.dumps(request))

    def _drop(self, load: str) -> None:
        try:
            run_on_all(self._client, [{"kind": "abort", "load": load}] * len(self._infos))
        except PSError as error:
            _logger.warning("a server keeps what it had read of %s: %s", load, error)

    def _rows(self) -> int:
        """Rows of the cluster now."""
        replies = self._client.control_all(json.dumps({"op": "stats"}))
        return sum(int(json.loads(reply)["embeddings"]) for reply in replies)


def shutdown_path(config: PSConfig) -> str | None:
    """Where a cluster is saved when it is shut down; None = nowhere."""
    if not config.checkpoint_on_shutdown or not (config.checkpoint_path or config.s3_bucket):
        return None
    prefix = config.s3_checkpoint_prefix.strip("/")
    root = config.checkpoint_path or f"s3://{config.s3_bucket}/{prefix}"
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{root.rstrip('/')}/shutdown-{now:%Y%m%dT%H%M%SZ}"


def hadoop_settings(spark_context: SparkContext | None) -> dict[str, str]:
    """Spark's settings of S3 (`fs.s3a.*`)."""
    if spark_context is None:
        return {}
    jsc: Any = spark_context._jsc
    entries = jsc.hadoopConfiguration().getPropsWithPrefix("fs.s3a.")
    return {f"fs.s3a.{name}": str(entries.get(name)) for name in entries.keySet()}


def _abandon(save: Save) -> None:
    try:
        save.abandon()
    except PSError as error:
        _logger.warning("left-overs stay until the next save: %s", error)


def _tables(
    definition: Definition, rows: Mapping[str, int], states: bool
) -> tuple[TableRecord, ...]:
    from pyspark_ps.storage import TableRecord

    records = []
    for name, table in definition.tables.items():
        config = table.config()
        assert config.optimizer is not None
        optimizer = _core.Optimizer(config.optimizer, table.definition["optimizer"]["params"])
        records.append(
            TableRecord(
                name=name,
                dim=table.dim,
                optimizer=config.optimizer,
                optimizer_params=config.optimizer_params,
                init=str(config.init),
                init_scale=float(config.init_scale or 0.0),
                rows=rows.get(name, 0),
                state_columns=dict(optimizer.state_parts(table.dim)) if states else {},
            )
        )
    return tuple(records)


def _tensors(
    definition: Definition, chunks: Mapping[str, Mapping[str, int]]
) -> tuple[TensorRecord, ...]:
    """Those that have all their values; one that was defined a moment ago may lack some."""
    from pyspark_ps.storage import TensorRecord

    return tuple(
        TensorRecord(name, weight.shape, chunks[name]["state_bytes"])
        for name, weight in definition.weights.items()
        if name in chunks and chunks[name]["chunks"] == weight.chunks
    )


def _chunks(results: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Chunks and bytes of state of each dense tensor, over all servers."""
    total: dict[str, dict[str, int]] = {}
    for result in results:
        for name, counts in result["weights"].items():
            sums = total.setdefault(name, {"chunks": 0, "state_bytes": 0})
            for key, value in counts.items():
                sums[key] += value
    return total


def _check_totals(
    manifest: Manifest, results: list[dict[str, Any]], place: str, embeddings: bool
) -> None:
    """Every row must have found its server."""
    if not embeddings:
        return
    for table in manifest.tables:
        loaded = sum(int(result["rows"][table.name]) for result in results)
        if loaded != table.rows:
            raise DataCorruptionError(
                f"{place}: table {table.name!r} has {table.rows} rows by the manifest, its files "
                f"gave {loaded} that belong where they lie; load another checkpoint"
            )
