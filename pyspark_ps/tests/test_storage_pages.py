"""Pages made without pyarrow are ordinary Parquet, and read back as they were."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyspark_ps.errors import DataCorruptionError
from pyspark_ps.storage import thrift
from pyspark_ps.storage.plain_pages import MAGIC, PlainPagesReader, PlainPagesWriter, can_write
from pyspark_ps.storage.reader import embeddings_schema

CODECS = ["zstd", "lz4", "none"]


def some_rows(count: int, dim: int, first_partition: int = 0) -> pa.Table:
    random = np.random.default_rng(count + dim)
    schema = embeddings_schema(dim, {"acc": dim, "step": 1})
    vectors = pa.array(random.standard_normal(count * dim, np.float32))
    columns = [
        pa.array(random.integers(0, 2**64, count, np.uint64)),
        pa.array(np.sort(random.integers(0, 9, count).astype(np.int32)) + first_partition),
        pa.array(random.random(count, np.float32)),
        pa.array(np.full(count, 20_000, np.int32)),
        pa.FixedSizeListArray.from_arrays(vectors, type=schema.field("vector").type),
        pa.array([random.bytes(4 * dim) for _ in range(count)], pa.binary(4 * dim)),
        pa.array([random.bytes(4) for _ in range(count)], pa.binary(4)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def file_of(groups: list[pa.Table], compression: str) -> tuple[bytes, list[bytes]]:
    """The file, and the bytes of its row groups from their first page on."""
    writer = PlainPagesWriter(groups[0].schema, compression, "partition")
    parts = [b"".join(writer.row_group(group)) for group in groups]
    file = b"".join(parts) + writer.footer({"note": "of the file"})
    return file, [parts[0].removeprefix(MAGIC), *parts[1:]]


@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("dim", [1, 3, 16])
def test_pyarrow_reads_the_same_rows(compression: str, dim: int) -> None:
    groups = [some_rows(count, dim, 10 * count) for count in (1, 7, 300)]
    file, _ = file_of(groups, compression)
    read = pq.ParquetFile(io.BytesIO(file))
    assert read.schema_arrow.remove_metadata() == groups[0].schema
    assert read.read().replace_schema_metadata().equals(pa.concat_tables(groups))
    assert read.metadata.metadata[b"note"] == b"of the file"
    for number, group in enumerate(groups):
        statistics = read.metadata.row_group(number).column(1).statistics
        partitions = group.column("partition").to_pylist()
        assert (statistics.min, statistics.max) == (min(partitions), max(partitions))


@pytest.mark.parametrize("compression", CODECS)
def test_what_was_packed_is_unpacked_whole_or_by_columns(compression: str) -> None:
    groups = [some_rows(500, 5), pa.concat_tables([some_rows(3, 5), some_rows(9, 5)[2:]])]
    file, parts = file_of(groups, compression)
    metadata = pq.read_metadata(io.BytesIO(file))
    reader = PlainPagesReader(groups[0].schema)
    for number, group in enumerate(groups):
        found = metadata.row_group(number)
        assert reader.row_group(parts[number], found).equals(group)
        names = ["step", "key"]
        assert reader.row_group(parts[number], found, names).equals(group.select(names))


def test_pages_of_pyarrow_are_left_to_it() -> None:
    rows = some_rows(100, 4)
    for version in ("1.0", "2.0"):
        file = io.BytesIO()
        pq.write_table(rows, file, data_page_version=version, use_dictionary=False)
        metadata = pq.read_metadata(file)
        pages = file.getvalue()[len(MAGIC) :]
        assert PlainPagesReader(rows.schema).row_group(pages, metadata.row_group(0)) is None


def test_columns_of_varying_length_or_with_nulls_are_left_to_pyarrow() -> None:
    assert can_write(some_rows(1, 2).schema, "zstd")
    assert not can_write(some_rows(1, 2).schema, "gzip")
    for kind in (pa.string(), pa.list_(pa.float32())):
        assert not can_write(pa.schema([pa.field("a", kind, nullable=False)]), "none")
    assert not can_write(pa.schema([("a", pa.int32())]), "none")


def test_no_bytes_crash_the_reader() -> None:
    rows = some_rows(20, 2)
    file, parts = file_of([rows], "zstd")
    group = pq.read_metadata(io.BytesIO(file)).row_group(0)
    reader = PlainPagesReader(rows.schema)
    random = np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(parts[0])
        damaged[int(random.integers(len(damaged)))] ^= 1 << int(random.integers(8))
        for data in (bytes(damaged), parts[0][: int(random.integers(len(parts[0])))]):
            with contextlib.suppress(DataCorruptionError, ValueError, OSError, LookupError):
                reader.row_group(data, group)


def test_a_footer_of_parquet_comes_back_from_thrift_as_it_was() -> None:
    file = io.BytesIO()
    columns = {f"c{number}": pa.array([1, 2]) for number in range(40)}
    pq.write_table(pa.table(columns), file)
    data = file.getvalue()
    length = int.from_bytes(data[-8:-4], "little")
    struct, end = thrift.read_struct(data, len(data) - 8 - length)
    assert end == len(data) - 8
    assert thrift.write_struct(struct) == data[-8 - length : -8]
    with pytest.raises(ValueError, match="cut off"):
        thrift.read_struct(data[-8 - length : -40])
    with pytest.raises(ValueError, match="64 bits"):
        thrift.read_struct(b"\x15" + b"\xff" * 12)
