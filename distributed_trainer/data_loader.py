"""Finding a day's Parquet files and cutting them into units of work.

Any file system that `pyarrow.fs` knows: plain and mounted paths, `file://`, `s3://`, ...
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow.fs

    from pyspark_ps.utils.config import PSConfig

STRATEGIES = ("size_balanced", "count_balanced", "round_robin")


@dataclass(frozen=True)
class PartitionInfo:
    """One Parquet file.

    Attributes:
        path: as the loader takes it again (with the scheme it was asked for).
        size_bytes: of the file.
        num_rows: from its footer.
        metadata: "row_groups": list of [rows, compressed bytes].
    """

    path: str
    size_bytes: int
    num_rows: int
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FilePart:
    """Row groups of one file, in order. `row_groups` None = all of them."""

    path: str
    size_bytes: int
    num_rows: int
    row_groups: tuple[int, ...] | None = None


@dataclass(frozen=True)
class UnitOfWork:
    """What one push stream covers: parts of files that are read and shuffled together.

    `id` is unique within the day and says what the unit covers, so another division has other ids.
    """

    id: str
    parts: tuple[FilePart, ...]
    size_bytes: int
    num_rows: int


class S3ParquetDataLoader:
    """Discovers Parquet files and distributes them to workers.

    Args:
        s3_config: how to reach S3: None (environment), a PSConfig, or a dict of endpoint_url,
            region, access_key, secret_key.
    """

    def __init__(self, s3_config: PSConfig | Mapping[str, Any] | None = None) -> None:
        raise NotImplementedError

    def discover_partitions(
        self, path: str, file_pattern: str = "*.parquet"
    ) -> list[PartitionInfo]:
        """Files below `path` (or `path` itself), recursively, sorted by path.

        Names that start with `_` or `.` are left out, folders too. A folder that does not exist
        yields nothing.

        Raises:
            StorageError: a place that cannot be read (no permission, no bucket).
            DataCorruptionError: a file that is no Parquet.
        """
        raise NotImplementedError

    def distribute_partitions(
        self,
        partitions: Sequence[PartitionInfo],
        num_workers: int,
        strategy: str = "size_balanced",
    ) -> dict[int, list[str]]:
        """worker id (each of 0..num_workers-1) -> paths."""
        raise NotImplementedError


def filesystem_for(
    path: str, s3_config: PSConfig | Mapping[str, Any] | None = None
) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a path or URL, and the path inside it."""
    raise NotImplementedError


def units_of_work(partitions: Sequence[PartitionInfo], batch_size: int) -> list[UnitOfWork]:
    """Divides a day's files: small files are joined, large ones are cut by row groups.

    Depends on the files and the batch size alone, not on the number of workers.
    """
    raise NotImplementedError


def distribute_units(units: Sequence[UnitOfWork], num_workers: int) -> list[list[UnitOfWork]]:
    """Balances units over workers by size; index = worker id."""
    raise NotImplementedError


def parse_date_range(
    start: str | datetime.date, end: str | datetime.date, fmt: str = "%Y-%m-%d"
) -> list[str]:
    """Each day from start to end, both included, as `fmt` writes it.

    Raises:
        InvalidArgumentError: (a ValueError) no date of that format, or end before start.
    """
    raise NotImplementedError


def format_date_path(template: str, date: str | datetime.date) -> str:
    """`template` with every `{date}` replaced. A date object is written as YYYY-MM-DD."""
    raise NotImplementedError
