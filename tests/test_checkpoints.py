"""Checkpoints of real servers: what is saved comes back, whatever the number of servers."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyspark_ps import PSConfig, PSMainClient, TableConfig
from pyspark_ps.client.checkpoints import shutdown_path
from pyspark_ps.errors import (
    ConfigurationError,
    DataCorruptionError,
    InvalidArgumentError,
    NotFoundError,
    PSError,
    ResourceExhaustedError,
)
from pyspark_ps.storage import CheckpointManager, read_embeddings, read_manifest

IDS = np.arange(600, dtype=np.int64)
TABLES = {
    "adam": TableConfig(dim=3, optimizer="adam", optimizer_params={"amsgrad": True}),
    "ftrl": TableConfig(dim=4, optimizer="ftrl", init="random", init_scale=0.1),
    "momentum": TableConfig(dim=2, optimizer="sgd"),
}
# The last one is cut into chunks, which lie on several servers.
SHAPES = {"bias": (), "kernel": (7, 5), "wide": (600, 1_000)}


def config(servers: int, **fields: Any) -> PSConfig:
    fields = {"embedding_dim": 5, "tables": TABLES, "seed": 3} | fields
    return PSConfig(num_servers=servers, server_port_base=0, num_worker_threads=2, **fields)


def train(main: PSMainClient, step: int) -> None:
    """A step whose gradients depend on its number alone."""
    random = np.random.default_rng(step)
    worker = main.worker_client()
    ids = random.choice(IDS, 200, replace=False)
    tables = main.get_tables()
    worker.push_gradients(
        {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()},
        {
            name: (ids, random.normal(size=(len(ids), table.dim)).astype(np.float32))
            for name, table in sorted(tables.items())
        },
    )


def start_training(main: PSMainClient) -> None:
    main.init_weights(SHAPES, "normal", 0.1)


State = dict[str, NDArray[np.float32]]


def state(main: PSMainClient) -> State:
    """Everything that clients can see, without making rows."""
    worker = main.worker_client()
    found = {f"weight {name}": value.copy() for name, value in worker.pull_model().items()}
    for name in sorted(main.get_tables()):
        found[f"table {name}"] = worker.pull_embeddings(IDS, name, create_if_missing=False)
    found["rows"] = np.array([main.get_cluster_stats()["total_embeddings"]], np.float32)
    return found


def assert_same(found: State, expected: State) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def one() -> Iterator[PSMainClient]:
    with PSMainClient(None, config(1)) as main:
        yield main


@pytest.fixture
def saved(one: PSMainClient, tmp_path: Path) -> str:
    """A checkpoint of the running cluster, trained for a while."""
    start_training(one)
    train(one, 1)
    train(one, 2)
    one.save_to_s3(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def test_training_goes_on_from_a_load_by_other_servers_as_if_never_interrupted(
    tmp_path: Path,
) -> None:
    with PSMainClient(None, config(1)) as main:
        start_training(main)
        for step in range(3):
            train(main, step)
        info = main.save_to_s3(str(tmp_path / "by-1"))
        assert info.embedding_count == main.get_cluster_stats()["total_embeddings"]
        assert info.model_size_bytes > 4 * 600_036 * 3
        for step in range(3, 8):
            train(main, step)
        expected = state(main)
    with PSMainClient(None, config(3)) as main:
        main.load_from_s3(str(tmp_path / "by-1"))
        for step in range(3, 5):
            train(main, step)
        main.checkpoint(str(tmp_path / "by-3"))
    with PSMainClient(None, config(2)) as main:
        main.restore(str(tmp_path / "by-3"))
        for step in range(5, 8):
            train(main, step)
        assert_same(state(main), expected)
        newest_first = [Path(i.s3_path).name for i in main.list_checkpoints(str(tmp_path))]
        assert newest_first == ["by-3", "by-1"]


def test_a_load_brings_back_what_was_saved_and_removes_what_was_not(
    one: PSMainClient, saved: str
) -> None:
    before = state(one)
    train(one, 3)
    one.worker_client().pull_embeddings(np.arange(10_000, 10_100))
    one.init_weights({"extra": (4,)})
    info = one.load_from_s3(saved)
    assert_same(state(one), before)
    assert info.to_dict() == one.list_checkpoints(saved)[0].to_dict()
    # Who pulled before sees the loaded values, not those it has kept.
    train(one, 3)
    assert "extra" not in one.worker_client().pull_model()


def test_a_push_that_was_applied_before_the_save_is_dropped_after_the_load(
    one: PSMainClient, saved: str
) -> None:
    from pyspark_ps import _core
    from pyspark_ps.client.options import client_options

    core = _core.Client(*client_options(one.get_server_info(), one.config))
    keys = np.arange(4, dtype=np.uint64)

    def push(sequence: int) -> None:
        core.push([(0, keys, np.ones((4, 5), np.float32))], [], stream=77, sequence=sequence)

    push(1)
    one.save_to_s3(saved)
    before = state(one)
    push(2)
    after = state(one)
    one.load_from_s3(saved)
    push(1)
    assert_same(state(one), before)
    push(2)  # its effect went with the load
    assert_same(state(one), after)
    core.close()


def test_a_save_amid_pushes_holds_each_partition_at_one_moment(tmp_path: Path) -> None:
    """Every push takes 1 from every row: so a value is the number of pushes that it has seen."""
    plain = {"learning_rate": 1.0, "momentum": 0.0}
    tables = {"sums": TableConfig(4, optimizer="sgd", optimizer_params=plain, init="zeros")}
    ids = np.arange(8_000)  # one frame for each server
    acknowledged, stop = 0, threading.Event()

    with PSMainClient(None, config(2, tables=tables)) as main, ThreadPoolExecutor(1) as pool:
        worker = main.worker_client()

        def push() -> None:
            nonlocal acknowledged
            while not stop.is_set():
                worker.push_embedding_gradients((ids, np.ones((len(ids), 4))), table="sums")
                acknowledged += 1

        def wait_for(pushes: int) -> None:
            deadline = time.monotonic() + 60
            while acknowledged < pushes and not pushing.done() and time.monotonic() < deadline:
                time.sleep(0.001)
            assert acknowledged >= pushes

        pushing = pool.submit(push)
        try:
            wait_for(3)
            before = acknowledged
            main.save_to_s3(str(tmp_path), save_model=False)
            after = acknowledged + 1  # one may be under way
            wait_for(after + 3)
        finally:
            stop.set()
        pushing.result()
    location = CheckpointManager().location(str(tmp_path))
    rows = read_embeddings(location, read_manifest(location), "sums").read_all()
    pushes = rows["count"].to_numpy() - 1
    values = np.stack(rows["vector"].to_numpy())
    np.testing.assert_array_equal(values, np.repeat(-pushes[:, None], 4, axis=1))
    assert before <= pushes.min() <= pushes.max() <= after
    order = np.argsort(rows["partition"].to_numpy(), kind="stable")
    same_partition = np.diff(rows["partition"].to_numpy()[order]) == 0
    assert not np.diff(pushes[order])[same_partition].any()
    assert len(rows) == len(ids)


def test_without_states_counts_stay_and_states_start_fresh(
    one: PSMainClient, saved: str, tmp_path: Path
) -> None:
    before = state(one)
    bare = str(tmp_path / "bare")
    info = one.save_to_s3(bare, save_optimizer_states=False)
    assert info.model_size_bytes == sum(4 * int(np.prod(s)) for s in SHAPES.values())
    with pytest.raises(NotFoundError, match="load_optimizer_states=False"):
        one.load_from_s3(bare)
    for path in (saved, bare):
        one.load_from_s3(path, load_optimizer_states=False)
        assert_same(state(one), before)
        # Rows pushed twice have count 3; prune keeps them and takes the others.
        pruned = one.decay_embeddings("prune", min_count=3)["results"][0]["pruned"]
        assert 0 < pruned < before["rows"][0]
    one.load_from_s3(saved, load_optimizer_states=False)
    train(one, 3)
    fresh = state(one)
    one.load_from_s3(saved)
    train(one, 3)
    kept = state(one)
    for name in ("table default", "table adam", "table ftrl", "table momentum", "weight wide"):
        assert not np.array_equal(fresh[name], kept[name]), name


def test_the_flags_say_what_is_saved_and_what_is_loaded(
    one: PSMainClient, saved: str, tmp_path: Path
) -> None:
    before = state(one)
    rows_only, model_only = str(tmp_path / "rows"), str(tmp_path / "model")
    assert one.save_to_s3(rows_only, save_model=False).model_size_bytes == 0
    assert one.save_to_s3(model_only, save_embeddings=False).embedding_count == 0
    train(one, 3)
    trained = state(one)
    one.load_from_s3(rows_only, load_model=False)
    mixed = state(one)
    np.testing.assert_array_equal(mixed["table adam"], before["table adam"])
    np.testing.assert_array_equal(mixed["weight wide"], trained["weight wide"])
    one.load_from_s3(model_only, load_embeddings=False)
    assert_same(state(one), before)
    with pytest.raises(NotFoundError, match="load_model=False"):
        one.load_from_s3(rows_only)
    with pytest.raises(NotFoundError, match="load_embeddings=False"):
        one.load_from_s3(model_only)
    with pytest.raises(InvalidArgumentError, match="would hold nothing"):
        one.save_to_s3(str(tmp_path / "none"), save_model=False, save_embeddings=False)
    assert_same(state(one), before)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def damage(folder: Path, how: str) -> None:
    manifest = folder / "manifest.json"
    part = sorted((folder / "embeddings" / "adam").glob("*.parquet"))[0]
    if how == "a flipped byte of rows":
        flip(part, 1_000)
    elif how == "a flipped byte of weights":
        flip(next((folder / "weights").glob("*.parquet")), 1_000)
    elif how == "a flipped byte of the footer":
        flip(part, part.stat().st_size - 100)
    elif how == "a flipped byte of the ledger":
        flip(next((folder / "ledger").glob("*.parquet")), 20)
    elif how == "a truncated file":
        os.truncate(part, part.stat().st_size // 2)
    elif how == "a missing file":
        part.unlink()
    elif how == "another version":
        values = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**values, "format_version": 99}))
    elif how == "a truncated manifest":
        os.truncate(manifest, 300)
    elif how == "no manifest":
        manifest.unlink()
    else:
        raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "error", "names"),
    [
        ("a flipped byte of rows", DataCorruptionError, "adam/part-"),
        ("a flipped byte of weights", DataCorruptionError, "weights/part-"),
        ("a flipped byte of the footer", DataCorruptionError, "adam/part-"),
        ("a flipped byte of the ledger", DataCorruptionError, "ledger/part-"),
        ("a truncated file", DataCorruptionError, "adam/part-"),
        ("a missing file", NotFoundError, "adam/part-"),
        ("another version", DataCorruptionError, "version 99"),
        ("a truncated manifest", DataCorruptionError, "manifest.json"),
        ("no manifest", NotFoundError, "did not complete"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(
    one: PSMainClient, saved: str, how: str, error: type[PSError], names: str
) -> None:
    train(one, 3)
    before = state(one)
    damage(Path(saved), how)
    with pytest.raises(error, match=names):
        one.load_from_s3(saved)
    assert_same(state(one), before)


def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(
    saved: str,
) -> None:
    narrow = {**TABLES, "adam": TableConfig(dim=6, optimizer="adam")}
    other = {**TABLES, "adam": TableConfig(dim=3, optimizer="adagrad")}
    for tables, message in ((narrow, "declares dim 6"), (other, "optimizer 'adagrad'")):
        with PSMainClient(None, config(1, tables=tables)) as main:
            main.worker_client().pull_embeddings(IDS[:10])
            before = state(main)
            with pytest.raises(ConfigurationError, match=message):
                main.load_from_s3(saved)
            assert_same(state(main), before)
    with PSMainClient(None, config(2, max_embeddings_per_shard=100)) as main:
        main.worker_client().pull_embeddings(IDS[:10])
        before = state(main)
        with pytest.raises(ResourceExhaustedError, match="more than 100 rows"):
            main.load_from_s3(saved)
        assert_same(state(main), before)


def test_tables_and_the_dense_optimizer_come_with_a_checkpoint(saved: str) -> None:
    with PSMainClient(None, config(1, tables={}, weight_optimizer="sgd")) as main:
        # Not declared by the config: the checkpoint's definition takes its place.
        main.create_table("adam", TableConfig(dim=9))
        main.worker_client().pull_embeddings(IDS, "adam")
        main.set_weights({"kernel": np.zeros((2, 2), np.float32)})
        main.load_from_s3(saved)
        assert main.get_tables()["adam"].dim == 3
        assert main.get_tables()["ftrl"].optimizer == "ftrl"
        assert main.worker_client().pull_embeddings(IDS[:2], "adam").shape == (2, 3)
        assert main.worker_client().pull_model()["kernel"].shape == (7, 5)
        stats = main.get_cluster_stats()
        assert stats["total_weights"] == 3
        train(main, 3)  # with dense states of Adam
        main.load_from_s3(saved)


def test_old_checkpoints_go_and_others_stay(one: PSMainClient, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        one.save_to_s3(str(tmp_path / name), save_model=False)
    gone = one.prune_checkpoints(str(tmp_path), 2)
    assert [Path(info.s3_path).name for info in gone] == ["a"]
    one.delete_checkpoint(str(tmp_path / "b"))
    assert [Path(i.s3_path).name for i in one.list_checkpoints(str(tmp_path))] == ["c"]
    with pytest.raises(NotFoundError):
        one.delete_checkpoint(str(tmp_path))


def test_a_shutdown_saves_where_the_config_says(tmp_path: Path) -> None:
    place = tmp_path / "at-shutdown"
    with PSMainClient(None, config(1, checkpoint_path=str(place))) as main:
        main.worker_client().pull_embeddings(IDS)
        before = state(main)
    (folder,) = place.iterdir()
    assert folder.name.startswith("shutdown-")
    with PSMainClient(None, config(2, checkpoint_on_shutdown=False)) as main:
        assert main.load_from_s3(str(folder)).embedding_count == len(IDS)
        assert_same(state(main), before)
    bucket = PSConfig(s3_bucket="models", s3_checkpoint_prefix="ours/")
    assert str(shutdown_path(bucket)).startswith("s3://models/ours/shutdown-")
    assert shutdown_path(PSConfig()) is None
