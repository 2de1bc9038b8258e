"""What one process adds to a save: its rows, its dense tensors, its ledger, plain files.

Data comes as Arrow streams and leaves as Parquet, a few row groups in memory at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pyspark_ps.errors import ClosedError, InvalidArgumentError
from pyspark_ps.storage import layout
from pyspark_ps.storage.checksum import checksum
from pyspark_ps.storage.format import EMBEDDINGS, LEDGER, TRAINER, WEIGHTS, FileRecord
from pyspark_ps.storage.location import Location
from pyspark_ps.storage.parquet_file import ParquetFileWriter

# A row group takes whole partitions until it has the least size, and is cut at the largest. So a
# loading server, whose partitions are scattered, reads little that is not its own, and a small
# table does not become thousands of groups.
ROW_GROUP_BYTES_MIN = 512 << 10
ROW_GROUP_BYTES_MAX = 8 << 20
FILE_BYTES_MAX = 512 << 20
FILES_AT_ONCE = 2

_FIXED_COLUMNS = {
    "key": pa.uint64(),
    "partition": pa.int32(),
    "count": pa.float32(),
    "last_day": pa.int32(),
}


@dataclass(frozen=True)
class SaveTarget:
    """What a process needs to know to take part in a save. `to_dict` is JSON.

    Attributes:
        location: of the checkpoint.
        id: of the save.
        compression: of Parquet files.
    """

    location: Location
    id: str
    compression: str = "zstd"

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold, credentials included: for authenticated channels only."""
        return {
            "location": self.location.to_dict(),
            "id": self.id,
            "compression": self.compression,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SaveTarget:
        """The inverse of `to_dict`."""
        return cls(Location.from_dict(values["location"]), values["id"], values["compression"])


class PartWriter:
    """Writes files of one save. Safe to call from several threads.

    What it writes belongs to no checkpoint before a manifest names it. A call that raises has
    removed its unfinished files; finished ones are left-overs, which the next save removes.

    Args:
        target: from `Save.target`.
        server: id of this server; -1 for the driver.
    """

    def __init__(self, target: SaveTarget, server: int) -> None:
        self._target = target
        self._server = server
        self._lock = threading.Lock()
        self._numbers: dict[tuple[str, str], int] = {}
        self._cancelled = threading.Event()
        self._rows = 0
        self._bytes = 0

    @property
    def rows_written(self) -> int:
        """Rows of all kinds so far; any thread may look."""
        return self._rows

    @property
    def bytes_written(self) -> int:
        """Bytes of their columns in memory so far, before compression; any thread may look."""
        return self._bytes

    def cancel(self) -> None:
        """Makes the calls under way, and later ones, end with ClosedError."""
        self._cancelled.set()

    def write_embeddings(self, table: str, reader: pa.RecordBatchReader) -> list[FileRecord]:
        """The rows of a table, as several files written at once.

        Args:
            reader: batches of any size, sorted by partition over the whole stream. Columns: key
                uint64, partition int32, count float32, last_day int32, vector
                FixedSizeList<float32>[dim], then any state columns, each FixedSizeBinary of 4 bytes
                per float (little-endian float32). No nulls.

        Returns:
            What the manifest says of the files; empty for a stream without rows.

        Raises:
            InvalidArgumentError: another schema, or rows out of order.
            StorageError: the place cannot be written.
            ClosedError: `cancel` was called.
        """
        _check_embeddings(reader.schema)
        start = FileRecord("", EMBEDDINGS, 0, "", table=table, server=self._server)
        return self._write_stream(reader, start, sorted_by_partition=True)

    def write_weights(self, reader: pa.RecordBatchReader) -> list[FileRecord]:
        """Chunks of dense tensors.

        Args:
            reader: columns name string, shape List<int64>, offset int64 (where the chunk begins in
                the tensor's row-major order, in floats), values List<float32>; then any others,
                such as version and, per state part, List<float32>.

        Returns, Raises: as `write_embeddings`.
        """
        missing = {"name", "shape", "offset", "values"} - set(reader.schema.names)
        if missing:
            raise InvalidArgumentError(f"weights have no column {', '.join(sorted(missing))}")
        start = FileRecord("", WEIGHTS, 0, "", server=self._server)
        return self._write_stream(reader, start)

    def write_ledger(self, reader: pa.RecordBatchReader) -> list[FileRecord]:
        """The push ledger, in whatever columns the servers use.

        Returns, Raises: as `write_embeddings`.
        """
        return self._write_stream(reader, FileRecord("", LEDGER, 0, "", server=self._server))

    def write_file(self, name: str, data: bytes) -> FileRecord:
        """A small plain file of the trainer's (`trainer/`).

        Args:
            name: relative, with "/".
        """
        path = layout.trainer_path(self._target.id, name)
        self._target.location.put(path, data)
        return FileRecord(path, TRAINER, len(data), checksum(data), server=self._server)

    def _write_stream(
        self, reader: pa.RecordBatchReader, start: FileRecord, sorted_by_partition: bool = False
    ) -> list[FileRecord]:
        schema = _without_nulls(reader.schema)
        groups = _Groups(_row_groups(reader, schema, sorted_by_partition))
        workers = FILES_AT_ONCE if sorted_by_partition else 1
        with ThreadPoolExecutor(workers, thread_name_prefix="ps-save") as pool:
            parts = [pool.submit(self._write_files, groups, schema, start) for _ in range(workers)]
        records = [record for part in parts for record in part.result()]
        return sorted(records, key=lambda record: record.path)

    def _write_files(
        self, groups: _Groups, schema: pa.Schema, start: FileRecord
    ) -> list[FileRecord]:
        """One thread's share: takes row groups in turn with the others, into files of its own."""
        records: list[FileRecord] = []
        file: ParquetFileWriter | None = None
        try:
            while (rows := groups.take()) is not None:
                if self._cancelled.is_set():
                    raise ClosedError("the save was cancelled")
                if file is None:
                    file = self._new_file(schema, start)
                file.write_row_group(rows)
                self._count(rows)
                if file.bytes >= FILE_BYTES_MAX:
                    records.append(file.close())
                    file = None
            if file is not None:
                records.append(file.close())
        except BaseException as error:
            groups.stop(error)
            if file is not None:
                file.abort()
            raise
        return records

    def _count(self, rows: pa.Table) -> None:
        with self._lock:
            self._rows += rows.num_rows
            self._bytes += rows.nbytes

    def _new_file(self, schema: pa.Schema, start: FileRecord) -> ParquetFileWriter:
        with self._lock:
            number = self._numbers.get((start.kind, start.table), 0)
            self._numbers[start.kind, start.table] = number + 1
        save_id = self._target.id
        if start.kind == EMBEDDINGS:
            path = layout.embeddings_path(start.table, save_id, self._server, number)
        else:
            path = layout.part_path(start.kind, save_id, self._server, number)
        record = FileRecord(path, start.kind, 0, "", table=start.table, server=self._server)
        return ParquetFileWriter(self._target.location, record, schema, self._target.compression)


class _Groups:
    """Row groups, handed out to several threads one by one."""

    def __init__(self, source: Iterator[pa.Table]) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def take(self) -> pa.Table | None:
        """The next row group; None after the last. Raises what another thread stopped for."""
        with self._lock:
            if self._error is not None:
                raise self._error
            return next(self._source, None)

    def stop(self, error: BaseException) -> None:
        """No more for anybody."""
        with self._lock:
            self._error = self._error or error


def _row_groups(
    reader: pa.RecordBatchReader, schema: pa.Schema, sorted_by_partition: bool
) -> Iterator[pa.Table]:
    """Joins and cuts batches into row groups; see the sizes at the head of this file."""
    held: list[pa.RecordBatch] = []
    held_rows = 0
    last = -1

    def group() -> pa.Table:
        nonlocal held, held_rows
        rows = pa.Table.from_batches(held, schema)
        held, held_rows = [], 0
        return rows

    def hold(batch: pa.RecordBatch) -> None:  # an empty one would make columns of two pieces
        nonlocal held_rows
        if batch.num_rows:
            held.append(batch)
            held_rows += batch.num_rows

    for incoming in reader:
        batch = _as_written(incoming, schema)
        total = batch.num_rows
        if not total:
            continue
        row_bytes = max(1, batch.nbytes // total)
        rows_min = ROW_GROUP_BYTES_MIN // row_bytes
        rows_max = max(1, ROW_GROUP_BYTES_MAX // row_bytes)
        starts: list[int] = []
        if sorted_by_partition:
            starts, last = _partition_starts(batch, last)
        begin = 0
        for at in [*starts, total]:
            while held_rows + at - begin > rows_max:
                end = begin + rows_max - held_rows
                hold(batch[begin:end])
                yield group()
                begin = end
            if at < total and held_rows + at - begin >= max(1, rows_min):
                hold(batch[begin:at])
                yield group()
                begin = at
        hold(batch[begin:])
    if held:
        yield group()


def _partition_starts(batch: pa.RecordBatch, last: int) -> tuple[list[int], int]:
    """Rows with which a partition begins, and the last partition. `last`: of the batch before."""
    partitions = batch.column("partition").to_numpy()
    starts = (np.flatnonzero(partitions[1:] != partitions[:-1]) + 1).tolist()
    if partitions[0] != last:
        starts.insert(0, 0)
    for at in starts:
        if partitions[at] < last:
            raise InvalidArgumentError(
                f"rows are not sorted by partition: {partitions[at]} follows {last}"
            )
        last = int(partitions[at])
    return starts, last


def _check_embeddings(schema: pa.Schema) -> None:
    expected = list(_FIXED_COLUMNS)
    if schema.names[: len(expected) + 1] != [*expected, "vector"]:
        raise InvalidArgumentError(
            f"embeddings have the columns {schema.names}; expected are {[*expected, 'vector']}, "
            "then state columns"
        )
    for name, kind in _FIXED_COLUMNS.items():
        if schema.field(name).type != kind:
            raise InvalidArgumentError(
                f"column {name!r} is {schema.field(name).type}; expected is {kind}"
            )
    vector = schema.field("vector").type
    if not pa.types.is_fixed_size_list(vector) or vector.value_type != pa.float32():
        raise InvalidArgumentError(f"column 'vector' is {vector}; expected is float32[dim]")
    for field in list(schema)[len(expected) + 1 :]:
        if not pa.types.is_fixed_size_binary(field.type) or field.type.byte_width % 4:
            raise InvalidArgumentError(
                f"state column {field.name!r} is {field.type}; expected is FixedSizeBinary of 4 "
                "bytes per float"
            )


def _without_nulls(schema: pa.Schema) -> pa.Schema:
    """The same columns, declared without nulls, which Parquet writes a quarter faster."""
    return pa.schema(
        [pa.field(f.name, _type_without_nulls(f.type), nullable=False) for f in schema]
    )


def _type_without_nulls(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field("element", kind.value_type, nullable=False), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(pa.field("element", kind.value_type, nullable=False))
    return kind


def _as_written(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for field, column in zip(schema, batch.columns, strict=True):
        if column.null_count or _has_nulls_inside(column):
            raise InvalidArgumentError(f"column {field.name!r} holds nulls; none are allowed")
        columns.append(column if column.type == field.type else column.cast(field.type))
    if batch.schema.equals(schema):
        return batch
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _has_nulls_inside(column: pa.Array) -> bool:
    if not pa.types.is_nested(column.type) or not column.values.null_count:
        return False
    return bool(column.flatten().null_count)  # of its own rows; `values` may hold others'
