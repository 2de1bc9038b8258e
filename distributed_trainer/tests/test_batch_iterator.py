"""Batches from units of work and from memory: order, boundaries, keys, weights, raw ids."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from distributed_trainer import batch_iterator
from distributed_trainer.batch_iterator import (
    Batch,
    BatchIterator,
    KeyBatch,
    read_ahead,
    table_batches,
    unit_batches,
)
from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig, WeightConfig
from distributed_trainer.data_loader import S3ParquetDataLoader
from distributed_trainer.units import UnitOfWork, units_of_work
from pyspark_ps.errors import ConfigurationError, InvalidArgumentError

CONFIG = TrainerConfig(
    feature_config=FeatureConfig(["id"], ["x"], {"id": 4}),
    target_config=TargetConfig(["y"]),
    batch_size=10,
)


@pytest.fixture
def unit(write_parquet: Any, tmp_path: Any) -> UnitOfWork:
    """105 rows in three files; x is the row's number, id its remainder by 7."""
    for index, (first, last) in enumerate(((0, 40), (40, 41), (41, 105))):
        rows = range(first, last)
        columns = {"id": [r % 7 for r in rows], "x": [float(r) for r in rows], "y": [0] * len(rows)}
        write_parquet(f"{index}.parquet", columns, row_group_size=16)
    (only,) = units_of_work(S3ParquetDataLoader().discover_partitions(str(tmp_path)), 10)
    return only


def _order(batches: Iterator[KeyBatch]) -> list[list[float]]:
    return [batch.dense[:, 0].tolist() for batch in batches]


def test_every_row_comes_once_and_only_the_last_batch_is_short(unit: UnitOfWork) -> None:
    order = _order(unit_batches(unit, CONFIG, seed=1))
    assert [len(batch) for batch in order] == [10] * 10 + [5]
    assert sorted(row for batch in order for row in batch) == list(range(105))


def test_the_order_depends_on_the_seed_alone(unit: UnitOfWork) -> None:
    first = _order(unit_batches(unit, CONFIG, seed=1))
    assert first == _order(unit_batches(unit, CONFIG, seed=1))
    assert first != _order(unit_batches(unit, CONFIG, seed=2))
    plain = _order(unit_batches(unit, replace(CONFIG, shuffle_data=False), seed=1))
    assert [row for batch in plain for row in batch] == list(range(105))


def test_prediction_keeps_the_order_of_the_files_and_needs_no_targets(unit: UnitOfWork) -> None:
    config = replace(CONFIG, target_config=TargetConfig(["no such column"]))
    batches = list(unit_batches(unit, config, seed=1, with_targets=False))
    assert [row for batch in _order(iter(batches)) for row in batch] == list(range(105))
    assert all(batch.targets is None for batch in batches)


def test_windows_bound_what_is_held_and_do_not_change_the_boundaries(
    unit: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_iterator, "SHUFFLE_WINDOW_BATCHES", 3)
    order = _order(unit_batches(unit, CONFIG, seed=1))
    assert [len(batch) for batch in order] == [10] * 10 + [5]
    for window in range(4):
        rows = sorted(row for batch in order[3 * window : 3 * window + 3] for row in batch)
        assert rows == list(range(30 * window, min(30 * window + 30, 105)))


def test_keys_are_unique_and_positions_lead_back_to_each_rows_id(unit: UnitOfWork) -> None:
    for batch in unit_batches(unit, CONFIG, seed=3):
        keys = batch.keys["id"]
        assert len(set(keys.tolist())) == len(keys)
        found = keys[batch.positions["id"]]
        assert found.tolist() == [int(row) % 7 for row in batch.dense[:, 0]]


SHARED = replace(
    CONFIG,
    feature_config=FeatureConfig(
        ["a", "b", "c", "d", "e"],
        [],
        {"a": 4, "b": 4, "c": 4, "d": 2, "e": 4},
        shared_tables={"a": "z", "c": "z", "e": "z"},
    ),
)


def _shared_batch() -> tuple[dict[str, list[Any]], KeyBatch]:
    columns: dict[str, list[Any]] = {
        "a": [1, 2, 1],
        "b": [1, 9, 9],
        "c": [2, 5, 1],
        "d": [7, 7, 8],
        "e": [[5, 6, 5], [], [1]],
        "y": [0, 1, 0],
    }
    return columns, next(iter(table_batches(pa.table(columns), SHARED)))


