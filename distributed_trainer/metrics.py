"""Metric states that merge exactly over batches, workers and days. NumPy only.

The area under the ROC curve comes from histograms of the predictions on the logit scale: BINS bins
between logit -16 and 16, each 0.0005 wide. Pairs that share a bin count one half, so the error is
at most half the share of such pairs: sum(positives x negatives of a bin) / (2 x P x N), which
`MetricState.auc_error` gives for the data seen. With many labels each has at least BINS_MIN bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.config import TargetConfig
from pyspark_ps.errors import InvalidArgumentError

BINS = 65_536
BINS_MIN = 4_096
LOGIT_MAX = 16.0
_PENDING_ROWS = 65_536  # predictions kept before they are counted, for speed


class MetricState:
    """Weighted sums of one task type; `result` turns them into named numbers.

    Names, each weighted by the sample weights:

    - binary_classification, multi_label: auc (multi_label: the mean over the labels), accuracy
      (threshold 0.5), prediction_mean, target_mean.
    - multiclass: accuracy.
    - regression: mse, rmse, mae, prediction_mean, target_mean.
    """

    def __init__(self, target_config: TargetConfig) -> None:
        self.task_type = target_config.task_type
        self.num_outputs = target_config.get_output_dim()
        self.sums: dict[str, float] = {"weight": 0.0}
        self._pending: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        self._pending_rows = 0
        self._bins = 0
        if self.task_type in ("binary_classification", "multi_label"):
            self._bins = max(BINS_MIN, BINS // max(1, self.num_outputs))
        shape = (max(1, self.num_outputs) if self._bins else 0, self._bins)
        self._positives = np.zeros(shape)
        self._negatives = np.zeros(shape)

    def update(
        self, targets: NDArray[Any], predictions: NDArray[Any], weights: NDArray[Any]
    ) -> None:
        """Adds a batch: targets as in KeyBatch, predictions (B, output_dim), weights (B,)."""
        self._pending.append((targets, predictions, weights))
        self._pending_rows += len(weights)
        if self._pending_rows >= _PENDING_ROWS:
            self._count()

    def merge(self, other: MetricState) -> None:
        """Adds another state's sums.

        Raises:
            InvalidArgumentError: a state of another task.
        """
        if (other.task_type, other.num_outputs) != (self.task_type, self.num_outputs):
            raise InvalidArgumentError(
                f"metrics of {other.task_type!r} with {other.num_outputs} outputs do not merge "
                f"into {self.task_type!r} with {self.num_outputs}"
            )
        self._count()
        other._count()
        for name, value in other.sums.items():
            self._add(name, value)
        self._positives += other._positives
        self._negatives += other._negatives

    def copy(self) -> MetricState:
        """A state of its own with the same sums."""
        return MetricState.from_dict(self.to_dict())

    def result(self) -> dict[str, float]:
        """name -> value; NaN where nothing defines it (no samples, AUC of one class)."""
        self._count()
        weight = self.sums["weight"]
        names = [name for name in _SUMS_OF[self.task_type] if name != "weight"]
        values = {
            name: self.sums.get(name, 0.0) / weight if weight > 0 else float("nan")
            for name in names
        }
        if self.task_type == "regression":
            values["rmse"] = float(np.sqrt(values["mse"]))
        if self._bins:
            areas = [_area(p, n)[0] for p, n in zip(self._positives, self._negatives, strict=True)]
            known = [area for area in areas if not np.isnan(area)]
            values = {"auc": float(np.mean(known)) if known else float("nan"), **values}
        return values

    def auc_error(self) -> float:
        """The most by which the histogram's AUC may differ from the exact one (worst label)."""
        self._count()
        errors = [_area(p, n)[1] for p, n in zip(self._positives, self._negatives, strict=True)]
        return max((error for error in errors if not np.isnan(error)), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values (JSON); histograms as (bin numbers, positives, negatives) of filled bins."""
        self._count()
        histograms = []
        for positives, negatives in zip(self._positives, self._negatives, strict=True):
            filled = np.flatnonzero((positives != 0) | (negatives != 0))
            histograms.append(
                [filled.tolist(), positives[filled].tolist(), negatives[filled].tolist()]
            )
        return {
            "task_type": self.task_type,
            "num_outputs": self.num_outputs,
            "sums": dict(self.sums),
            "histograms": histograms,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MetricState:
        """The inverse of `to_dict`."""
        state = cls(_stand_in(values["task_type"], values["num_outputs"]))
        state.sums = dict(values["sums"])
        for label, (filled, positives, negatives) in enumerate(values["histograms"]):
            state._positives[label, filled] = positives
            state._negatives[label, filled] = negatives
        return state

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_dict, (self.to_dict(),)

    def _add(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def _count(self) -> None:
        if not self._pending:
            return
        targets = np.concatenate([batch[0] for batch in self._pending])
        predictions = np.concatenate([batch[1] for batch in self._pending]).astype(np.float64)
        weights = np.concatenate([batch[2] for batch in self._pending]).astype(np.float64)
        self._pending, self._pending_rows = [], 0
        self._add("weight", float(weights.sum()))
        if self.task_type == "multiclass":
            hits = predictions.argmax(axis=1) == targets
            self._add("accuracy", float((hits * weights).sum()))
            return
        targets = targets.astype(np.float64)
        shares = weights / targets.shape[1]
        self._add("prediction_mean", _weighted(predictions, shares))
        self._add("target_mean", _weighted(targets, shares))
        if self.task_type == "regression":
            errors = predictions - targets
            self._add("mse", _weighted(errors**2, shares))
            self._add("mae", _weighted(np.abs(errors), shares))
            return
        self._add("accuracy", _weighted((predictions > 0.5) == (targets > 0.5), shares))
        bins = _bins_of(predictions, self._bins)
        for label in range(bins.shape[1]):
            wanted = targets[:, label]
            self._positives[label] += np.bincount(
                bins[:, label], weights * wanted, minlength=self._bins
            )
            self._negatives[label] += np.bincount(
                bins[:, label], weights * (1.0 - wanted), minlength=self._bins
            )


_MEANS = ("prediction_mean", "target_mean")
_SUMS_OF = {
    "binary_classification": ("accuracy", *_MEANS),
    "multi_label": ("accuracy", *_MEANS),
    "multiclass": ("accuracy",),
    "regression": ("mse", "mae", *_MEANS),
}


def _from_dict(values: Mapping[str, Any]) -> MetricState:
    return MetricState.from_dict(values)


def _stand_in(task_type: str, num_outputs: int) -> TargetConfig:
    if task_type == "multiclass":
        return TargetConfig(["target"], task_type, num_outputs)
    return TargetConfig([f"target {i}" for i in range(num_outputs)], task_type)


def _weighted(values: NDArray[Any], shares: NDArray[np.float64]) -> float:
    return float((values * shares[:, None]).sum())


def _bins_of(probabilities: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    inside = np.clip(np.nan_to_num(probabilities, nan=0.5), 1e-9, 1.0 - 1e-9)
    logits = np.log(inside / (1.0 - inside))
    scaled = (logits + LOGIT_MAX) * (bins / (2.0 * LOGIT_MAX))
    return np.clip(scaled, 0, bins - 1).astype(np.int64)


def _area(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> tuple[float, float]:
    """(area under the ROC curve, its largest error); NaN where a class is missing."""
    pairs = float(positives.sum() * negatives.sum())
    if pairs <= 0:
        return float("nan"), float("nan")
    below = np.cumsum(negatives) - negatives
    ties = float((positives * negatives).sum()) / 2.0
    return (float((positives * below).sum()) + ties) / pairs, ties / pairs
