"""Batches of data in memory, as users see them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from distributed_trainer.batch_iterator import Batch, BatchIterator
from distributed_trainer.config import FeatureConfig, TargetConfig, WeightConfig
from pyspark_ps.errors import ConfigurationError, InvalidArgumentError

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