def test_features_of_one_table_share_one_set_of_keys() -> None:
    columns, batch = _shared_batch()
    assert list(batch.keys) == ["b", "d", "z"]
    assert sorted(batch.keys["z"].tolist()) == [1, 2, 5, 6]
    for name, table in {"a": "z", "b": "b", "c": "z", "d": "d"}.items():
        assert batch.keys[table][batch.positions[name]].tolist() == columns[name]


def test_lists_give_positions_and_the_offsets_of_each_sample() -> None:
    _, batch = _shared_batch()
    assert batch.keys["z"][batch.positions["e"]].tolist() == [5, 6, 5, 1]
    assert batch.offsets["e"].tolist() == [0, 3, 3, 4]
    assert list(batch.offsets) == ["e"]


def test_normalized_weights_add_up_to_the_rows_of_each_batch() -> None:
    table = pa.table({"id": range(15), "x": [0.0] * 15, "y": [0] * 15, "w": range(15)})
    config = replace(CONFIG, weight_config=WeightConfig("w", normalize_weights=True))
    batches = list(table_batches(table, config))
    assert [batch.weight_sum for batch in batches] == pytest.approx([10, 5])
    assert batches[0].weights[3] / batches[0].weights[1] == pytest.approx(3)
    zero = table.set_column(3, "w", pa.array([0] * 15))
    assert next(iter(table_batches(zero, config))).weight_sum == 0


# ---- reading ahead
def _threads() -> int:
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_reading_ahead_keeps_items_order_and_errors(depth: int) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("at item five")

    found: list[int] = []
    with pytest.raises(ValueError, match="item five"):
        found.extend(read_ahead(items(), depth))
    assert found == list(range(5))
    assert _threads() == 0


def test_reading_ahead_is_bounded_and_closing_ends_it() -> None:
    made: list[int] = []
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            for item in range(1_000):
                made.append(item)
                yield item
        finally:
            closed.set()

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    time.sleep(0.1)
    assert len(made) <= 4  # one taken, two waiting, one in hand
    ahead.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert len(made) < 10
    assert _threads() == 0


def test_an_abandoned_reader_ends() -> None:
    ahead = read_ahead(iter(range(100)), 1)
    next(ahead)
    del ahead
    gc.collect()
    assert _threads() == 0


# ---- batches of raw data
FEATURES = FeatureConfig(["user", "tags"], ["b", "a"], default_embedding_dim=4)
FRAME = pd.DataFrame(
    {
        "user": [2**53 + 1, 5, 5, -1],
        "tags": [["p", "q"], [], ["p"], None],
        "a": [1.0, 2.0, 3.0, 4.0],
        "b": [10, 20, 30, 40],
        "y": [0, 1, 0, 1],
        "w": [1.0, 2.0, 3.0, 4.0],
    }
)
ARGUMENTS = (FEATURES, TargetConfig(["y"]), WeightConfig("w"))


@pytest.mark.parametrize(
    "data",
    [
        FRAME,
        pa.Table.from_pandas(FRAME),
        pa.Table.from_pandas(FRAME).to_batches(max_chunksize=3),
    ],
    ids=["frame", "table", "record batches"],
)
def test_batches_hold_the_data_as_it_is(data: Any) -> None:
    iterator = BatchIterator(data, *ARGUMENTS, batch_size=3, shuffle=False)
    assert (iterator.num_samples, iterator.num_batches, len(iterator)) == (4, 2, 2)
    first, last = iterator
    assert (first.batch_size, last.batch_size) == (3, 1)
    assert first.sparse_features["user"].tolist() == [2**53 + 1, 5, 5]
    assert [None if ids is None else list(ids) for ids in first.sparse_features["tags"]] == [
        ["p", "q"],
        [],
        ["p"],
    ]
    assert last.sparse_features["user"].tolist() == [-1]
    assert last.sparse_features["tags"][0] is None
    assert first.get_dense_matrix().tolist() == [[1, 10], [2, 20], [3, 30]]
    assert first.get_dense_matrix().dtype == np.float32
    assert first.targets is not None
    assert first.targets.tolist() == [0, 1, 0]
    assert first.weights is not None
    assert first.weights.tolist() == [1, 2, 3]


