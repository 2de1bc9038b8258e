"""What the process around a server does for checkpoints: the jobs that the driver gives it.

A job is a JSON object with a `kind`:

- save: writes this server's rows, dense chunks and push ledger with a `PartWriter`.
- prepare: builds what this server shall hold of a checkpoint, beside what it serves.
- commit: puts a prepared load in place of what is served; abort: drops it.

Jobs run one after the other. Data goes from the core to the storage and back as Arrow record
batches; nothing of it passes through the driver.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pyspark_ps import _core
from pyspark_ps.errors import ClosedError, DataCorruptionError, InvalidArgumentError, PSError
from pyspark_ps.server.free_memory import check_memory

if TYPE_CHECKING:
    import pyarrow as pa

    from pyspark_ps.storage import FileRecord, Location, Manifest, PartWriter

TAKE_SECONDS = 1.0
REPORT_SECONDS = 0.2
# Threads that put loaded rows into their places; those of one shard wait for each other. More than
# there may be cores: one that waits for memory from a virtual machine's host leaves its core.
ROW_TAKERS = 4
# Steps of niceness by which saving gives way to serving; loading is waited for.
SAVE_NICENESS = 10

Task = dict[str, Any]
Report = Callable[[dict[str, Any]], None]

_logger = logging.getLogger("pyspark_ps.server")


class CheckpointJobs:
    """Takes and runs the jobs of one server, on a thread of its own.

    Args:
        core: of the server.
        server_id: its number.
    """

    def __init__(self, core: _core.Checkpoints, server_id: int) -> None:
        self._core = core
        self._server_id = server_id
        self._ending = threading.Event()
        self._prepared: tuple[str, _core.Load] | None = None
        self._kinds: dict[str, Callable[[Task, Report], dict[str, Any]]] = {
            "save": self._save,
            "prepare": self._prepare,
            "commit": self._commit,
            "abort": self._abort,
        }
        self._thread = threading.Thread(target=self._run, name="ps-checkpoints", daemon=True)
        self._thread.start()

    def end(self, wait_seconds: float) -> bool:
        """Begins no further job and waits for the one under way, which sees that the server has
        ended; False when it has not taken notice in time."""
        self._ending.set()
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._ending.is_set():
            job = self._core.take(TAKE_SECONDS)
            if job is None:
                continue
            # A thread of its own: its niceness ends with it.
            worker = threading.Thread(target=self._do, args=job, name="ps-job", daemon=True)
            worker.start()
            worker.join()

    def _do(self, name: str, task_json: str) -> None:
        try:
            task = json.loads(task_json)
            result = self._kinds[task["kind"]](task, lambda done: self._report(name, done))
        except PSError as error:
            _logger.warning("checkpoint job %s failed: %s", name, error)
            self._core.fail(name, type(error).__name__, str(error))
        except OSError as error:
            self._core.fail(name, "StorageError", str(error))
        except Exception as error:
            _logger.exception("checkpoint job %s failed", name)
            self._core.fail(name, "PSError", f"{type(error).__name__}: {error}")
        else:
            self._core.finish(name, json.dumps(result))

    def _report(self, name: str, done: dict[str, Any]) -> None:
        if not self._core.report(name, json.dumps(done)):
            raise ClosedError(f"checkpoint job {name} was cancelled")

    # --- saving

    def _save(self, task: Task, report: Report) -> dict[str, Any]:
        from pyspark_ps.storage import PartWriter, SaveTarget

        _give_way(SAVE_NICENESS)
        writer = PartWriter(SaveTarget.from_dict(task["target"]), self._server_id)
        return _watched(
            lambda: self._write(writer, task),
            lambda: report({"rows": writer.rows_written, "bytes": writer.bytes_written}),
            writer.cancel,
        )

    def _write(self, writer: PartWriter, task: Task) -> dict[str, Any]:
        definition = json.loads(self._core.definition())
        states = bool(task["states"])
        files: list[FileRecord] = []
        weights: dict[str, dict[str, int]] = {}
        if task["embeddings"]:
            partitions = len(definition["map"]["owner"])
            for table in _living(definition["tables"]):
                stream = self._core.rows(table["name"], 0, partitions, states)
                files += writer.write_embeddings(table["name"], _reader(stream))
        if task["model"]:
            files += writer.write_weights(_counted(_reader(self._core.weights(states)), weights))
        if task["embeddings"] and task["model"]:
            files += writer.write_ledger(_reader(self._core.ledger()))
        return {"files": [file.to_dict() for file in files], "weights": weights}

    # --- loading

    def _prepare(self, task: Task, report: Report) -> dict[str, Any]:
        from pyspark_ps.storage import Location, read_manifest

        self._prepared = None
        location = Location.from_dict(task["location"])
        manifest = read_manifest(location, task["id"])
        definition = json.loads(self._core.definition())
        mine = _partitions_of(self._server_id, definition["map"]["owner"])
        check_memory(task["plan"], manifest, len(mine) / len(definition["map"]["owner"]), task)
        load = self._core.load(json.dumps(task["plan"]))
        done = {"rows": 0}
        result = _watched(
            lambda: self._read(load, location, manifest, task["plan"], definition, done),
            lambda: report(dict(done)),
            lambda: done.update(cancelled=True),
        )
        self._prepared = (str(task["load"]), load)
        return result

    def _read(
        self,
        load: _core.Load,
        location: Location,
        manifest: Manifest,
        plan: dict[str, Any],
        definition: dict[str, Any],
        done: dict[str, Any],
    ) -> dict[str, Any]:
        from pyspark_ps.storage import read_embeddings, read_ledger, read_weights

        owners = definition["map"]["owner"]
        mine = _partitions_of(self._server_id, owners)
        there = sorted({_same_place(p, len(owners), manifest.partition_count) for p in mine})
        rows = {}
        if plan["rows"]:
            for table in manifest.tables:
                reader = read_embeddings(
                    location, manifest, table.name, there, states=plan["states"]
                )
                take = lambda stream, name=table.name: load.add_rows(name, stream)  # noqa: E731
                rows[table.name] = _Feed(reader, done).run(take, ROW_TAKERS)
        chunks = 0
        if plan["weights"]:
            reader = read_weights(location, manifest)
            if manifest.files_of("weights"):
                chunks = _Feed(reader, done).run(load.add_weights)
            load.check_complete()
        if plan["ledger"]:
            writers = _owners_then(manifest, there)
            kept = [f for f in manifest.files if f.kind != "ledger" or f.server in writers]
            manifest = dataclasses.replace(manifest, files=tuple(kept))
            if manifest.files_of("ledger"):
                _Feed(read_ledger(location, manifest), done).run(load.add_ledger)
        return {"rows": rows, "chunks": chunks}

    def _commit(self, task: Task, report: Report) -> dict[str, Any]:
        if self._prepared is None or self._prepared[0] != task["load"]:
            raise InvalidArgumentError(f"load {task['load']} is not prepared on this server")
        self._prepared[1].commit()
        self._prepared = None
        return {}

    def _abort(self, task: Task, report: Report) -> dict[str, Any]:
        self._prepared = None
        return {}


def _give_way(steps: int) -> None:
    """Lowers the priority of this thread and of those that it starts; for good, on Linux."""
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, now + steps))


def _watched(
    work: Callable[[], dict[str, Any]], report: Callable[[], None], cancel: Callable[[], None]
) -> dict[str, Any]:
    """The result of `work`, done by another thread while this one reports; `cancel` makes it end
    early when `report` raises."""
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ps-job") as pool:
        future = pool.submit(work)
        try:
            while not concurrent.futures.wait([future], REPORT_SECONDS).done:
                report()
        except BaseException:
            cancel()
            raise
        return future.result()


def _reader(stream: _core.RecordStream) -> pa.RecordBatchReader:
    import pyarrow as pa

    return pa.RecordBatchReader.from_stream(stream)


def _counted(
    reader: pa.RecordBatchReader, weights: dict[str, dict[str, int]]
) -> pa.RecordBatchReader:
    """Passes batches of dense chunks on, counting chunks and bytes of state of each tensor."""
    import pyarrow as pa
    import pyarrow.compute as pc

    state_columns = reader.schema.names[reader.schema.names.index("version") + 1 :]

    def count() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            floats = [pc.list_value_length(batch.column(name)) for name in state_columns]
            for row, name in enumerate(batch.column("name").to_pylist()):
                counts = weights.setdefault(name, {"chunks": 0, "state_bytes": 0})
                counts["chunks"] += 1
                counts["state_bytes"] += 4 * sum(column[row].as_py() for column in floats)
            yield batch

    return pa.RecordBatchReader.from_batches(reader.schema, count())


class _Feed:
    """Batches of one reader for several takers, with what became of them.

    Args:
        reader: of the batches.
        done: `rows` grows with what is taken; `cancelled` ends it with ClosedError.
    """

    def __init__(self, reader: pa.RecordBatchReader, done: dict[str, Any]) -> None:
        self._reader = reader
        self._done = done
        self._lock = threading.Lock()
        self._error: Exception | None = None

    def run(self, take: Callable[[Any], int], takers: int = 1) -> int:
        """The sum of what `take` makes of the batches in several threads. An error of the reader
        keeps its class on the way; any error ends all of them."""
        with concurrent.futures.ThreadPoolExecutor(takers, thread_name_prefix="ps-take") as pool:
            parts = [pool.submit(self._take, take) for _ in range(takers)]
        if self._error is not None:
            raise self._error
        return sum(part.result() for part in parts)

    def _take(self, take: Callable[[Any], int]) -> int:
        import pyarrow as pa

        try:
            return take(pa.RecordBatchReader.from_batches(self._reader.schema, self._batches()))
        except Exception as error:
            self._fail(error)
            return 0

    def _batches(self) -> Iterator[pa.RecordBatch]:
        while (batch := self._next()) is not None:
            yield batch

    def _next(self) -> pa.RecordBatch | None:
        import pyarrow as pa

        with self._lock:
            if self._error is not None:
                return None
            try:
                if self._done.get("cancelled"):
                    raise ClosedError("the load was cancelled")
                batch = next(self._reader, None)
            except PSError as error:
                self._error = error
                raise
            except (pa.ArrowException, OSError) as error:
                self._error = DataCorruptionError(str(error))
                raise
            if batch is not None:
                self._done["rows"] += batch.num_rows
            return batch

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._error = self._error or error


def _living(definitions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [definition for definition in definitions if not definition.get("dropped")]


def _partitions_of(server: int, owners: list[int]) -> list[int]:
    return [partition for partition, owner in enumerate(owners) if owner == server]


def _same_place(partition: int, count: int, other_count: int) -> int:
    """A partition's place among another number of partitions: both are top bits of a hash.

    Raises:
        InvalidArgumentError: the checkpoint has more partitions, which do not nest in fewer.
    """
    if other_count > count:
        raise InvalidArgumentError(
            f"the checkpoint has {other_count} partitions, this cluster {count}: it loads what has "
            "as many or fewer"
        )
    return partition * other_count // count


def _owners_then(manifest: Manifest, partitions: list[int]) -> set[int]:
    """The servers that held these partitions when the checkpoint was saved."""
    nodes = int(manifest.config.get("virtual_nodes_per_server", 150))
    owners = _core.partition_owners(manifest.servers, nodes, manifest.partition_count)
    return {int(owners[partition]) for partition in partitions}
