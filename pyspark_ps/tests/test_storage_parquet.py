"""What the files of a checkpoint hold, how little of them a load reads, and what damage does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyspark_ps.errors import (
    ClosedError,
    DataCorruptionError,
    InvalidArgumentError,
    NotFoundError,
    StorageError,
)
from pyspark_ps.storage import (
    CheckpointManager,
    Manifest,
    PartWriter,
    SaveTarget,
    layout,
    open_location,
    read_embeddings,
    read_file,
    read_ledger,
    read_manifest,
    read_weights,
    writer,
)
from pyspark_ps.storage.backend import LocalBackend
from pyspark_ps.storage.format import FileRecord, TableRecord
from pyspark_ps.tests.checkpoint_data import (
    DIM,
    PARTITIONS,
    contents,
    every_partition,
    expected,
    manifest_of,
    rows,
    save_checkpoint,
    stream,
    tensor_chunks,
)


@pytest.fixture
def target(tmp_path: Path) -> SaveTarget:
    return SaveTarget(open_location(tmp_path / "ck"), layout.new_save_id())


@pytest.fixture
def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which the small tables of these tests become several groups and files."""
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES_MIN", 4_000)
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES_MAX", 16_000)
    monkeypatch.setattr(writer, "FILE_BYTES_MAX", 40_000)


def manifest_for(target: SaveTarget, files: list[FileRecord], dim: int = DIM) -> Manifest:
    """A manifest with the table "clicks" and these files."""
    count = sum(file.rows for file in files if file.kind == "embeddings")
    table = TableRecord("clicks", dim, "adagrad", {}, "zeros", 0.0, count, {"accumulator": dim})
    from pyspark_ps.storage import Save

    return manifest_of(Save(target, "absent"), [table], files)


def groups_of(target: SaveTarget, files: list[FileRecord]) -> Iterator[tuple[int, int, int]]:
    """(lowest partition, highest, rows) by the statistics of every row group."""
    for file in files:
        footer = pq.read_metadata(f"{target.location.path}/{file.path}")
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            (column,) = (
                group.column(i)
                for i in range(group.num_columns)
                if group.column(i).path_in_schema == "partition"
            )
            yield column.statistics.min, column.statistics.max, group.num_rows


@pytest.mark.usefixtures("small_row_groups")
def test_row_groups_hold_whole_partitions_unless_these_are_large(target: SaveTarget) -> None:
    sizes = [3, 0, 500, 40, 60, 60, 60, 2, 2, 2, 1, 0, 0, 0, 0, 90]
    batches = [rows(p, size) for p, size in enumerate(sizes) if size]
    everything = pa.Table.from_batches(batches)
    for rows_per_batch in (1_000_000, 7, 100):  # how the stream is cut makes no difference
        files = PartWriter(target, 0).write_embeddings(
            "clicks",
            pa.RecordBatchReader.from_batches(
                everything.schema, iter(everything.to_batches(rows_per_batch))
            ),
        )
        found = sorted(groups_of(target, files))
        assert sum(count for *_, count in found) == sum(sizes)
        row_bytes = everything.nbytes // len(everything)
        assert max(count for *_, count in found) * row_bytes <= 16_000
        assert sum(first <= 2 <= last for first, last, _ in found) >= 2, "a large one is cut"
        shared = [group for group in found if group[0] != group[1]]
        assert all(count * row_bytes < 16_000 for *_, count in shared)
        place = target.location
        place.delete([file.path for file in files])


@pytest.mark.usefixtures("small_row_groups")
def test_a_table_becomes_several_files_of_bounded_size(target: SaveTarget) -> None:
    files = PartWriter(target, 3).write_embeddings("clicks", stream(every_partition(200)))
    assert len(files) >= 3
    assert all(file.bytes < 2 * 40_000 for file in files)
    assert all(f"/part-{target.id}-0003-" in file.path for file in files)
    got = contents(target.location, manifest_for(target, files))
    assert got.equals(expected(count=200).cast(got.schema))


