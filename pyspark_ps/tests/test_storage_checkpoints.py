"""Saves are all or nothing; finding, describing and deleting touch what they name and no more."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyspark_ps.errors import (
    DataCorruptionError,
    InvalidArgumentError,
    NotFoundError,
    StorageError,
)
from pyspark_ps.storage import CheckpointManager, Location, PartWriter, read_manifest
from pyspark_ps.storage.backend import ArrowBackend, LocalBackend
from pyspark_ps.tests.checkpoint_data import (
    contents,
    every_partition,
    expected,
    save_checkpoint,
    stream,
)
from pyspark_ps.tests.s3_server import S3Server
from pyspark_ps.utils.config import PSConfig


@pytest.fixture(params=["plain", "file", "pyarrow", "s3", "s3a"])
def root(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    s3_server: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A folder in each kind of storage."""
    kind = request.param
    if kind.startswith("s3"):
        for name, value in s3_server.environment.items():
            monkeypatch.setenv(name, value)
        return f"{kind}://{bucket}/models"
    if kind == "pyarrow":

        def make(location: Location) -> ArrowBackend:
            return ArrowBackend(LocalBackend().filesystem)

        monkeypatch.setattr(Location, "_make_backend", make)
    return f"file://{tmp_path}/models" if kind == "file" else f"{tmp_path}/models"


def names_at(manager: CheckpointManager, path: str) -> set[str]:
    return {entry.path for entry in manager.location(path).entries()}


def test_a_checkpoint_is_saved_described_read_replaced_and_deleted(root: str) -> None:
    manager = CheckpointManager(PSConfig(s3_compression="lz4"))
    path = f"{root}/checkpoint_1"
    manifest = save_checkpoint(manager, path)
    place = manager.location(path)
    assert read_manifest(place) == manifest
    assert contents(place, manifest).equals(expected().cast(contents(place, manifest).schema))
    info = manager.info(path)
    assert (info.s3_path, info.embedding_count, info.model_size_bytes) == (path, 320, 40)
    assert info.config == {"num_servers": 2}
    assert info.metadata["tables"] == {"clicks": 320}
    assert info.metadata["bytes"] == sum(file.bytes for file in manifest.files)

    second = save_checkpoint(manager, path, seed=1)
    assert read_manifest(place) == second
    assert contents(place, second).equals(expected(seed=1).cast(contents(place, second).schema))
    named = {file.path for file in second.files}
    assert names_at(manager, path) == {"manifest.json", *named}, "files of the first are gone"

    manager.delete(path)
    assert names_at(manager, root) == set()
    with pytest.raises(NotFoundError, match="holds no checkpoint"):
        manager.info(path)
    with pytest.raises(NotFoundError, match="no checkpoint"):
        manager.delete(path)


def test_complete_ones_anywhere_below_are_listed_newest_first(root: str) -> None:
    manager = CheckpointManager()
    assert manager.list(root) == []
    paths = [f"{root}/a/checkpoint_1", f"{root}/checkpoint_1", f"{root}/checkpoint_10"]
    for path in paths:
        save_checkpoint(manager, path, count=1)
    PartWriter(manager.begin(f"{root}/dead").target, 0).write_file("half", b"1")
    for prefix in (root, root + "/"):
        assert [info.s3_path for info in manager.list(prefix)] == paths[::-1]
    assert [info.s3_path for info in manager.list(f"{root}/a")] == paths[:1]
    assert [info.s3_path for info in manager.list(paths[1])] == [paths[1]], "not checkpoint_10"