def test_shuffling_keeps_rows_together_and_a_seed_repeats_the_order() -> None:
    def order(seed: int | None) -> list[float]:
        iterator = BatchIterator(FRAME, *ARGUMENTS, batch_size=4, seed=seed)
        (batch,) = iterator
        assert (batch.dense_features["b"] == 10 * batch.dense_features["a"]).all()
        (again,) = iterator
        if seed is not None:
            assert again.dense_features["a"].tolist() == batch.dense_features["a"].tolist()
        return list(batch.dense_features["a"])

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(20)}) > 1


def test_tokens_are_listed_once_each() -> None:
    (batch,) = BatchIterator(FRAME, *ARGUMENTS, batch_size=4, shuffle=False)
    by_feature = batch.get_sparse_tokens_by_feature()
    assert by_feature["user"].tolist() == [2**53 + 1, 5, -1]
    assert by_feature["user"].dtype == np.int64
    assert by_feature["tags"].tolist() == ["p", "q", None]
    assert set(batch.get_all_sparse_tokens().tolist()) == {2**53 + 1, 5, -1, "p", "q", None}


def test_a_nullable_integer_stays_exact() -> None:
    frame = FRAME.assign(user=pd.array([2**53 + 1, None, 5, 6], "Int64"))
    for data in (frame, pa.Table.from_pandas(frame)):
        (batch,) = BatchIterator(data, *ARGUMENTS, batch_size=4, shuffle=False)
        assert batch.sparse_features["user"].tolist() == [2**53 + 1, None, 5, 6]


def test_several_targets_are_a_matrix_and_no_dense_features_an_empty_one() -> None:
    (batch,) = BatchIterator(
        FRAME,
        FeatureConfig(["user"]),
        TargetConfig(["y", "w"], "regression"),
        WeightConfig(),
        shuffle=False,
    )
    assert batch.targets is not None
    assert batch.targets.shape == (4, 2)
    assert batch.get_dense_matrix().shape == (4, 0)
    assert Batch().get_all_sparse_tokens().size == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"user": [0.5] * 4}, "sparse column 'user'"),
        ({"a": ["x"] * 4}, "dense column 'a'"),
        ({"y": [None, 1, 0, 1]}, "target column 'y'"),
        ({"w": [-1.0, 1, 1, 1]}, "weight column 'w'"),
    ],
)
def test_bad_columns_are_refused_by_name(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        BatchIterator(FRAME.assign(**change), *ARGUMENTS)


def test_a_frames_columns_may_be_named_by_numbers() -> None:
    frame = pd.DataFrame([[1, 0.5, 1.0], [2, 1.5, 0.0]])
    arguments = (FeatureConfig(["0"], ["1"]), TargetConfig(["2"]), WeightConfig())
    (batch,) = BatchIterator(frame, *arguments, shuffle=False)
    assert batch.sparse_features["0"].tolist() == [1, 2]
    assert batch.dense_features["1"].tolist() == [0.5, 1.5]
    with pytest.raises(InvalidArgumentError, match="no column '7'"):
        BatchIterator(frame, FeatureConfig(["7"]), *arguments[1:])
    with pytest.raises(InvalidArgumentError, match="more than one column '0'"):
        BatchIterator(pd.concat([frame, frame[[0]]], axis=1), *arguments)


def test_weights_of_a_batch_without_a_weight_column_are_the_default_ones() -> None:
    for normalize, expected in ((False, [2.5] * 4), (True, [1.0] * 4)):
        weights = WeightConfig(normalize_weights=normalize, default_weight=2.5)
        (batch,) = BatchIterator(FRAME, FEATURES, TargetConfig(["y"]), weights)
        assert batch.weights is not None
        assert batch.weights.tolist() == expected


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="'tags'"):
        BatchIterator(FRAME.drop(columns="tags"), *ARGUMENTS)
    with pytest.raises(InvalidArgumentError, match="batch_size"):
        BatchIterator(FRAME, *ARGUMENTS, batch_size=0)
    with pytest.raises(ConfigurationError, match="default_weight"):
        BatchIterator(FRAME, FEATURES, TargetConfig(["y"]), WeightConfig(default_weight=-1))
