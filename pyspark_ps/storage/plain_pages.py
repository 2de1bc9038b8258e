"""Row groups of columns of fixed width, as Parquet pages that are made and read without pyarrow.

A column's values lie in a page as they lie in Arrow's memory, so a page is one call of the codec.
pyarrow makes and reads the same pages, but takes a list column through two integers per float (its
levels), which costs more than packing it: these are the same for every row here.

A column chunk is one page (version 2, plain, without dictionary); no column has nulls.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_ps import _core
from pyspark_ps.storage.thrift import (
    I64,
    LIST,
    STRUCT,
    read_struct,
    write_struct,
)

MAGIC = b"PAR1"
ALIGNMENT = 64  # bytes, of columns in memory

# Numbers of Parquet's enumerations (parquet.thrift).
_CODECS = {"none": 0, "zstd": 6, "lz4": 7}  # those that the core packs pages with
_READ = {"UNCOMPRESSED": 0, "ZSTD": 6, "LZ4": 7}  # in pyarrow's words
_PHYSICAL = {
    pa.uint64(): (2, 8),  # INT64, bytes
    pa.int64(): (2, 8),
    pa.uint32(): (1, 4),  # INT32
    pa.int32(): (1, 4),
    pa.float32(): (4, 4),  # FLOAT
}
_FIXED_BINARY = 7


class _Column:
    """How one column lies in a file."""

    def __init__(self, field: pa.Field) -> None:
        self.type = field.type
        self.name = field.name
        self.path = [field.name]
        self.items = 1
        item = field.type
        if pa.types.is_fixed_size_list(item):
            self.path += ["list", "element"]
            self.items = item.list_size
            item = item.value_type
        if pa.types.is_fixed_size_binary(item):
            self.physical, width = _FIXED_BINARY, item.byte_width
        else:
            self.physical, width = _PHYSICAL[item]
        self.is_list = len(self.path) > 1
        self.row_bytes = width * self.items

    def in_file(self, sorted_by: str | None = None) -> tuple[list[str], int, int, int, bool]:
        """As the core takes it."""
        width = self.row_bytes // self.items
        return self.path, self.physical, width, self.items, self.name == sorted_by

    def bytes_of(self, column: pa.ChunkedArray) -> Any:
        """The values of all rows, one after the other, as numpy bytes."""
        parts = [self._bytes_of(chunk) for chunk in column.chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _bytes_of(self, chunk: pa.Array) -> Any:
        items = chunk.values if self.is_list else chunk
        begin = items.offset * self.row_bytes // self.items
        if self.is_list:
            begin += chunk.offset * self.row_bytes
        data = np.frombuffer(items.buffers()[1], np.uint8)
        return data[begin : begin + len(chunk) * self.row_bytes]

    def array(self, rows: int, values: pa.Buffer) -> pa.Array:
        """The inverse of `bytes_of`."""
        if not self.is_list:
            return pa.Array.from_buffers(self.type, rows, [None, values])
        item = pa.Array.from_buffers(self.type.value_type, rows * self.items, [None, values])
        return pa.Array.from_buffers(self.type, rows, [None], children=[item])


@functools.lru_cache(maxsize=64)
def _columns(schema: pa.Schema) -> tuple[_Column, ...] | None:
    for field in schema:
        kind = field.type
        if field.nullable:
            return None
        if pa.types.is_fixed_size_list(kind):
            if kind.value_field.nullable or not kind.list_size:
                return None
            kind = kind.value_type
        if kind not in _PHYSICAL and not pa.types.is_fixed_size_binary(kind):
            return None
    return tuple(_Column(field) for field in schema)


def can_write(schema: pa.Schema, compression: str) -> bool:
    """Whether every column, and the codec, is one of those that `PlainPagesWriter` knows."""
    return compression in _CODECS and _columns(schema) is not None


class PlainPagesWriter:
    """Makes the bytes of a Parquet file, row group by row group.

    Args:
        schema, compression: such as `can_write`.
        sorted_by: the column that rows are sorted by, which gets statistics; or none.
    """

    def __init__(self, schema: pa.Schema, compression: str, sorted_by: str | None) -> None:
        self._schema = schema
        columns = _columns(schema)
        assert columns is not None
        self._columns = columns
        self._writer = _core.RowGroupWriter(
            [column.in_file(sorted_by) for column in columns], _CODECS[compression]
        )
        self._groups: list[bytes] = []  # as the footer lists them
        self._rows = 0
        self._position = len(MAGIC)

    def row_group(self, rows: pa.Table) -> list[Any]:
        """The bytes of a row group in pieces, to be written behind those that came before. To be
        released before the next call, which then uses the memory again."""
        values = [c.bytes_of(rows.column(i)) for i, c in enumerate(self._columns)]
        data, entry = self._writer.write(values, rows.num_rows, self._position, len(self._groups))
        pieces = [data] if self._groups else [MAGIC, data]
        self._groups.append(entry)
        self._rows += rows.num_rows
        self._position += len(data)
        return pieces

    def footer(self, metadata: dict[str, str]) -> bytes:
        """The end of the file. The schema is as pyarrow writes it, from an empty file."""
        empty = io.BytesIO()
        pq.ParquetWriter(empty, self._schema.with_metadata(metadata)).close()
        file = memoryview(empty.getvalue())
        length = int.from_bytes(file[-8:-4], "little")
        footer, _ = read_struct(file[-8 - length : -8])
        footer[3] = (I64, self._rows)
        footer[4] = (LIST, (STRUCT, self._groups))
        data = write_struct(footer)
        start = b"" if self._groups else MAGIC
        return start + data + len(data).to_bytes(4, "little") + MAGIC


class PlainPagesReader:
    """Unpacks what `PlainPagesWriter` made. Safe to share between threads.

    Args:
        schema: of the file.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns = _columns(schema) or ()
        self._reader = _core.RowGroupReader([c.in_file() for c in self._columns])

    def row_group(self, data: Any, group: Any, names: list[str] | None = None) -> pa.Table | None:
        """The rows of a row group.

        Args:
            data: bytes of the row group, from its first page on.
            group: pyarrow's metadata of it.
            names: of the columns to unpack; None = all.

        Returns:
            None when it was made otherwise, as by pyarrow.

        Raises:
            DataCorruptionError, ValueError, OSError: it cannot be read.
        """
        rows = group.num_rows
        chunks = [group.column(number) for number in range(group.num_columns)]
        if len(chunks) != len(self._columns) or not chunks or not rows:
            return None
        codec = _READ.get(chunks[0].compression)
        if codec is None:
            return None
        wanted = self._schema.names if names is None else names
        places, size = [], 0
        for column in self._columns:
            is_wanted = column.name in wanted
            places.append(size if is_wanted else -1)
            size += is_wanted * -(-rows * column.row_bytes // ALIGNMENT) * ALIGNMENT
        memory = pa.allocate_buffer(size)
        sizes = [chunk.total_compressed_size for chunk in chunks]
        out = np.frombuffer(memory, np.uint8)
        if not self._reader.read(np.frombuffer(data, np.uint8), sizes, codec, rows, out, places):
            return None
        found = {
            column.name: column.array(rows, memory.slice(place, rows * column.row_bytes))
            for column, place in zip(self._columns, places, strict=True)
            if place >= 0
        }
        schema = self._schema
        if names is not None:
            schema = pa.schema([schema.field(name) for name in names])
        return pa.Table.from_arrays([found[name] for name in schema.names], schema=schema)
