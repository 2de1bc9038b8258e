"""Look-ups of a batch: forward, transpose, refusals. No TensorFlow."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig
from distributed_trainer.key_batch import KeyBatch, table_batches
from distributed_trainer.lookups import Lookups, aligned_floats, clip_rows, is_aligned
from pyspark_ps import _core
from pyspark_ps.errors import InvalidArgumentError

ROWS = 40


def _batch(dims: dict[str, int], rows: int = ROWS) -> tuple[FeatureConfig, KeyBatch]:
    """Features "a" (plain) and "b" (lists of 0 to 3 ids) of one table, "c" of its own."""
    features = FeatureConfig(
        ["a", "b", "c"], ["x"], dims, shared_tables={"a": "shared", "b": "shared"}
    )
    rng = np.random.default_rng(1)
    data = pa.table(
        {
            "a": rng.integers(0, 9, rows),
            "b": [rng.integers(0, 9, rng.integers(0, 4)).tolist() for _ in range(rows)],
            "c": rng.integers(0, 9, rows),
            "x": np.arange(rows, dtype=np.float32),
            "y": np.zeros(rows, np.float32),
        }
    )
    config = TrainerConfig(feature_config=features, target_config=TargetConfig(["y"]))
    return features, next(iter(table_batches(data, config)))


def _matrix_of(batch: KeyBatch, name: str, table: str) -> NDArray[np.float64]:
    """(B, U): the share of each row in each sample."""
    shares = np.zeros((batch.num_rows, len(batch.keys[table])))
    offsets = batch.offsets.get(name, np.arange(batch.num_rows + 1))
    for sample, (first, last) in enumerate(itertools.pairwise(offsets)):
        for position in batch.positions[name][first:last]:
            shares[sample, position] += 1 / (last - first)
    return shares


@pytest.mark.parametrize("dim", [1, 3, 4, 8, 16, 20, 32, 64])
def test_look_ups_and_their_transpose_are_matrix_products(dim: int) -> None:
    features, batch = _batch({"a": dim, "b": dim, "c": 5})
    rng = np.random.default_rng(2)
    rows = {
        "shared": rng.normal(size=(len(batch.keys["shared"]), dim)).astype(np.float32),
        "c": rng.normal(size=(len(batch.keys["c"]), 5)).astype(np.float32),
    }
    shares = {n: _matrix_of(batch, n, t) for n, t in features.shared_tables.items()}
    shares["c"] = _matrix_of(batch, "c", "c")
    lookups = Lookups(features)
    matrix = lookups.gather(batch, rows)
    assert is_aligned(matrix)
    expected = [shares["a"] @ rows["shared"], shares["b"] @ rows["shared"], shares["c"] @ rows["c"]]
    np.testing.assert_allclose(matrix[:, :-1], np.hstack(expected), rtol=1e-5, atol=1e-6)
    assert matrix[:, -1].tolist() == list(range(ROWS))
    gradient = rng.normal(size=matrix.shape).astype(np.float32)
    sums = lookups.sum_gradients(batch, gradient)
    a, b, c = gradient[:, :dim], gradient[:, dim : 2 * dim], gradient[:, 2 * dim : -1]
    np.testing.assert_allclose(sums["shared"], shares["a"].T @ a + shares["b"].T @ b, atol=1e-5)
    np.testing.assert_allclose(sums["c"], shares["c"].T @ c, atol=1e-5)


def test_a_shorter_batch_uses_the_same_memory_and_none_of_its_old_values() -> None:
    features, batch = _batch({"a": 4, "b": 4, "c": 4})
    rows = {table: np.ones((len(keys), 4), np.float32) for table, keys in batch.keys.items()}
    lookups = Lookups(features)
    first = lookups.gather(batch, rows)
    first[:] = np.nan
    lookups.give_back(first)
    _, short = _batch({"a": 4, "b": 4, "c": 4}, rows=7)
    rows = {table: np.ones((len(keys), 4), np.float32) for table, keys in short.keys.items()}
    second = lookups.gather(short, rows)
    assert np.shares_memory(first, second)
    assert np.isfinite(second).all()


def test_memory_that_is_not_given_back_or_lies_in_a_result_is_not_used_again() -> None:
    features, batch = _batch({"a": 4, "b": 4, "c": 4})
    rows = {table: np.ones((len(keys), 4), np.float32) for table, keys in batch.keys.items()}
    lookups = Lookups(features)
    kept = lookups.gather(batch, rows)
    handed_through = lookups.gather(batch, rows)
    lookups.give_back(handed_through, handed_through[:, 1:])
    third = lookups.gather(batch, rows)
    assert not any(
        np.shares_memory(a, b) for a, b in itertools.combinations((kept, handed_through, third), 2)
    )


def test_lists_that_are_all_empty_are_zeros_and_need_no_rows() -> None:
    features = FeatureConfig(["tags"], default_embedding_dim=4)
    config = TrainerConfig(feature_config=features, target_config=TargetConfig(["y"]))
    lists = pa.array([[], None, []], pa.list_(pa.int64()))
    (batch,) = table_batches(pa.table({"tags": lists, "y": [0, 1, 0]}), config)
    lookups = Lookups(features)
    assert not lookups.gather(batch, {"tags": np.empty((0, 4), np.float32)}).any()
    assert lookups.sum_gradients(batch, np.ones((3, 4), np.float32))["tags"].shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"positions": np.array([0, 3], np.int32)}, "position 3 in 3 rows"),
        ({"positions": np.array([0, -1], np.int32)}, "position -1 in 3 rows"),
        ({"positions": np.array([0], np.int32)}, "1 look-ups for 2 samples"),
        ({"column": 3}, "columns 3 to 5 of 4"),
        ({"offsets": np.array([0, 2, 1], np.int64)}, "offsets"),
        ({"offsets": np.array([-1, 0, 1], np.int64)}, "offsets"),
        ({"offsets": np.array([0, 1, 9], np.int64)}, "offsets"),
        ({"offsets": np.array([], np.int64)}, "n \\+ 1"),
        ({"positions": np.array([0, 1], np.int64)}, "int32"),
        ({"rows": np.zeros((3, 2), np.float64)}, "float32"),
    ],
)
def test_nothing_outside_of_the_arrays_is_touched(change: dict[str, Any], told: str) -> None:
    values: dict[str, Any] = {
        "rows": np.zeros((3, 2), np.float32),
        "positions": np.array([0, 2], np.int32),
        "offsets": None,
        "column": 1,
    }
    matrix = np.ones((2, 4), np.float32)
    _core.sum_rows(matrix, [tuple(values.values())])
    assert values["rows"].tolist() == [[1, 1], [0, 0], [1, 1]]
    values.update(change)
    for call in (_core.gather_rows, _core.sum_rows):
        with pytest.raises(InvalidArgumentError, match=told):
            call(matrix, [tuple(values.values())])
    assert (matrix == 1).all()


def test_rows_are_clipped_to_a_norm_and_shorter_ones_kept() -> None:
    gradient = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], np.float32)
    clip_rows(gradient, 1.0)
    np.testing.assert_allclose(gradient, [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], rtol=1e-6)


def test_aligned_memory_is_aligned() -> None:
    assert all(is_aligned(aligned_floats(count)) for count in (1, 5, 1000))
    assert not is_aligned(aligned_floats(5)[1:])
