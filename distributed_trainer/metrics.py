"""Metric states that merge exactly over batches, workers and days. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from distributed_trainer.config import TargetConfig


class MetricState:
    """Weighted sums of one task type; `result` turns them into named numbers.

    Names: loss, samples_weighted ... plus auc, accuracy (binary, multi_label), accuracy
    (multiclass), mse, mae, rmse (regression).
    """

    def __init__(self, target_config: TargetConfig) -> None:
        raise NotImplementedError

    def update(
        self, targets: NDArray[Any], predictions: NDArray[Any], weights: NDArray[Any]
    ) -> None:
        """Adds a batch: targets as in KeyBatch, predictions (B, output_dim), weights (B,)."""
        raise NotImplementedError

    def merge(self, other: MetricState) -> None:
        """Adds another state's sums."""
        raise NotImplementedError

    def copy(self) -> MetricState:
        """A state of its own with the same sums."""
        raise NotImplementedError

    def result(self) -> dict[str, float]:
        """name -> value; NaN where nothing defines it (AUC of one class)."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Plain values (JSON)."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MetricState:
        """The inverse of `to_dict`."""
        raise NotImplementedError
