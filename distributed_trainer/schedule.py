"""Keras learning-rate schedules as a factor on the servers' rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distributed_trainer.config import TrainerConfig
from pyspark_ps.errors import ConfigurationError

_SCHEDULES: dict[int, tuple[Any, Callable[[int], float]]] = {}


def rate_scale(config: TrainerConfig, step: int) -> float:
    """learning_rate_schedule(step) / model_learning_rate; 1 without a schedule.

    For `push_gradients(..., rate_scale=)`. `step` counts the steps of the run and must not depend
    on the attempt (the driver tells each unit where it starts).
    """
    schedule = config.learning_rate_schedule
    if schedule is None:
        return 1.0
    kept = _SCHEDULES.get(id(schedule))
    if kept is None or kept[0] is not schedule:
        _SCHEDULES.clear()
        kept = _SCHEDULES[id(schedule)] = (schedule, _compiled_schedule(schedule))
    return kept[1](step) / config.model_learning_rate


def _compiled_schedule(schedule: Any) -> Callable[[int], float]:
    import keras
    import tensorflow as tf

    rates = schedule
    if isinstance(schedule, Mapping):
        try:
            rates = keras.optimizers.schedules.deserialize(dict(schedule))
        except Exception as error:
            raise ConfigurationError(
                f"TrainerConfig.learning_rate_schedule: Keras cannot rebuild it: {error}"
            ) from error
    function = tf.function(
        lambda step: tf.cast(rates(step), tf.float32),
        input_signature=[tf.TensorSpec((), tf.int64)],
        autograph=False,
    )

    def rate(step: int) -> float:
        return float(function(tf.constant(step, tf.int64)))

    return rate