@pytest.mark.usefixtures("small_row_groups")
def test_a_loading_server_reads_only_the_row_groups_of_its_partitions(
    target: SaveTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of two writers the one that is free takes the next group: each file may then hold any of them.
    monkeypatch.setattr(writer, "FILES_AT_ONCE", 1)
    files = PartWriter(target, 0).write_embeddings("clicks", stream(every_partition(200)))
    manifest = manifest_for(target, files)
    from pyspark_ps.storage.verified_file import RowGroup, VerifiedFile

    opened: set[str] = set()
    read: list[RowGroup] = []
    open_file, read_group = VerifiedFile.__init__, VerifiedFile.read

    def spy_open(self: Any, location: Any, record: Any, verify: bool) -> None:
        opened.add(record.path)
        open_file(self, location, record, verify)

    def spy_read(self: Any, group: RowGroup, columns: Any) -> pa.Table:
        read.append(group)
        return read_group(self, group, columns)

    monkeypatch.setattr(VerifiedFile, "__init__", spy_open)
    monkeypatch.setattr(VerifiedFile, "read", spy_read)
    wanted = {3, 11}
    got = read_embeddings(target.location, manifest, "clicks", wanted).read_all()
    assert set(got["partition"].to_pylist()) == wanted
    assert got.num_rows == 400
    assert {group.first_partition for group in read} == wanted
    assert opened < {file.path for file in files}
    got = read_embeddings(target.location, manifest, "clicks", [3], states=False).read_all()
    assert got.column_names == ["key", "partition", "count", "last_day", "vector"]
    assert read_embeddings(target.location, manifest, "clicks", []).read_all().num_rows == 0


@pytest.mark.usefixtures("small_row_groups")
def test_a_load_leaves_the_bytes_that_it_has_read_out_of_the_cache_and_no_others(
    target: SaveTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FILES_AT_ONCE", 1)
    files = PartWriter(target, 0).write_embeddings("clicks", stream(every_partition(200)))
    from pyspark_ps.storage.verified_file import VerifiedFile

    read: dict[str, set[int]] = {}
    dropped: dict[str, set[int]] = {}
    read_group = VerifiedFile.read

    def spy_read(self: Any, group: Any, columns: Any) -> pa.Table:
        read.setdefault(self._record.path, set()).update(range(group.begin, group.end))
        return read_group(self, group, columns)

    def drop(self: Any, path: str, begin: int, end: int) -> None:
        name = path.removeprefix(f"{target.location.path}/")
        dropped.setdefault(name, set()).update(range(begin, end))
        assert dropped[name] <= read[name]

    monkeypatch.setattr(VerifiedFile, "read", spy_read)
    monkeypatch.setattr(LocalBackend, "drop_cached", drop)
    manifest = manifest_for(target, files)
    read_embeddings(target.location, manifest, "clicks", {3, 4, 11}).read_all()
    assert dropped == read


def test_to_drop_what_cannot_be_dropped_is_no_error(target: SaveTarget) -> None:
    target.location.drop_cached("no such file", 0, 10)
    target.location.put("file", b"abc")
    target.location.drop_cached("file", 1, 1 << 40)
    assert target.location.read("file")[0] == b"abc"


def test_every_tool_sees_plain_columns(target: SaveTarget) -> None:
    (file,) = PartWriter(target, 0).write_embeddings("clicks", stream([rows(1, 10)]))
    table = pq.read_table(f"{target.location.path}/{file.path}")
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("key", "uint64"),
        ("partition", "int32"),
        ("count", "float"),
        ("last_day", "int32"),
        ("vector", "fixed_size_list<element: float not null>[4]"),
        ("accumulator", "fixed_size_binary[16]"),
    ]
    footer = pq.read_metadata(f"{target.location.path}/{file.path}")
    assert footer.row_group(0).sorting_columns[0].column_index == 1


@pytest.mark.parametrize("compression", ["zstd", "lz4", "snappy", "gzip", "none"])
def test_the_compression_of_the_configuration_is_used(tmp_path: Path, compression: str) -> None:
    from pyspark_ps.utils.config import PSConfig

    config = PSConfig(s3_compression=compression)
    config.validate()
    save = CheckpointManager(config).begin(str(tmp_path))
    (file,) = PartWriter(save.target, 0).write_embeddings("clicks", stream([rows(1, 100)]))
    used = pq.read_metadata(tmp_path / file.path).row_group(0).column(0).compression
    assert used == {"none": "UNCOMPRESSED"}.get(compression, compression.upper())


def test_a_table_of_any_name_has_a_folder(tmp_path: Path) -> None:
    names = ["user_id", "a/b", "..", "_x", "ü" * 128, "ü" * 127 + "x", "a b%20", "A"]
    folders = [layout.table_folder(name) for name in names]
    assert folders[0] == "user_id"
    assert len(set(folders)) == len(names)
    for name, folder in zip(names, folders, strict=True):
        assert "/" not in folder
        assert folder[0] not in "._"
        assert len(folder.encode()) <= layout.FOLDER_NAME_BYTES_MAX
        manifest = save_checkpoint(CheckpointManager(), str(tmp_path / folder), count=1, table=name)
        place = CheckpointManager().location(str(tmp_path / folder))
        assert contents(place, manifest, name).num_rows == PARTITIONS
        assert (tmp_path / folder / "embeddings" / folder).is_dir()


def test_weights_and_ledger_come_back_as_they_were(target: SaveTarget) -> None:
    tensors = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(1, np.float32)}
    part = PartWriter(target, 1)
    files = part.write_weights(tensor_chunks(tensors, floats=5).to_reader())
    ledger = pa.table({"stream": pa.array([1, 2], pa.uint64()), "window": [b"\x01", b"\x02"]})
    files += part.write_ledger(ledger.to_reader())
    manifest = manifest_for(target, files)
    chunks = read_weights(target.location, manifest).read_all().to_pandas()
    for name, tensor in tensors.items():
        mine = chunks[chunks["name"] == name].sort_values("offset")
        back = np.concatenate(mine["values"].to_list()).reshape(mine["shape"].iloc[0])
        np.testing.assert_array_equal(back, tensor)
    assert read_ledger(target.location, manifest).read_all().to_pydict() == ledger.to_pydict()


