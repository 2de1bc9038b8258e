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
    I32,
    I64,
    LIST,
    STRUCT,
    boolean,
    put_varint,
    read_struct,
    write_struct,
)

MAGIC = b"PAR1"

# Numbers of Parquet's enumerations (parquet.thrift).
_PLAIN, _RLE, _DATA_PAGE_V2 = 0, 3, 3
_CODECS = {"none": 0, "zstd": 6, "lz4": 7}  # those that the core packs pages with
_READ = {"UNCOMPRESSED": None, "ZSTD": "zstd", "LZ4": "lz4_raw"}  # in pyarrow's words
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

    def levels(self, rows: int) -> tuple[bytes, bytes]:
        """Repetition and definition levels of a page; none where no value repeats."""
        return _list_levels(rows, self.items) if self.is_list else (b"", b"")

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
def _list_levels(rows: int, items: int) -> tuple[bytes, bytes]:
    """Of lists of a fixed length: the first value of a row begins a list, the others go on with it
    (one bit each, packed in eights), and all are there (one run)."""
    count = rows * items
    repeats = np.ones(count + -count % 8, np.uint8)
    repeats[:count:items] = 0
    repeats[count:] = 0
    packed = np.packbits(repeats, bitorder="little").tobytes()
    begins, present = bytearray(), bytearray()
    put_varint(begins, len(packed) << 1 | 1)
    put_varint(present, count << 1)
    return bytes(begins + packed), bytes(present + b"\x01")


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
            [
                (c.path, c.physical, c.row_bytes // c.items, c.items, c.name == sorted_by)
                for c in columns
            ],
            _CODECS[compression],
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

    def row_group(self, data: Any, group: Any, names: list[str] | None = None) -> pa.Table | None:
        """The rows of a row group.

        Args:
            data: bytes of the row group, from its first page on.
            group: pyarrow's metadata of it.
            names: of the columns to unpack; None = all.

        Returns:
            None when it was made otherwise, as by pyarrow.

        Raises:
            ValueError, OSError: it cannot be read.
        """
        rows = group.num_rows
        compression = group.column(0).compression
        if group.num_columns != len(self._columns) or compression not in _READ:
            return None
        codec = pa.Codec(_READ[compression]) if _READ[compression] else None
        buffer = pa.py_buffer(data)
        view = memoryview(buffer).cast("B")
        found = {}
        at = 0
        for column in self._columns:
            place = _values_place(view, at, column, rows, codec is not None)
            if place is None:
                return None
            begin, at = place
            if names is None or column.name in names:
                values = _unpacked(buffer[begin:at], codec, rows * column.row_bytes)
                found[column.name] = column.array(rows, values)
        chosen = self._schema
        if names is not None:
            chosen = pa.schema([chosen.field(name) for name in names])
        return pa.Table.from_arrays([found[name] for name in chosen.names], schema=chosen)


def _values_place(
    view: memoryview, at: int, column: _Column, rows: int, is_packed: bool
) -> tuple[int, int] | None:
    """Where the values of a page begin and end; None for a page that is not one of ours."""
    header, begin = read_struct(view, at)
    kind, page = header.get(8, (0, None))
    if header.get(1) != (I32, _DATA_PAGE_V2) or kind != STRUCT:
        return None
    repeats, defined = column.levels(rows)
    expected = [rows * column.items, 0, rows, _PLAIN, len(defined), len(repeats)]
    if [page[field][1] for field in range(1, 7)] != expected or page.get(7) != boolean(is_packed):
        return None
    values = begin + len(repeats) + len(defined)
    if view[begin:values] != repeats + defined:
        return None
    return values, begin + header[3][1]


def _unpacked(packed: pa.Buffer, codec: Any, size: int) -> pa.Buffer:
    if codec is None:
        values = pa.py_buffer(np.frombuffer(packed, np.uint8).copy())  # aligned for its type
    else:
        values = codec.decompress(packed, size, asbytes=False)
    if values.size != size:
        raise ValueError(f"a column has {values.size} bytes, expected are {size}")
    return values
