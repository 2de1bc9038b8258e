"""Metric states: values against scikit-like definitions, exact merging, plain forms."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distributed_trainer import metrics
from distributed_trainer.config import TargetConfig
from distributed_trainer.metrics import MetricState
from pyspark_ps.errors import InvalidArgumentError

BINARY = TargetConfig(["y"])


def _clicks(rows: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2, 1.5, rows)
    predictions = (1 / (1 + np.exp(-logits))).astype(np.float32)
    targets = (rng.random(rows) < predictions).astype(np.float32)
    weights = rng.integers(0, 4, rows).astype(np.float32)
    return targets[:, None], predictions[:, None], weights


def _exact_auc(targets: Any, predictions: Any, weights: Any) -> float:
    """Share of (positive, negative) pairs in the right order, ties one half, by weight."""
    positive = targets > 0.5
    difference = predictions[positive][:, None] - predictions[~positive][None, :]
    pairs = weights[positive][:, None] * weights[~positive][None, :]
    return float((pairs * ((difference > 0) + 0.5 * (difference == 0))).sum() / pairs.sum())


def test_auc_is_the_weighted_share_of_ordered_pairs_within_its_stated_error() -> None:
    targets, predictions, weights = _clicks(4_000)
    state = MetricState(BINARY)
    state.update(targets, predictions, weights)
    exact = _exact_auc(targets[:, 0], predictions[:, 0], weights)
    assert abs(state.result()["auc"] - exact) <= state.auc_error() + 1e-12
    assert state.auc_error() < 2e-4


def test_an_uninformed_prediction_has_auc_one_half_and_one_class_has_none() -> None:
    state = MetricState(BINARY)
    state.update(np.array([[0.0], [1.0]]), np.array([[0.3], [0.3]]), np.ones(2))
    assert state.result()["auc"] == 0.5
    only = MetricState(BINARY)
    only.update(np.zeros((3, 1)), np.full((3, 1), 0.2), np.ones(3))
    assert math.isnan(only.result()["auc"])
    assert only.result()["accuracy"] == 1.0


def test_predictions_at_the_ends_are_counted() -> None:
    state = MetricState(BINARY)
    state.update(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]), np.ones(2))
    assert state.result()["auc"] == 1.0


@pytest.mark.parametrize("pending", [1, 10_000])
def test_parts_merge_to_exactly_the_state_of_the_whole(
    pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_PENDING_ROWS", pending)
    data = _clicks(900)
    whole = MetricState(BINARY)
    whole.update(*data)
    merged = MetricState(BINARY)
    for part in range(3):
        state = MetricState(BINARY)
        for first in range(300 * part, 300 * part + 300, 100):
            state.update(*(array[first : first + 100] for array in data))
        merged.merge(pickle.loads(pickle.dumps(state)))
    assert merged.result()["auc"] == whole.result()["auc"]
    assert merged.result() == pytest.approx(whole.result(), rel=1e-12)
    assert merged.sums["weight"] == whole.sums["weight"] == data[2].sum()


def test_plain_form_is_json_and_holds_everything() -> None:
    state = MetricState(BINARY)
    state.update(*_clicks(200))
    again = MetricState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again.result() == state.result()
    copied = state.copy()
    copied.update(*_clicks(200, seed=1))
    assert copied.result() != again.result()
    assert state.result() == again.result()


def test_an_empty_state_is_small_and_says_nan() -> None:
    state = MetricState(BINARY)
    assert all(math.isnan(value) for value in state.result().values())
    assert len(pickle.dumps(state)) < 1_000
    other = MetricState(BINARY)
    other.merge(state)
    assert math.isnan(other.result()["accuracy"])


def test_multi_label_averages_the_labels() -> None:
    first, second = _clicks(500, 1), _clicks(500, 2)
    weights = first[2]
    state = MetricState(TargetConfig(["a", "b"], "multi_label"))
    targets = np.concatenate([first[0], second[0]], axis=1)
    predictions = np.concatenate([first[1], second[1]], axis=1)
    state.update(targets, predictions, weights)
    exact = [_exact_auc(t[:, 0], p[:, 0], weights) for t, p, _ in (first, second)]
    assert state.result()["auc"] == pytest.approx(np.mean(exact), abs=1e-3)
    right = ((predictions > 0.5) == (targets > 0.5)).mean(axis=1)
    assert state.result()["accuracy"] == pytest.approx(np.average(right, weights=weights))


def test_multiclass_accuracy_is_weighted() -> None:
    state = MetricState(TargetConfig(["y"], "multiclass", 3))
    predictions = np.array([[0.1, 0.8, 0.1], [0.7, 0.2, 0.1]])
    state.update(np.array([1, 2]), predictions, np.array([3.0, 1.0]))
    assert state.result() == {"accuracy": 0.75}


def test_regression_errors_are_weighted_means_over_rows_and_outputs() -> None:
    state = MetricState(TargetConfig(["a", "b"], "regression"))
    targets = np.array([[1.0, 2.0], [3.0, 4.0]])
    predictions = np.array([[2.0, 2.0], [3.0, 7.0]])
    state.update(targets, predictions, np.array([1.0, 3.0]))
    result = state.result()
    assert result["mse"] == pytest.approx((1 * 1 + 3 * 9) / 8)
    assert result["mae"] == pytest.approx((1 * 1 + 3 * 3) / 8)
    assert result["rmse"] == pytest.approx(math.sqrt(result["mse"]))
    assert result["target_mean"] == pytest.approx((3 + 3 * 7) / 8)


def test_states_of_different_tasks_do_not_merge() -> None:
    with pytest.raises(InvalidArgumentError, match="regression"):
        MetricState(BINARY).merge(MetricState(TargetConfig(["y"], "regression")))
