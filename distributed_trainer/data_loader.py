"""Finding a day's Parquet files and cutting them into units of work.

Any file system that `pyarrow.fs` knows: plain and mounted paths, `file://`, `s3://`, ...
"""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyspark_ps.errors import (
    ConfigurationError,
    DataCorruptionError,
    InvalidArgumentError,
    StorageError,
)
from pyspark_ps.utils.validation import nearest_name

if TYPE_CHECKING:
    import pyarrow.fs

    from pyspark_ps.utils.config import PSConfig

STRATEGIES = ("size_balanced", "count_balanced", "round_robin")
UNIT_BATCHES_MIN = 16  # smaller files are joined up to this many batches
UNIT_BATCHES_CUT = 64  # larger files are cut, by row groups, into pieces of at least this many
UNIT_BYTES_CUT = 256 << 20  # or of at least this many bytes
FOOTER_THREADS_MAX = 16

_S3_KEYS = ("endpoint_url", "region", "access_key", "secret_key")


@dataclass(frozen=True)
class PartitionInfo:
    """One Parquet file.

    Attributes:
        path: as the loader takes it again (with the scheme it was asked for).
        size_bytes: of the file.
        num_rows: from its footer.
        metadata: "row_groups": list of [rows, uncompressed bytes].
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

    Raises:
        ConfigurationError: an unknown key in the dict.
    """

    def __init__(self, s3_config: PSConfig | Mapping[str, Any] | None = None) -> None:
        if isinstance(s3_config, Mapping):
            for key in s3_config:
                if key not in _S3_KEYS:
                    raise ConfigurationError(
                        f"s3_config has no key {key!r}{nearest_name(key, _S3_KEYS)}"
                    )
        self._s3_config = s3_config

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
        from pyarrow import fs as arrow_fs

        filesystem, root = filesystem_for(path, self._s3_config)
        prefix = _prefix_of(path, root)
        try:
            info = filesystem.get_file_info(root)
            if info.type == arrow_fs.FileType.NotFound:
                return []
            if info.type == arrow_fs.FileType.File:
                found = [info]
            else:
                selector = arrow_fs.FileSelector(root, recursive=True, allow_not_found=True)
                found = [
                    entry
                    for entry in filesystem.get_file_info(selector)
                    if entry.type == arrow_fs.FileType.File
                    and not _is_hidden(entry.path[len(root) :])
                    and fnmatch.fnmatchcase(entry.base_name, file_pattern)
                ]
        except OSError as error:
            raise StorageError(f"cannot list {path!r}: {error}") from error
        found.sort(key=lambda entry: entry.path)
        read = _FooterReader(filesystem, prefix)
        if len(found) < 4:
            return [read(entry) for entry in found]
        with ThreadPoolExecutor(min(FOOTER_THREADS_MAX, len(found))) as pool:
            return list(pool.map(read, found))

    def check_template(self, template: str) -> None:
        """Refuses a template whose folder before the first `{date}` does not exist.

        Raises:
            StorageError: the folder (or bucket) is missing or cannot be read.
        """
        from pyarrow import fs as arrow_fs

        folder = template.split("{date}")[0]
        folder = folder[: folder.rfind("/") + 1]
        if not folder:
            return
        filesystem, root = filesystem_for(folder, self._s3_config)
        try:
            info = filesystem.get_file_info(root)
        except OSError as error:
            raise StorageError(f"cannot read {folder!r} of {template!r}: {error}") from error
        if info.type != arrow_fs.FileType.Directory:
            raise StorageError(
                f"there is no folder {folder!r}: s3_data_path_template = {template!r}"
            )

    def distribute_partitions(
        self,
        partitions: Sequence[PartitionInfo],
        num_workers: int,
        strategy: str = "size_balanced",
    ) -> dict[int, list[str]]:
        """worker id (each of 0..num_workers-1) -> paths.

        Args:
            strategy: "size_balanced" (bytes), "count_balanced" (the numbers of files differ by at
                most one, rows are balanced as far as that allows), "round_robin" (in order).

        Raises:
            InvalidArgumentError: fewer than one worker, or an unknown strategy.
        """
        if num_workers < 1:
            raise InvalidArgumentError(f"num_workers = {num_workers!r}: allowed is >= 1")
        if strategy not in STRATEGIES:
            raise InvalidArgumentError(
                f"strategy = {strategy!r}: allowed is one of {', '.join(STRATEGIES)}"
            )
        ordered = sorted(partitions, key=lambda part: part.path)
        if strategy == "round_robin":
            return {
                worker: [part.path for part in ordered[worker::num_workers]]
                for worker in range(num_workers)
            }
        costs: list[tuple[int, ...]]
        if strategy == "size_balanced":
            costs = [(part.size_bytes,) for part in ordered]
        else:
            costs = [(1, part.num_rows) for part in ordered]
        shares = _balance(costs, num_workers)
        return {
            worker: [ordered[index].path for index in share] for worker, share in enumerate(shares)
        }


