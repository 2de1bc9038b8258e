"""Reading a checkpoint's parts back as Arrow streams, proved on the way."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from pyspark_ps.errors import DataCorruptionError, InvalidArgumentError, NotFoundError
from pyspark_ps.storage.checksum import checksum
from pyspark_ps.storage.format import EMBEDDINGS, LEDGER, WEIGHTS, FileRecord, Manifest
from pyspark_ps.storage.location import Location
from pyspark_ps.storage.verified_file import RowGroup, VerifiedFile

THREADS = 4
ROW_GROUPS_AHEAD = 8  # read and decoded before they are asked for


def read_embeddings(
    location: Location,
    manifest: Manifest,
    table: str,
    partitions: Iterable[int] | None = None,
    *,
    states: bool = True,
    verify: bool = True,
) -> pa.RecordBatchReader:
    """Rows of a table that lie in some partitions; only their row groups are read.

    Args:
        partitions: numbers below `manifest.partition_count`; None = all.
        states: False leaves the state columns out (their bytes are read all the same, to be
            proved).
        verify: False trusts the bytes.

    Returns:
        Batches of at most one row group (8 MiB), a few at a time in memory. Within a file rows come
        sorted by partition; files come one after the other.

    Raises:
        NotFoundError: the checkpoint has no such table.
        InvalidArgumentError: a partition out of range.
        NotFoundError, DataCorruptionError, StorageError: (also while reading) a file is missing,
            damaged or cannot be read; names file and reason.
    """
    record = manifest.table(table)
    if record is None:
        known = ", ".join(repr(other.name) for other in manifest.tables) or "none"
        raise NotFoundError(f"{location} has no table {table!r}; it has {known}")
    wanted = _wanted(partitions, manifest.partition_count)
    files = [
        file
        for file in manifest.files_of(EMBEDDINGS, table)
        if file.rows and wanted[file.partitions[0] : file.partitions[1] + 1].any()
    ]
    schema = embeddings_schema(record.dim, record.state_columns if states else {})
    return _stream(location, files, wanted, schema, verify)


def embeddings_schema(dim: int, state_columns: dict[str, int]) -> pa.Schema:
    """Columns of the files of a table. `state_columns`: floats of each."""
    element = pa.field("element", pa.float32(), nullable=False)
    columns: list[tuple[str, Any]] = [
        ("key", pa.uint64()),
        ("partition", pa.int32()),
        ("count", pa.float32()),
        ("last_day", pa.int32()),
        ("vector", pa.list_(element, dim)),
    ]
    columns += [(name, pa.binary(4 * floats)) for name, floats in state_columns.items()]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def read_weights(
    location: Location, manifest: Manifest, *, verify: bool = True
) -> pa.RecordBatchReader:
    """Every chunk of every dense tensor, with the columns that were written.

    Raises:
        NotFoundError: the checkpoint was saved without them.
        NotFoundError, DataCorruptionError, StorageError: as `read_embeddings`.
    """
    if not manifest.has_model:
        raise NotFoundError(f"{location} was saved without dense weights (save_model=False)")
    return _stream(location, manifest.files_of(WEIGHTS), None, None, verify)


def read_ledger(
    location: Location, manifest: Manifest, *, verify: bool = True
) -> pa.RecordBatchReader:
    """The push ledgers of all servers, with the columns that were written; errors as others."""
    return _stream(location, manifest.files_of(LEDGER), None, None, verify)


def read_file(location: Location, manifest: Manifest, record: FileRecord) -> bytes:
    """A plain file (`trainer/`), proved by its checksum.

    Raises:
        NotFoundError, DataCorruptionError, StorageError: as `read_embeddings`.
    """
    place = f"{location}/{record.path}"
    try:
        data, _ = location.read(record.path)
    except NotFoundError:
        raise NotFoundError(f"{place} is missing, though the manifest names it") from None
    if len(data) != record.bytes:
        raise DataCorruptionError(
            f"{place} is damaged: it has {len(data)} bytes, the manifest says {record.bytes}"
        )
    if checksum(data) != record.checksum:
        raise DataCorruptionError(f"{place} is damaged: its checksum does not agree")
    return data


def _wanted(partitions: Iterable[int] | None, count: int) -> Any:
    if partitions is None:
        return np.ones(count, bool)
    numbers = np.asarray(list(partitions), np.int64)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < count):
        raise InvalidArgumentError(
            f"partitions {numbers.min()} to {numbers.max()}: allowed is 0 to {count - 1}"
        )
    wanted = np.zeros(count, bool)
    wanted[numbers] = True
    return wanted


def _stream(
    location: Location,
    records: list[FileRecord],
    wanted: Any,
    schema: pa.Schema | None,
    verify: bool,
) -> pa.RecordBatchReader:
    """Batches of the files' row groups; the first file is opened at once, for its schema."""
    files = (VerifiedFile(location, record, verify) for record in records)
    first = next(files, None)
    if first is None:
        return pa.RecordBatchReader.from_batches(schema or pa.schema([]), iter(()))
    found = schema or first.schema

    def every_file() -> Iterator[VerifiedFile]:
        yield first
        yield from files

    return pa.RecordBatchReader.from_batches(found, _batches(every_file(), wanted, found))


def _batches(
    files: Iterator[VerifiedFile], wanted: Any, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Reads ahead with a few threads; gives batches in the files' order."""
    waiting: collections.deque[tuple[Future[pa.Table], VerifiedFile, RowGroup]]
    waiting = collections.deque()

    def next_rows() -> Iterator[pa.RecordBatch]:
        rows, file, group = waiting.popleft()
        batches = rows.result().to_batches()
        file.passed(group)
        yield from batches

    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ps-load")
    try:
        for file in files:
            for group in file.row_groups:
                if wanted is None or wanted[group.first_partition : group.last_partition + 1].any():
                    rows = pool.submit(_rows, file, group, wanted, schema)
                    waiting.append((rows, file, group))
                while len(waiting) > ROW_GROUPS_AHEAD:
                    yield from next_rows()
        while waiting:
            yield from next_rows()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _rows(file: VerifiedFile, group: RowGroup, wanted: Any, schema: pa.Schema) -> pa.Table:
    if not set(schema.names) <= set(file.schema.names):
        raise file.damaged(f"its columns are {file.schema.names}, expected are {schema.names}")
    rows = file.read(group, schema.names).select(schema.names)
    if rows.schema != schema:
        raise file.damaged(f"its columns are {rows.schema}, expected are {schema}")
    if wanted is None or wanted[group.first_partition : group.last_partition + 1].all():
        return rows
    return rows.filter(pa.array(wanted[rows.column("partition").to_numpy()]))
