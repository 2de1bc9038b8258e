"""The compiled training step: rows gathered, one forward and one backward pass, in one function.

A plain function of a batch, its rows and the dense weights; it knows nothing of servers or Spark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.batch_iterator import KeyBatch
from distributed_trainer.config import TrainerConfig
from distributed_trainer.tf_model_wrapper import TFModelWrapper


@dataclass
class StepResult:
    """What one step yields; arrays are valid until the next call of the same step.

    Attributes:
        loss: sum(per-sample loss x weight) / B + regularisation losses: what was differentiated.
        loss_sum: sum(per-sample loss x weight).
        weight_gradients: name -> float32 of the weight's shape; trainable weights that the loss
            depends on.
        row_gradients: table -> float32 (U, dim), aligned with `KeyBatch.keys[table]`.
        predictions: float32 (B, output_dim).
    """

    loss: float
    loss_sum: float
    weight_gradients: dict[str, NDArray[np.float32]]
    row_gradients: dict[str, NDArray[np.float32]]
    predictions: NDArray[np.float32]


class TrainingStep:
    """Compiled once per model; no new trace for a short batch.

    Args:
        wrapper: the model; it is changed in place (weights given to `train`, moving statistics).
        config: features, target, clipping.

    Raises:
        ConfigurationError: wrong input or output size (see `check_model`).
    """

    def __init__(self, wrapper: TFModelWrapper, config: TrainerConfig) -> None:
        raise NotImplementedError

    def train(
        self,
        batch: KeyBatch,
        rows: Mapping[str, NDArray[np.float32]],
        weights: Mapping[str, NDArray[np.float32]] | None = None,
        *,
        seed: int = 0,
    ) -> StepResult:
        """One step: forward with training=True, loss, gradients. Applies no optimizer.

        Args:
            rows: table -> float32 (U, dim) of `batch.keys`.
            weights: values to give the dense weights before the step (only those that changed);
                None or empty = as they are.
            seed: of dropout and the like (`DayPass.batch_seed`).

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        raise NotImplementedError

    def predict(
        self,
        batch: KeyBatch,
        rows: Mapping[str, NDArray[np.float32]],
        weights: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> tuple[NDArray[np.float32], float]:
        """Predictions (B, output_dim) with training=False, and sum(per-sample loss x weight).

        The second is 0 where the batch has no targets. Nothing in the model changes (but `weights`).
        """
        raise NotImplementedError


def check_model(wrapper: TFModelWrapper, config: TrainerConfig) -> None:
    """Refuses a model whose inputs or outputs do not fit the configuration.

    Raises:
        ConfigurationError: names the size found, the size needed and where it comes from.
    """
    raise NotImplementedError


def rate_scale(config: TrainerConfig, step: int) -> float:
    """learning_rate_schedule(step) / model_learning_rate; 1 without a schedule.

    For `push_gradients(..., rate_scale=)`. `step` counts the steps of the run and must not depend
    on the attempt (the driver tells each unit where it starts).
    """
    raise NotImplementedError
