"""What the flights example is held against: logistic regression and plain Keras, in one process.

The protocol is the example's: day by day, one pass, the same batch size; each day to be shown is
predicted before it is trained on, and the AUC is the mean of those days'. Learning rates are the
best of three, chosen by the same protocol on July and August.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distributed_trainer.config import TargetConfig
from distributed_trainer.data_loader import parse_date_range
from distributed_trainer.examples.flights_data import DENSE, SPARSE, TARGET
from distributed_trainer.metrics import MetricState

CHOICE_DAYS = ("2013-07-01", "2013-08-31")
# Of rows and dense weights; of SGD: its eta0.
KERAS_RATES = ((0.2, 0.001), (0.4, 0.001), (0.8, 0.001))
SGD_RATES = (0.003, 0.01, 0.03)


class Learner(Protocol):
    """A model that learns day by day. Days are row numbers of `Flights`."""

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Chances of being late, (n,)."""

    def train(self, rows: NDArray[np.int64]) -> None:
        """One pass over the rows, in batches."""


class Flights:
    """The data in memory: ids as numbers 0..n-1 of each feature's vocabulary.

    Attributes:
        ids: int32 (rows, features), features in sorted order.
        dense: float32 (rows, numbers), sorted order.
        late: float32 (rows, 1).
        rows_of: date -> row numbers.
    """

    def __init__(self, folder: Path, dates: Iterable[str]) -> None:
        frames = {date: pd.read_parquet(folder / f"dt={date}") for date in dates}
        table = pd.concat(frames.values(), ignore_index=True)
        coded = [pd.factorize(table[name], use_na_sentinel=False) for name in sorted(SPARSE)]
        self.ids = np.stack([codes for codes, _ in coded], axis=1).astype(np.int32)
        self.sizes = [len(uniques) for _, uniques in coded]
        self.dense = table[sorted(DENSE)].to_numpy(np.float32)
        self.late = table[[TARGET]].to_numpy(np.float32)
        ends = np.cumsum([len(frame) for frame in frames.values()])
        starts = np.concatenate([[0], ends[:-1]])
        self.rows_of = {
            date: np.arange(start, end)
            for date, start, end in zip(frames, starts, ends, strict=True)
        }


class LogisticRegression:
    """scikit-learn's SGDClassifier on one-hot ids and the numbers."""

    def __init__(self, flights: Flights, rate: float) -> None:
        from sklearn.linear_model import SGDClassifier

        self._flights = flights
        self._model = SGDClassifier(
            loss="log_loss", learning_rate="constant", eta0=rate, alpha=1e-6, random_state=0
        )
        self._is_trained = False

    def _features(self, rows: NDArray[np.int64]) -> Any:
        from scipy import sparse

        offsets = np.concatenate([[0], np.cumsum(self._flights.sizes)[:-1]])
        columns = self._flights.ids[rows] + offsets
        count, features = columns.shape
        hot = sparse.csr_matrix(
            (
                np.ones(columns.size, np.float32),
                columns.ravel(),
                np.arange(0, columns.size + 1, features),
            ),
            shape=(count, sum(self._flights.sizes)),
        )
        return sparse.hstack([hot, self._flights.dense[rows]], format="csr")

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Learner.predict`."""
        if not self._is_trained:
            return np.full(len(rows), 0.5, np.float32)
        chances: NDArray[Any] = self._model.predict_proba(self._features(rows))[:, 1]
        return chances.astype(np.float32)

    def train(self, rows: NDArray[np.int64]) -> None:
        """See `Learner.train`."""
        order = np.random.default_rng(int(rows[0])).permutation(rows)
        self._model.partial_fit(self._features(order), self._flights.late[order, 0], classes=[0, 1])
        self._is_trained = True


class PlainKeras:
    """The example's network and optimizers in one process, its tables as variables."""

    def __init__(
        self,
        flights: Flights,
        build_model: Callable[[], Any],
        dim: int,
        batch_size: int,
        decay: float,
        rates: tuple[float, float],
    ) -> None:
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(2013)
        self._flights, self._batch_size, self._decay = flights, batch_size, decay
        model = build_model()
        tables = [
            keras.Variable(tf.random.normal((size, dim), stddev=0.01, seed=i))
            for i, size in enumerate(flights.sizes)
        ]
        rows_optimizer = keras.optimizers.Adagrad(rates[0], 0.1, epsilon=1e-20)
        weights_optimizer = keras.optimizers.Adam(rates[1], epsilon=1e-8)
        rows_optimizer.build(tables)
        weights_optimizer.build(model.trainable_variables)
        loss_of = keras.losses.BinaryCrossentropy()
        values = [variable.value for variable in [*model.trainable_variables, *tables]]
        count = len(model.trainable_variables)

        def outputs(ids: Any, dense: Any, training: bool) -> Any:
            rows = [tf.gather(table.value, ids[:, i]) for i, table in enumerate(tables)]
            return model(tf.concat([*rows, dense], axis=1), training=training)

        shapes = (
            tf.TensorSpec((None, len(tables)), tf.int32),
            tf.TensorSpec((None, flights.dense.shape[1])),
        )

        def train(ids: Any, dense: Any, late: Any) -> None:
            with tf.GradientTape() as tape:
                loss = loss_of(late, outputs(ids, dense, True))
            found = [tf.convert_to_tensor(g) for g in tape.gradient(loss, values)]
            weights_optimizer.apply(found[:count], model.trainable_variables)
            rows_optimizer.apply(found[count:], tables)

        def predict(ids: Any, dense: Any) -> Any:
            return outputs(ids, dense, False)[:, 0]

        self._tables = tables
        self._train = tf.function(train, input_signature=(*shapes, tf.TensorSpec((None, 1))))
        self._predict = tf.function(predict, input_signature=shapes)

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Learner.predict`."""
        chances: NDArray[np.float32] = self._predict(
            self._flights.ids[rows], self._flights.dense[rows]
        ).numpy()
        return chances

    def train(self, rows: NDArray[np.int64]) -> None:
        """See `Learner.train`; then decays the tables, as the example's trainer does each day."""
        order = np.random.default_rng(int(rows[0])).permutation(rows)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            self._train(
                self._flights.ids[batch], self._flights.dense[batch], self._flights.late[batch]
            )
        for table in self._tables:
            table.assign(table * self._decay)


def progressive_auc(
    learner: Learner, flights: Flights, dates: Sequence[str], shown: set[str]
) -> float:
    """Mean AUC of the days in `shown`, each predicted before it is trained on."""
    found = []
    for date in dates:
        rows = flights.rows_of[date]
        if date in shown:
            state = MetricState(TargetConfig([TARGET]))
            ones = np.ones(len(rows), np.float32)
            state.update(flights.late[rows], learner.predict(rows)[:, None], ones)
            found.append(state.result()["auc"])
        learner.train(rows)
    return float(np.nanmean(found))


def best_rate(make: Callable[[Any], Learner], rates: Sequence[Any], flights: Flights) -> Any:
    """The rate with the best progressive AUC on July and August."""
    dates = [date for date in parse_date_range(*CHOICE_DAYS) if date in flights.rows_of]
    return max(rates, key=lambda rate: progressive_auc(make(rate), flights, dates, set(dates)))
