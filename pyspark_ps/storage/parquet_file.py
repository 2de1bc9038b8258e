"""Writing one Parquet file of a checkpoint, row group by row group, with its checksums.

Each row group is one stretch of bytes. Its checksum goes into the footer (`ROW_GROUPS_KEY`), the
footer's own into the manifest: so who reads some row groups can prove these without the others.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pyspark_ps.storage import plain_pages
from pyspark_ps.storage.backend import Output
from pyspark_ps.storage.checksum import RunningChecksum
from pyspark_ps.storage.encoders import ArrowEncoder, Encoder, PlainPagesEncoder
from pyspark_ps.storage.format import FileRecord
from pyspark_ps.storage.location import Location

ROW_GROUPS_KEY = "pyspark_ps.row_groups"
"""Footer key: JSON list of [end offset, checksum, lowest partition, highest partition]."""


class ParquetFileWriter:
    """One file.

    Args:
        record: path, kind, table and server; the rest is filled in by `close`.
        compression: "zstd", "lz4", "snappy", "gzip" or "none".

    Raises:
        StorageError: (from every method) the file cannot be written. Call `abort` then.
    """

    def __init__(
        self, location: Location, record: FileRecord, schema: pa.Schema, compression: str
    ) -> None:
        self._record = record
        self._has_partitions = "partition" in schema.names
        self._groups: list[list[Any]] = []
        self._rows = 0
        self._sink = _ChecksummingSink(location.open_output(record.path))
        sorted_by = "partition" if self._has_partitions else None
        kind = PlainPagesEncoder if plain_pages.can_write(schema, compression) else ArrowEncoder
        self._encoder: Encoder = kind(self._sink, schema, compression, sorted_by)

    @property
    def bytes(self) -> int:
        """Written so far."""
        return self._sink.position

    @property
    def row_groups(self) -> int:
        """Written so far."""
        return len(self._groups)

    def write_row_group(self, rows: pa.Table) -> None:
        """One row group; rows are sorted by partition if they have one."""
        self._encoder.write_row_group(rows)
        group: list[Any] = [self._sink.position, self._sink.end_piece()]
        if self._has_partitions:
            column = rows.column("partition")
            group += [column[0].as_py(), column[len(column) - 1].as_py()]
        self._groups.append(group)
        self._rows += rows.num_rows

    def close(self) -> FileRecord:
        """Completes the file."""
        end_of_rows = self._sink.position
        self._encoder.close({ROW_GROUPS_KEY: json.dumps(self._groups)})
        footer = self._sink.end_piece()
        self._sink.output.close()
        partitions: tuple[int, ...] = ()
        if self._has_partitions and self._groups:
            partitions = (min(g[2] for g in self._groups), max(g[3] for g in self._groups))
        record = self._record
        return FileRecord(
            path=record.path,
            kind=record.kind,
            bytes=self._sink.position,
            checksum=self._sink.whole.text(),
            table=record.table,
            server=record.server,
            rows=self._rows,
            row_groups=len(self._groups),
            footer_bytes=self._sink.position - end_of_rows,
            footer_checksum=footer,
            partitions=partitions,
        )

    def abort(self) -> None:
        """Drops the file; never raises."""
        self._sink.aborted = True
        self._encoder.abort()
        self._sink.output.abort()


class _ChecksummingSink:
    """The file object that pyarrow writes to."""

    closed = False

    def __init__(self, output: Output) -> None:
        self.output = output
        self.position = 0
        self.whole = RunningChecksum()
        self.aborted = False
        self._piece = RunningChecksum()

    def end_piece(self) -> str:
        """Checksum of the bytes since the last call."""
        text = self._piece.text()
        self._piece = RunningChecksum()
        return text

    def write(self, data: Any) -> int:
        if not self.aborted:
            self.output.write(data)
            self.whole.update(data)
            self._piece.update(data)
            self.position += memoryview(data).nbytes
        return memoryview(data).nbytes

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """The output is closed by its owner, which wants to see the error."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