class _FooterReader:
    def __init__(self, filesystem: pyarrow.fs.FileSystem, prefix: str) -> None:
        self._filesystem = filesystem
        self._prefix = prefix

    def __call__(self, info: pyarrow.fs.FileInfo) -> PartitionInfo:
        import pyarrow.parquet as pq

        path = self._prefix + info.path
        with parquet_errors(path):
            footer = pq.read_metadata(info.path, filesystem=self._filesystem)
            groups = [
                [footer.row_group(i).num_rows, footer.row_group(i).total_byte_size]
                for i in range(footer.num_row_groups)
            ]
        return PartitionInfo(path, info.size, footer.num_rows, {"row_groups": groups})


class parquet_errors:
    """Turns what pyarrow raises while reading a file into StorageError or DataCorruptionError."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow as pa

        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(f"cannot read {self._path!r}: {error}") from error
        if isinstance(error, (OSError, pa.ArrowException)):
            raise DataCorruptionError(
                f"{self._path!r} is damaged or no Parquet file: {error}"
            ) from error


def _is_hidden(relative_path: str) -> bool:
    return any(name[:1] in ("_", ".") for name in relative_path.split("/") if name)


def _prefix_of(path: str, inner: str) -> str:
    """What stands before the file system's own path in a URL; nothing for local paths."""
    scheme, separator, _ = path.partition("://")
    if not separator or scheme == "file":
        return ""
    trimmed = path.rstrip("/")
    inner = inner.rstrip("/")
    if not trimmed.endswith(inner):
        raise InvalidArgumentError(f"{path!r}: write it without percent-encoding")
    return trimmed[: len(trimmed) - len(inner)]