def test_deleting_leaves_everything_else(root: str) -> None:
    manager = CheckpointManager()
    for name in ("checkpoint_1", "checkpoint_10", "checkpoint_1/nested"):
        save_checkpoint(manager, f"{root}/{name}", count=1)
    mine = {"notes.txt", "embeddings/clicks/mine.parquet", "trainer/mine.json"}
    place = manager.location(f"{root}/checkpoint_1")
    for name in mine:
        place.put(name, b"mine")
    with pytest.raises(NotFoundError, match="no checkpoint"):
        manager.delete(root)
    manager.delete(f"{root}/checkpoint_1")
    left = {info.s3_path for info in manager.list(root)}
    assert left == {f"{root}/checkpoint_10", f"{root}/checkpoint_1/nested"}
    assert mine <= names_at(manager, f"{root}/checkpoint_1")
    assert not any(name.startswith("weights") for name in names_at(manager, place.url))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    manager = CheckpointManager()
    for number in range(4):
        save_checkpoint(manager, f"{tmp_path}/{number}", count=1)
    gone = manager.prune_to(str(tmp_path), 2)
    assert [info.s3_path for info in gone] == [f"{tmp_path}/1", f"{tmp_path}/0"]
    assert [info.s3_path for info in manager.list(str(tmp_path))] == [
        f"{tmp_path}/3",
        f"{tmp_path}/2",
    ]
    with pytest.raises(InvalidArgumentError, match="keep = 0"):
        manager.prune_to(str(tmp_path), 0)


class Died(BaseException):
    """The process is gone: nothing can be cleaned up."""


class MortalBackend:
    """A storage whose user dies at its nth operation."""

    def __init__(self, inner: Any, lives: list[int]) -> None:
        self._inner, self._lives = inner, lives

    def _step(self) -> None:
        self._lives[0] -= 1
        if self._lives[0] < 0:
            raise Died

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._step()
            result = found(*args, **kwargs)
            return MortalBackend(result, self._lives) if name == "open_output" else result

        return call


def dying_saves(path: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], bool]:
    """A save that dies at its nth operation; True when it was complete before that."""
    make = Location._make_backend

    def attempt(lives: int) -> bool:
        left = [lives]
        with monkeypatch.context() as patch:
            patch.setattr(Location, "_make_backend", lambda at: MortalBackend(make(at), left))
            try:
                save_checkpoint(CheckpointManager(), path, seed=2, count=3)
            except Died:
                return False
        return True

    return attempt


