"""Keras callbacks on the driver, with real servers and workers: what they see and what they do."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

from distributed_trainer import DistributedTrainer, TrainingError
from pyspark_ps import InvalidArgumentError
from tests.test_training_over_servers import _build, _config, _write_day

pytestmark = pytest.mark.usefixtures("warm_workers")

FIRST, LAST, POISONED = "2024-03-01", "2024-03-03", "2024-03-04"


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DistributedTrainer]:
    folder = tmp_path_factory.mktemp("days")
    for day in (1, 2, 3, 4):
        _write_day(folder, f"2024-03-0{day}", seed=day)
    poisoned = folder / f"dt={POISONED}" / "part-2.parquet"
    table = pq.read_table(poisoned)
    huge = np.full(table.num_rows, 3e38)  # a loss of a few times that is infinite in float32
    pq.write_table(table.set_column(4, "w", [huge]), poisoned)
    with DistributedTrainer(None, _config(folder, num_workers=2, verbose=True)) as trainer:
        trainer.set_model_builder(_build)
        yield trainer


def test_csv_and_tensorboard_get_the_merged_logs_of_each_day(
    trainer: DistributedTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.csv"
    board = keras.callbacks.TensorBoard(str(tmp_path / "board"), write_graph=False)
    history = keras.callbacks.History()
    summary = trainer.train_date_range(
        FIRST,
        LAST,
        callbacks=[keras.callbacks.CSVLogger(str(log)), board, history],
        validate_before_training=True,
    )
    days = summary["daily_results"]
    with log.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["auc"]) for row in rows] == [day["metrics"]["auc"] for day in days]
    assert [float(row["val_loss"]) for row in rows] == [d["validation"]["loss"] for d in days]
    assert history.history["loss"] == [day["avg_loss"] for day in days]
    assert [float(row["learning_rate"]) for row in rows] == [pytest.approx(0.02)] * 3
    assert _scalars(tmp_path / "board" / "train")["epoch_auc"] == [
        pytest.approx(day["metrics"]["auc"]) for day in days
    ]
    assert len(_scalars(tmp_path / "board" / "validation")["epoch_auc"]) == 3
    said = capsys.readouterr().err
    assert "[2/3] 2024-03-02" in said
    assert "3 of 3 days trained, 1,800 rows" in said


def _scalars(folder: Path) -> dict[str, list[float]]:
    import tensorflow as tf

    values: dict[str, list[float]] = {}
    for path in folder.glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                values.setdefault(value.tag, []).append(number)
    return values


def test_early_stopping_over_days_restores_the_best_dense_weights(
    trainer: DistributedTrainer,
) -> None:
    seen: list[Any] = []

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(self.model.get_weights())

    # The loss is below 100 on the first day, and never 100 better than it was there.
    stop = keras.callbacks.EarlyStopping(
        "loss", min_delta=100, patience=1, restore_best_weights=True
    )
    summary = trainer.train_date_range(FIRST, LAST, callbacks=[stop, Watch()])
    assert summary["num_days_trained"] == len(seen) == 2
    for best, later, now in zip(*seen, trainer.get_model().get_weights(), strict=True):
        np.testing.assert_array_equal(now, best)
        assert not np.array_equal(now, later)


def test_a_learning_rate_set_by_a_callback_scales_dense_weights_and_rows(
    trainer: DistributedTrainer,
) -> None:
    before = trainer.get_model().get_weights()
    evaluated = trainer.evaluate(LAST)
    still = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0)
    trainer.train_date_range(FIRST, FIRST, callbacks=[still])
    for a, b in zip(before, trainer.get_model().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert trainer.evaluate(LAST) == evaluated
    again = keras.callbacks.LearningRateScheduler(lambda epoch: 0.02)
    trainer.train_date_range(FIRST, FIRST, callbacks=[again])
    assert trainer.evaluate(LAST) != evaluated


def test_terminate_on_nan_ends_the_range_where_the_loss_diverges(
    trainer: DistributedTrainer,
) -> None:
    with pytest.raises(TrainingError, match=r"2024-03-04 failed: DivergedError: the loss"):
        trainer.train_single_day(POISONED)
    summary = trainer.train_date_range(LAST, POISONED, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert [day["status"] for day in summary["daily_results"]] == ["trained", "diverged"]
    assert summary["num_days_trained"] == 1
    assert all(np.isfinite(w).all() for w in trainer.get_model().get_weights())


def test_what_is_no_callback_is_refused(trainer: DistributedTrainer) -> None:
    with pytest.raises(InvalidArgumentError, match="is no keras"):
        trainer.train_date_range(FIRST, FIRST, callbacks=[print])
