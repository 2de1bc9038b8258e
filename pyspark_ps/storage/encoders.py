"""How rows become the bytes of a Parquet file: by pyarrow, or page by page where that is faster."""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_ps.storage.plain_pages import PlainPagesWriter

ZSTD_LEVEL = 1
BUFFER_BYTES = 1 << 20  # pyarrow writes two pieces per column; fewer come through Python's lock


class Encoder(Protocol):
    """Writes row groups, then the footer, to the file object it was made with."""

    def write_row_group(self, rows: pa.Table) -> None:
        """One row group, wholly in the file object when this returns."""

    def close(self, metadata: dict[str, str]) -> None:
        """The footer, with key-value metadata."""

    def abort(self) -> None:
        """Writes nothing more."""


class PlainPagesEncoder:
    """For rows of fixed width (plain_pages.py)."""

    def __init__(
        self, sink: Any, schema: pa.Schema, compression: str, sorted_by: str | None
    ) -> None:
        self._sink = sink
        self._pages = PlainPagesWriter(schema, compression, sorted_by)

    def write_row_group(self, rows: pa.Table) -> None:
        for piece in self._pages.row_group(rows):
            self._sink.write(piece)

    def close(self, metadata: dict[str, str]) -> None:
        self._sink.write(self._pages.footer(metadata))

    def abort(self) -> None:
        """Nothing is held back here."""


class ArrowEncoder:
    """For everything else."""

    def __init__(
        self, sink: Any, schema: pa.Schema, compression: str, sorted_by: str | None
    ) -> None:
        self._file = pa.BufferedOutputStream(pa.PythonFile(sink, mode="w"), BUFFER_BYTES)
        self._writer = pq.ParquetWriter(
            self._file,
            schema,
            compression=compression,
            compression_level=ZSTD_LEVEL if compression == "zstd" else None,
            use_dictionary=False,
            write_statistics=[sorted_by] if sorted_by else False,
            sorting_columns=(
                [pq.SortingColumn(schema.get_field_index(sorted_by))] if sorted_by else None
            ),
        )

    def write_row_group(self, rows: pa.Table) -> None:
        self._writer.write_table(rows, row_group_size=rows.num_rows)
        self._file.flush()

    def close(self, metadata: dict[str, str]) -> None:
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()
        self._file.close()

    def abort(self) -> None:
        self._writer.is_open = False  # its destructor would write a footer