def test_progress_is_seen_and_a_save_can_be_cancelled(target: SaveTarget) -> None:
    part = PartWriter(target, 0)
    gate, reached = threading.Event(), threading.Event()

    def endless() -> Iterator[pa.RecordBatch]:
        for partition in range(PARTITIONS):
            yield rows(partition, 20_000)
            if partition == 8:
                reached.set()
                gate.wait(60)

    failed: list[BaseException] = []

    def run() -> None:
        schema = rows(0, 0).schema
        try:
            part.write_embeddings("clicks", pa.RecordBatchReader.from_batches(schema, endless()))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert reached.wait(60)
    part.cancel()
    gate.set()
    thread.join(60)
    assert isinstance(failed[0], ClosedError)
    assert part.rows_written % 20_000 == 0
    assert list(target.location.entries()) == [], "unfinished files are removed"


def swap(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    return batch.set_column(batch.schema.names.index(name), name, column)


def test_streams_that_are_not_what_was_promised_are_refused(target: SaveTarget) -> None:
    good = rows(1, 3)
    nulls = pa.array([1.0, None, 1.0], pa.float32())
    inner = pa.array([[1.0] * DIM, [None] * DIM, [1.0] * DIM], pa.list_(pa.float32(), DIM))
    for batches, reason in (
        ([rows(2, 1), rows(1, 1)], "not sorted by partition: 1 follows 2"),
        ([good.drop_columns(["count"])], "expected are"),
        ([swap(good, "key", pa.array([1, 2, 3], pa.int64()))], "'key' is int64"),
        ([swap(good, "count", nulls)], "'count' holds nulls"),
        ([swap(good, "vector", inner)], "'vector' holds nulls"),
        ([swap(good, "accumulator", nulls)], "expected is FixedSizeBinary"),
    ):
        with pytest.raises(InvalidArgumentError, match=reason):
            PartWriter(target, 0).write_embeddings("clicks", stream(batches))
    with pytest.raises(InvalidArgumentError, match="no column name"):
        PartWriter(target, 0).write_weights(stream([good]))
    assert list(target.location.entries()) == []


def test_a_table_or_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    manifest = save_checkpoint(CheckpointManager(), str(tmp_path), count=1)
    place = open_location(tmp_path)
    with pytest.raises(NotFoundError, match="no table 'views'; it has 'clicks'"):
        read_embeddings(place, manifest, "views")
    with pytest.raises(InvalidArgumentError, match="partitions 16 to 16: allowed is 0 to 15"):
        read_embeddings(place, manifest, "clicks", [16])
    with pytest.raises(NotFoundError, match="replaced by another save"):
        read_manifest(place, expected_id="0" * 16)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Manifest, Any]:
    """A checkpoint, and what reads all of it."""
    manifest = save_checkpoint(CheckpointManager(), str(tmp_path), count=50)
    place = open_location(tmp_path)

    def read_everything() -> None:
        contents(place, manifest)
        read_weights(place, manifest).read_all()
        for record in manifest.files_of("trainer"):
            read_file(place, manifest, record)

    read_everything()
    return manifest, read_everything


