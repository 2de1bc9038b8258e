"""Finding a day's Parquet files, in any storage, and distributing them to workers."""

from __future__ import annotations

import datetime
import fnmatch
import heapq
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
from pyspark_ps.storage.location import open_location
from pyspark_ps.utils.validation import nearest_name

if TYPE_CHECKING:
    import pyarrow.fs

    from pyspark_ps.utils.config import PSConfig

STRATEGIES = ("size_balanced", "count_balanced", "round_robin")
FOOTER_THREADS_MAX = 16

_S3_KEYS = ("endpoint_url", "region", "access_key", "secret_key", "session_token")


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


class S3ParquetDataLoader:
    """Discovers Parquet files and distributes them to workers.

    Args:
        s3_config: how to reach S3: None (environment), a PSConfig, or a dict of endpoint_url,
            region, access_key, secret_key, session_token.
        spark_hadoop: Spark's own S3 settings (`fs.s3a.*`), for what `s3_config` leaves open.

    Raises:
        ConfigurationError: an unknown key in the dict.
    """

    def __init__(
        self,
        s3_config: PSConfig | Mapping[str, Any] | None = None,
        spark_hadoop: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(s3_config, Mapping):
            for key in s3_config:
                if key not in _S3_KEYS:
                    raise ConfigurationError(
                        f"s3_config has no key {key!r}{nearest_name(key, _S3_KEYS)}"
                    )
        self.file_systems = FileSystems(s3_config, spark_hadoop)

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

        filesystem, root = self.file_systems.of(path)
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
        filesystem, root = self.file_systems.of(folder)
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
        shares = balance(costs, num_workers)
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

        if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
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


class FileSystems:
    """Opens paths; those of one bucket or host share a file system and its connections.

    Args:
        s3_config, spark_hadoop: as of `S3ParquetDataLoader`.
    """

    def __init__(
        self,
        s3_config: PSConfig | Mapping[str, Any] | None = None,
        spark_hadoop: Mapping[str, str] | None = None,
    ) -> None:
        self._s3_config = s3_config
        self._spark_hadoop = spark_hadoop
        self._open: dict[str, pyarrow.fs.FileSystem] = {}

    def of(self, path: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """The file system of a path or URL, and the path inside it.

        Raises:
            InvalidArgumentError: an empty path, a URL without a bucket.
            StorageError: a scheme that pyarrow does not know, a place that cannot be reached.
        """
        location = open_location(path, self._s3_config, self._spark_hadoop)
        scheme, separator, rest = path.partition("://")
        root = scheme + separator + rest.partition("/")[0] if separator else ""
        if root not in self._open:
            self._open[root] = location.filesystem
        return self._open[root], location.path


def balance(costs: Sequence[tuple[int, ...]], num_workers: int) -> list[list[int]]:
    """Largest first, each to the least loaded worker; a share keeps the order of the input."""
    loads = [((0,) * max((len(cost) for cost in costs), default=1), w) for w in range(num_workers)]
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -i), reverse=True):
        load, worker = heapq.heappop(loads)
        shares[worker].append(index)
        added = tuple(a + b for a, b in zip(load, costs[index], strict=True))
        heapq.heappush(loads, (added, worker))
    return [sorted(share) for share in shares]


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
