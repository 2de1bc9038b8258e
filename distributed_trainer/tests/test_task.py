"""What a task yields depends on run, pass, day and unit; reports add up."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from distributed_trainer.config import TargetConfig
from distributed_trainer.metrics import MetricState
from distributed_trainer.task import DayPass, TaskReport, WorkerTask
from distributed_trainer.units import UnitOfWork

DAY = DayPass("run", 7, 0, "2024-03-01")
UNIT = UnitOfWork("u1", (), 0, 0)


@pytest.mark.parametrize(
    "other",
    [
        replace(DAY, run_seed=8),
        replace(DAY, pass_index=1),
        replace(DAY, date="2024-03-02"),
    ],
)
def test_seeds_follow_run_pass_and_day(other: DayPass) -> None:
    assert DAY.unit_seed(UNIT) != other.unit_seed(UNIT)
    assert DAY.batch_seed(UNIT, 0) != other.batch_seed(UNIT, 0)


def test_seeds_follow_the_unit_and_the_batch_and_nothing_else() -> None:
    unit = UnitOfWork("u2", (), 0, 0)
    assert DAY.unit_seed(UNIT) != DAY.unit_seed(unit)
    assert DAY.batch_seed(UNIT, 0) != DAY.batch_seed(UNIT, 1)
    assert DAY.unit_seed(UNIT) == replace(DAY, run="another").unit_seed(UNIT)
    assert DAY.unit_seed(UNIT) == DayPass("run", 7, 0, "2024-03-01").unit_seed(UNIT)


def test_each_unit_of_each_pass_has_a_stream_of_its_own() -> None:
    days = [DAY, replace(DAY, pass_index=1), replace(DAY, date="2024-03-02"), replace(DAY, run="b")]
    streams = {day.stream(unit) for day in days for unit in (UNIT, UnitOfWork("u2", (), 0, 0))}
    assert len(streams) == 8


def test_reports_add_up_and_moving_statistics_are_averaged_by_rows() -> None:
    total = TaskReport()
    for samples, value in ((10, 1.0), (30, 2.0)):
        metrics = MetricState(TargetConfig(["y"]))
        metrics.update(np.ones((samples, 1)), np.full((samples, 1), 0.9), np.ones(samples))
        report = TaskReport(samples, 1, samples * 0.5, float(samples), metrics, {"step": 0.25})
        report.add_moving({"1/mean": np.full(3, value, np.float32)}, samples)
        total.merge(pickle.loads(pickle.dumps(report)))
    assert (total.samples, total.batches, total.avg_loss) == (40, 2, 0.5)
    assert total.seconds == {"step": 0.5}
    assert total.metrics is not None
    assert total.metrics.sums["weight"] == 40
    np.testing.assert_allclose(total.moving_average()["1/mean"], np.full(3, 1.75))
    assert TaskReport().avg_loss == 0.0
    assert TaskReport().moving_average() == {}


def test_a_task_pickles() -> None:
    task = WorkerTask(3, DAY, (UNIT,))
    assert pickle.loads(pickle.dumps(task)) == task