def test_any_flipped_byte_is_found(tmp_path: Path, damaged: tuple[Manifest, Any]) -> None:
    manifest, read_everything = damaged
    rng = np.random.default_rng(0)
    for record in manifest.files:
        file = tmp_path / record.path
        whole = file.read_bytes()
        places = {0, 3, len(whole) // 2, len(whole) - 1, *rng.integers(0, len(whole), 12).tolist()}
        for place in places & set(range(len(whole))):
            data = bytearray(whole)
            data[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(data)
            with pytest.raises(DataCorruptionError, match="is damaged") as caught:
                read_everything()
            assert record.path in str(caught.value)
        file.write_bytes(whole)
    read_everything()


def test_missing_and_shortened_files_are_found(
    tmp_path: Path, damaged: tuple[Manifest, Any]
) -> None:
    manifest, read_everything = damaged
    for record in manifest.files:
        file = tmp_path / record.path
        whole = file.read_bytes()
        for size in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:size])
            with pytest.raises(DataCorruptionError, match=f"has {size} bytes") as caught:
                read_everything()
            assert record.path in str(caught.value)
        file.unlink()
        with pytest.raises(NotFoundError, match="is missing") as lost:
            read_everything()
        assert record.path in str(lost.value)
        file.write_bytes(whole)


def test_a_file_of_another_save_is_found(tmp_path: Path, damaged: tuple[Manifest, Any]) -> None:
    manifest, read_everything = damaged
    first, second = manifest.files_of("embeddings", "clicks")
    (tmp_path / first.path).write_bytes((tmp_path / second.path).read_bytes())
    with pytest.raises(DataCorruptionError, match=first.path.rpartition("/")[2]):
        read_everything()


def test_a_full_disk_is_named_and_leaves_no_file(
    target: SaveTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyspark_ps.storage import backend

    class FullDisk:
        def __init__(self, file: Any) -> None:
            self._file, self._left = file, 10_000

        def write(self, data: Any) -> int:
            self._left -= len(data)
            if self._left < 0:
                raise OSError(28, "No space left on device")
            return int(self._file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    init = backend._LocalOutput.__init__

    def small_disk(self: Any, path: str) -> None:
        init(self, path)
        self._file = FullDisk(self._file)

    monkeypatch.setattr(backend._LocalOutput, "__init__", small_disk)
    with pytest.raises(StorageError, match=r"part-.*No space left on device"):
        PartWriter(target, 0).write_embeddings("clicks", stream(every_partition(100)))
    assert list(target.location.entries()) == []