@pytest.fixture
def files_left_open() -> Iterator[None]:
    """What a save that died had open is closed here, and not amid another test."""
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("files_left_open")
@pytest.mark.parametrize("storage", ["plain", "s3"])
def test_a_save_that_dies_anywhere_leaves_the_old_or_the_new_checkpoint(
    storage: str,
    tmp_path: Path,
    s3_server: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    root = str(tmp_path) if storage == "plain" else f"s3://{bucket}"
    path, manager = f"{root}/ck", CheckpointManager()
    old = save_checkpoint(manager, path, seed=1, count=3)
    attempt = dying_saves(path, monkeypatch)
    place = manager.location(path)
    died_at, complete = 0, False
    while not complete:
        complete = attempt(died_at)
        died_at += 1 if storage == "plain" else 5  # each step of S3 takes requests
        found = read_manifest(place)
        seed = 1 if found == old else 2
        assert contents(place, found).equals(
            expected(seed, count=3).cast(contents(place, found).schema)
        )
        assert len(manager.list(root)) == 1
        if seed == 2:
            old = save_checkpoint(manager, path, seed=1, count=3)
    assert died_at >= 20
    manifest = save_checkpoint(manager, path, seed=1, count=3)
    named = {file.path for file in manifest.files}
    assert names_at(manager, path) == {"manifest.json", *named}, "no left-overs"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("files_left_open")
def test_a_dead_save_at_a_new_path_is_invisible_and_can_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, manager = f"{tmp_path}/ck", CheckpointManager()
    assert not dying_saves(path, monkeypatch)(12)
    assert manager.list(str(tmp_path)) == []
    with pytest.raises(NotFoundError, match="did not complete"):
        manager.info(path)
    manager.delete(path)
    assert list(tmp_path.iterdir()) == []


def test_abandoning_removes_what_was_written(root: str) -> None:
    manager = CheckpointManager()
    first = save_checkpoint(manager, f"{root}/ck", count=1)
    save = manager.begin(f"{root}/ck")
    PartWriter(save.target, 0).write_embeddings("clicks", stream(every_partition()))
    save.abandon()
    named = {file.path for file in first.files}
    assert names_at(manager, f"{root}/ck") == {"manifest.json", *named}


def test_of_two_saves_of_a_path_the_one_begun_first_fails(root: str) -> None:
    manager = CheckpointManager()
    first, second = manager.begin(f"{root}/ck"), manager.begin(f"{root}/ck")
    winner = save_checkpoint_into(second)
    with pytest.raises(StorageError, match="another save"):
        save_checkpoint_into(first)
    assert manager.manifest(f"{root}/ck") == winner


def save_checkpoint_into(save: Any) -> Any:
    from pyspark_ps.tests.checkpoint_data import manifest_of

    manifest = manifest_of(save, [], [PartWriter(save.target, 0).write_file("x", b"1")])
    save.commit(manifest)
    return manifest


def test_a_manifest_that_changed_since_begin_is_not_overwritten(root: str) -> None:
    manager = CheckpointManager()
    save_checkpoint(manager, f"{root}/ck", count=1)
    save = manager.begin(f"{root}/ck")
    place = save.target.location
    other = place.read("manifest.json")[0] + b" "
    place.put("manifest.json", other)
    with pytest.raises(StorageError, match="another save"):
        save_checkpoint_into(save)
    assert place.read("manifest.json")[0] == other


def test_a_save_with_a_missing_or_shortened_file_is_not_completed(tmp_path: Path) -> None:
    manager = CheckpointManager()
    save = manager.begin(str(tmp_path))
    record = PartWriter(save.target, 0).write_file("x", b"123")
    (tmp_path / record.path).write_bytes(b"12")
    from pyspark_ps.tests.checkpoint_data import manifest_of

    with pytest.raises(StorageError, match="has 2 bytes where 3 were written"):
        save.commit(manifest_of(save, [], [record]))
    assert manager.list(str(tmp_path)) == []


def test_files_that_no_save_wrote_survive_saves(tmp_path: Path) -> None:
    mine = tmp_path / "weights" / "part-0.parquet"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    manager = CheckpointManager()
    save_checkpoint(manager, str(tmp_path), count=1)
    save_checkpoint(manager, str(tmp_path), count=1)
    assert mine.read_bytes() == b"mine"


def test_a_damaged_or_strange_manifest_is_named(tmp_path: Path) -> None:
    manager = CheckpointManager()
    save_checkpoint(manager, str(tmp_path), count=1)
    file = tmp_path / "manifest.json"
    text = file.read_text()
    for damaged, reason in (
        (text[: len(text) // 2], "no JSON"),
        ("[]", "no object"),
        (text.replace('"format_version": 1', '"format_version": 99'), "format version 99"),
        (text.replace('"rows": 16', '"rows": 17'), "damaged"),
        (text.replace("embeddings/clicks/", "../../etc/"), "outside"),
        (text.replace('"seed": 0,', ""), "seed is missing"),
    ):
        assert damaged != text
        file.write_text(damaged)
        with pytest.raises(DataCorruptionError, match=reason) as caught:
            manager.info(str(tmp_path))
        assert str(file) in str(caught.value)


def test_a_manifest_that_is_none_of_ours_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager()
    save_checkpoint(manager, f"{tmp_path}/good", count=1)
    save_checkpoint(manager, f"{tmp_path}/bad", count=1)
    (tmp_path / "bad" / "manifest.json").write_text("{")
    (tmp_path / "website").mkdir()
    (tmp_path / "website" / "manifest.json").write_text('{"name": "app"}')
    assert [info.s3_path for info in manager.list(str(tmp_path))] == [f"{tmp_path}/good"]
    assert f"{tmp_path}/bad/manifest.json is no JSON" in caplog.text
    with pytest.raises(DataCorruptionError, match="bad"):
        manager.begin(f"{tmp_path}/bad")
    manager.delete(f"{tmp_path}/bad")
    assert not (tmp_path / "bad").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        CheckpointManager().begin(f"{tmp_path}/file/ck")
