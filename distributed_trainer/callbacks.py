"""Keras callbacks on the driver: a day is an epoch, the logs are those of all workers together.

What callbacks do to the model takes effect where the training is: a changed `stop_training` ends
the range, a changed `optimizer.learning_rate` scales the rates of the next day's dense weights and
rows alike, and changed weights go to the servers. Batch hooks are called once a day, with the day's
logs: the workers' batches have no common order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distributed_trainer.results import DayTrainingResult
from distributed_trainer.session import Session
from pyspark_ps.errors import InvalidArgumentError

logger = logging.getLogger(__name__)


class DayCallbacks:
    """A list of Keras callbacks during one range; does nothing when it is empty.

    Raises:
        InvalidArgumentError: something that is no Keras callback.
    """

    def __init__(self, callbacks: Sequence[Any], session: Session, num_days: int) -> None:
        self._list: Any = None
        self._session = session
        self._model = session.wrapper.get_model()
        if not callbacks:
            return
        import keras

        for callback in callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise InvalidArgumentError(
                    f"callbacks: {callback!r} is no keras.callbacks.Callback"
                )
            if getattr(callback, "restore_best_weights", False):
                logger.warning(
                    "%s: the best day's dense weights will be restored, the rows stay as they are "
                    "then; to go back with the rows as well, load that day's checkpoint",
                    type(callback).__name__,
                )
        session.fetch_weights()
        self._list = keras.callbacks.CallbackList(
            list(callbacks), model=self._model, epochs=num_days, steps=None, verbose=0
        )

    def train_begin(self) -> None:
        """Before the first day. The model has an optimizer from now to `close`."""
        if self._list is None:
            return
        import keras

        rate = self._session.config.model_learning_rate * self._session.state.rate_scale
        self._own_optimizer = getattr(self._model, "optimizer", None)
        self._model.optimizer = keras.optimizers.SGD(rate)
        self._model.stop_training = False
        self._list.on_train_begin()

    def day_begin(self, index: int) -> None:
        """Before a day is trained: callbacks may set the learning rate."""
        if self._list is None:
            return
        self._model.optimizer.iterations.assign(self._session.state.steps)
        self._list.on_epoch_begin(index)
        self._take_rate()

    def day_end(self, index: int, day: DayTrainingResult) -> bool:
        """After a day; whether a callback asked to stop."""
        if self._list is None:
            return False
        self._session.fetch_weights()
        self._model.optimizer.iterations.assign(self._session.state.steps)
        logs = {"loss": day.avg_loss, **day.metrics}
        self._batch(max(0, day.total_batches - 1), logs)
        if day.validation is not None:
            self._list.on_test_begin()
            self._list.on_test_end(dict(day.validation))
            logs.update({f"val_{name}": value for name, value in day.validation.items()})
        logs["learning_rate"] = float(self._model.optimizer.learning_rate)
        self._watched(lambda: self._list.on_epoch_end(index, logs))
        self._take_rate()
        return bool(self._model.stop_training)

    def stop_at_nan(self) -> bool:
        """After the loss has become NaN; whether a callback (TerminateOnNaN) asked to stop."""
        if self._list is None:
            return False
        self._batch(0, {"loss": math.nan})
        return bool(self._model.stop_training)

    def train_end(self) -> None:
        """After the last day."""
        if self._list is not None:
            self._watched(self._list.on_train_end)

    def close(self) -> None:
        """Gives the model its own optimizer back."""
        if self._list is not None:
            self._model.optimizer = self._own_optimizer

    def _batch(self, batch: int, logs: dict[str, float]) -> None:
        self._list.on_train_batch_begin(batch)
        self._list.on_train_batch_end(batch, dict(logs))

    def _take_rate(self) -> None:
        rate = self._session.config.model_learning_rate
        if rate > 0:
            self._session.state.rate_scale = float(self._model.optimizer.learning_rate) / rate

    def _watched(self, call: Any) -> None:
        """Calls, then stores the weights that the call has changed."""
        before = self._session.wrapper.get_weights()
        call()
        after = self._session.wrapper.get_weights()
        changed = [name for name in after if not np.array_equal(before[name], after[name])]
        if changed:
            self._session.store_weights(changed)
