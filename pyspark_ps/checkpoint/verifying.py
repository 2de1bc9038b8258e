"""Proving a checkpoint whole: every file, every checksum, every row count."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pyspark_ps.errors import DataCorruptionError, NotFoundError
from pyspark_ps.storage.checksum import RunningChecksum
from pyspark_ps.storage.format import EMBEDDINGS, FileRecord, Manifest
from pyspark_ps.storage.location import Location
from pyspark_ps.storage.reader import embeddings_schema
from pyspark_ps.storage.verified_file import VerifiedFile

FILES_AT_ONCE = 4
PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file."""

    path: str
    reason: str


def verify(
    location: Location, manifest: Manifest, on_file: Callable[[FileRecord], None] = lambda _: None
) -> list[Problem]:
    """Every problem of a checkpoint; empty = whole.

    Reads all bytes, a few row groups at a time in memory.

    Raises:
        StorageError: the place cannot be read.
    """

    def check(record: FileRecord) -> list[Problem]:
        try:
            _check_file(location, manifest, record)
        except (DataCorruptionError, NotFoundError) as error:
            return [Problem(record.path, str(error))]
        finally:
            on_file(record)
        return []

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return [problem for found in pool.map(check, manifest.files) for problem in found]


def _check_file(location: Location, manifest: Manifest, record: FileRecord) -> None:
    _check_bytes(location, record)
    if not record.footer_bytes:
        return
    file = VerifiedFile(location, record)
    rows = 0
    last = -1
    table = manifest.table(record.table)
    for group in file.row_groups:
        content = file.read(group)
        rows += content.num_rows
        if record.kind != EMBEDDINGS or table is None:
            continue
        expected = embeddings_schema(table.dim, table.state_columns)
        if content.schema != expected:
            raise file.damaged(f"its columns are {content.schema}, the manifest says {expected}")
        partitions = np.concatenate([[last], content.column("partition").to_numpy()])
        if (np.diff(partitions) < 0).any() or partitions[-1] >= manifest.partition_count:
            raise file.damaged(f"row group {group.number} is not sorted by partition")
        last = int(partitions[-1])
    if rows != record.rows:
        raise file.damaged(f"it has {rows} rows, the manifest says {record.rows}")
    file.close()


def _check_bytes(location: Location, record: FileRecord) -> None:
    place = f"{location}/{record.path}"
    try:
        file = location.open_input(record.path)
    except NotFoundError:
        raise NotFoundError("it is missing") from None
    with file, location.errors("read", record.path):
        if file.size() != record.bytes:
            raise DataCorruptionError(
                f"it has {file.size()} bytes, the manifest says {record.bytes}"
            )
        running = RunningChecksum()
        for begin in range(0, record.bytes, PIECE_BYTES):
            running.update(file.read_at(min(PIECE_BYTES, record.bytes - begin), begin))
    if running.text() != record.checksum:
        raise DataCorruptionError(f"the checksum of {place} does not agree")