def filesystem_for(
    path: str, s3_config: PSConfig | Mapping[str, Any] | None = None
) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a path or URL, and the path inside it.

    Raises:
        InvalidArgumentError: an empty path, or a scheme that pyarrow does not know.
        StorageError: the place cannot be reached.
    """
    import pyarrow as pa
    from pyarrow import fs as arrow_fs

    if not path:
        raise InvalidArgumentError("path = '': allowed is a folder, a file or a URL")
    scheme, separator, rest = path.partition("://")
    if not separator:
        return arrow_fs.LocalFileSystem(), os.path.abspath(path)
    try:
        if scheme in ("s3", "s3a", "s3n"):
            return arrow_fs.S3FileSystem(**_s3_options(s3_config)), rest.rstrip("/")
        filesystem, inner = arrow_fs.FileSystem.from_uri(path)
    except pa.ArrowInvalid as error:
        raise InvalidArgumentError(f"{path!r}: {error}") from error
    except OSError as error:
        raise StorageError(f"cannot reach {path!r}: {error}") from error
    return filesystem, inner


def _s3_options(s3_config: PSConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    if s3_config is None:
        return {}
    if isinstance(s3_config, Mapping):
        given = {name: value for name, value in s3_config.items() if value is not None}
    else:
        given = {"region": s3_config.s3_region, "endpoint_url": s3_config.s3_endpoint_url}
    options = {
        "region": given.get("region"),
        "endpoint_override": given.get("endpoint_url"),
        "access_key": given.get("access_key"),
        "secret_key": given.get("secret_key"),
    }
    return {name: value for name, value in options.items() if value}


def units_of_work(partitions: Sequence[PartitionInfo], batch_size: int) -> list[UnitOfWork]:
    """Divides a day's files: small files are joined, large ones are cut by row groups.

    Depends on the files and the batch size alone, not on the number of workers. Units and their
    rows stand in the files' order, files sorted by path.
    """
    units: list[UnitOfWork] = []
    rows_min = UNIT_BATCHES_MIN * batch_size
    joined: list[FilePart] = []
    for partition in sorted(partitions, key=lambda part: part.path):
        if partition.num_rows == 0:
            continue
        pieces = _pieces(partition, batch_size)
        if len(pieces) > 1:
            if joined:  # units stay in the files' order
                units.append(_unit(joined))
                joined = []
            units.extend(_unit([piece]) for piece in pieces)
            continue
        joined.extend(pieces)
        if _is_enough(joined, rows_min):
            units.append(_unit(joined))
            joined = []
    if joined:
        units.append(_unit(joined))
    return units


def _is_enough(parts: Sequence[FilePart], rows_min: int) -> bool:
    return (
        sum(part.num_rows for part in parts) >= rows_min
        or sum(part.size_bytes for part in parts) >= UNIT_BYTES_CUT
    )


def _pieces(partition: PartitionInfo, batch_size: int) -> list[FilePart]:
    groups = partition.metadata.get("row_groups", [])
    pieces: list[FilePart] = []
    first = 0
    rows = size = 0
    for index, (group_rows, group_bytes) in enumerate(groups):
        rows, size = rows + group_rows, size + group_bytes
        if rows >= UNIT_BATCHES_CUT * batch_size or size >= UNIT_BYTES_CUT:
            pieces.append(FilePart(partition.path, size, rows, tuple(range(first, index + 1))))
            first, rows, size = index + 1, 0, 0
    if rows and pieces and rows < UNIT_BATCHES_MIN * batch_size:
        last = pieces.pop()
        pieces.append(
            FilePart(
                partition.path,
                last.size_bytes + size,
                last.num_rows + rows,
                (*(last.row_groups or ()), *range(first, len(groups))),
            )
        )
    elif rows:
        pieces.append(FilePart(partition.path, size, rows, tuple(range(first, len(groups)))))
    if len(pieces) <= 1:
        return [FilePart(partition.path, partition.size_bytes, partition.num_rows)]
    return pieces


def _unit(parts: Sequence[FilePart]) -> UnitOfWork:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(f"{part.path}\x1f{part.row_groups}\x1f{part.num_rows}\x1e".encode())
    return UnitOfWork(
        digest.hexdigest(),
        tuple(parts),
        sum(part.size_bytes for part in parts),
        sum(part.num_rows for part in parts),
    )


def _balance(costs: Sequence[tuple[int, ...]], num_workers: int) -> list[list[int]]:
    """Largest first, each to the least loaded worker; a share keeps the order of the input."""
    loads = [((0,) * max((len(cost) for cost in costs), default=1), w) for w in range(num_workers)]
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -i), reverse=True):
        load, worker = heapq.heappop(loads)
        shares[worker].append(index)
        added = tuple(a + b for a, b in zip(load, costs[index], strict=True))
        heapq.heappush(loads, (added, worker))
    return [sorted(share) for share in shares]


def distribute_units(units: Sequence[UnitOfWork], num_workers: int) -> list[list[UnitOfWork]]:
    """Balances units over workers by rows; index = worker id, units in their own order."""
    shares = _balance([(unit.num_rows,) for unit in units], num_workers)
    return [[units[index] for index in share] for share in shares]


def parse_date_range(
    start: str | datetime.date, end: str | datetime.date, fmt: str = "%Y-%m-%d"
) -> list[str]:
    """Each day from start to end, both included, as `fmt` writes it.

    Raises:
        InvalidArgumentError: (a ValueError) no date of that format, or end before start.
    """
    first, last = parse_date(start, fmt), parse_date(end, fmt)
    if last < first:
        raise InvalidArgumentError(f"the range ends before it starts: {start!s} to {end!s}")
    return [day.strftime(fmt) for day in _days(first, last)]


def _days(first: datetime.date, last: datetime.date) -> Iterator[datetime.date]:
    for offset in range((last - first).days + 1):
        yield first + datetime.timedelta(days=offset)


def parse_date(day: str | datetime.date, fmt: str = "%Y-%m-%d") -> datetime.date:
    """A day as a date object.

    Raises:
        InvalidArgumentError: no date of that format.
    """
    if isinstance(day, datetime.datetime):
        return day.date()
    if isinstance(day, datetime.date):
        return day
    try:
        return datetime.datetime.strptime(day, fmt).date()
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"{day!r} is no date: allowed is a date object or text in the form {fmt!r}"
        ) from error


def format_date_path(template: str, date: str | datetime.date) -> str:
    """`template` with every `{date}` replaced. A date object is written as YYYY-MM-DD."""
    if isinstance(date, datetime.date):
        date = date.strftime("%Y-%m-%d")
    return template.replace("{date}", date)
