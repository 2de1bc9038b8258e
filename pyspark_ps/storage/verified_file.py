"""Reading the row groups of one Parquet file, each proved by its checksum before it is decoded."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_ps.errors import DataCorruptionError, NotFoundError
from pyspark_ps.storage.checksum import checksum
from pyspark_ps.storage.format import FileRecord
from pyspark_ps.storage.location import Location
from pyspark_ps.storage.parquet_file import ROW_GROUPS_KEY
from pyspark_ps.storage.plain_pages import MAGIC, PlainPagesReader

# ext4 reads ahead into pages of up to some MiB; of a row group's 0.3 MiB alone it drops none.
CACHE_PAGE_BYTES_MAX = 4 << 20


class RowGroup(NamedTuple):
    """A stretch [begin, end) of a file; the partitions are -1 where rows have none."""

    number: int
    begin: int
    end: int
    checksum: str
    first_partition: int
    last_partition: int


class VerifiedFile:
    """One file that a manifest names.

    Args:
        location: of the checkpoint.
        verify: False trusts the bytes (sizes and row counts are compared all the same).

    Raises:
        NotFoundError: the file is missing.
        DataCorruptionError: its size, footer or row count is not that of the manifest.
        StorageError: it cannot be read.

    Attributes:
        schema: of its rows.
        row_groups: in the file's order.
    """

    def __init__(self, location: Location, record: FileRecord, verify: bool = True) -> None:
        self._location = location
        self._record = record
        self._verify = verify
        self._place = f"{location}/{record.path}"
        self._passed_begin = self._passed_end = 0  # a stretch of row groups without gaps
        try:
            self._file = location.open_input(record.path)
        except NotFoundError:
            raise NotFoundError(
                f"{self._place} is missing, though the manifest names it: the checkpoint is not "
                "complete any more; load another one"
            ) from None
        size = self._file.size()
        if size != record.bytes:
            raise self.damaged(f"it has {size} bytes, the manifest says {record.bytes}")
        self._metadata = self._footer()
        self.schema = self._metadata.schema.to_arrow_schema().remove_metadata()
        self._pages = PlainPagesReader(self.schema)
        self.row_groups = self._read_row_groups()

    def damaged(self, reason: str) -> DataCorruptionError:
        """The error to raise for this file."""
        return DataCorruptionError(
            f"{self._place} is damaged: {reason}; load another checkpoint, or restore the file"
        )

    def read(self, group: RowGroup, columns: list[str] | None = None) -> pa.Table:
        """The rows of one row group; safe to call from several threads."""
        data = self._read_at(group.end - group.begin, group.begin)
        if self._verify and checksum(data) != group.checksum:
            raise self.damaged(f"checksum of row group {group.number} does not agree")
        try:
            rows = self._decoded(data, group, columns)
        except (pa.ArrowException, DataCorruptionError, OSError, ValueError, LookupError) as error:
            raise self.damaged(f"row group {group.number} cannot be decoded: {error}") from error
        return rows

    def _decoded(self, data: Any, group: RowGroup, columns: list[str] | None) -> pa.Table:
        pages = data[len(MAGIC) :] if group.begin == 0 else data
        found = self._metadata.row_group(group.number)
        rows = self._pages.row_group(pages, found, columns)
        if rows is not None:
            return rows
        source = pa.PythonFile(_Stretch(data, group.begin, self._record.bytes), mode="r")
        file = pq.ParquetFile(source, metadata=self._metadata)
        rows = file.read_row_group(group.number, columns=columns, use_threads=False)
        return rows.replace_schema_metadata()

    def passed(self, group: RowGroup) -> None:
        """To be called in the file's order, of row groups that were read: a load of many gigabytes
        leaves the system's memory to rows, and to what others keep cached. (Memory that is new to a
        virtual machine costs more than reading into it, docs/performance.md.)"""
        if group.begin != self._passed_end:
            self._passed_begin = group.begin
        self._passed_end = group.end
        # The system drops large pages only when all of one lies in the stretch.
        begin = max(self._passed_begin, group.begin - CACHE_PAGE_BYTES_MAX)
        self._location.drop_cached(self._record.path, begin, group.end)

    def close(self) -> None:
        """Ends access."""
        self._file.close()

    def _read_at(self, count: int, offset: int) -> Any:
        with self._location.errors("read", self._record.path):
            return self._file.read_at(count, offset)

    def _footer(self) -> Any:
        record = self._record
        data = self._read_at(record.footer_bytes, record.bytes - record.footer_bytes)
        if self._verify and checksum(data) != record.footer_checksum:
            raise self.damaged("checksum of its footer does not agree")
        try:
            metadata = pq.read_metadata(pa.BufferReader(data))
        except (pa.ArrowException, OSError) as error:
            raise self.damaged(f"its footer cannot be read: {error}") from error
        if metadata.num_rows != record.rows or metadata.num_row_groups != record.row_groups:
            raise self.damaged(
                f"it has {metadata.num_rows} rows in {metadata.num_row_groups} row groups, the "
                f"manifest says {record.rows} in {record.row_groups}"
            )
        return metadata

    def _read_row_groups(self) -> list[RowGroup]:
        listed = json.loads((self._metadata.metadata or {}).get(ROW_GROUPS_KEY.encode(), "[]"))
        if len(listed) != self._record.row_groups:
            raise self.damaged("its footer does not tell the checksums of its row groups")
        groups = []
        begin = 0
        for number, (end, text, *partitions) in enumerate(listed):
            first, last = partitions or (-1, -1)
            groups.append(RowGroup(number, begin, end, text, first, last))
            begin = end
        return groups


class _Stretch:
    """The file as pyarrow sees it: of its bytes only one stretch is there, in memory."""

    closed = False

    def __init__(self, data: Any, begin: int, size: int) -> None:
        self._data = memoryview(data)
        self._begin, self._size, self._at = begin, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._size

    def read(self, count: int = -1) -> Any:
        end = self._size if count < 0 else min(self._at + count, self._size)
        first, last = self._at - self._begin, end - self._begin
        if first < 0 or last > len(self._data):
            raise OSError(f"bytes {self._at} to {end} lie outside the stretch that was read")
        self._at = end
        return self._data[first:last]

    def close(self) -> None:
        """The bytes go with the object."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True
