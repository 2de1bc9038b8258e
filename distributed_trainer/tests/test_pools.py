"""What a worker process keeps and tells, and what errors of Spark come to. No TensorFlow here."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig
from distributed_trainer.pools import base, slots
from distributed_trainer.pools.base import PickledSpec, WorkerFailure, WorkerSpec
from distributed_trainer.pools.spark import first_cause
from distributed_trainer.task import DayPass, TaskReport, WorkerTask
from pyspark_ps import ConfigurationError, InvalidArgumentError, PSConnectionError
from pyspark_ps.placement import executors

TASK = WorkerTask(3, DayPass("run", 0, 0, "2024-03-01"), ())


class FakeWorker:
    """Stands where a WorkerTrainer would; `fails` is raised by the next runs."""

    made = 0
    closed = 0
    fails: Exception | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        FakeWorker.made += 1

    def run(self, task: WorkerTask) -> TaskReport:
        logging.getLogger("distributed_trainer.worker").info("worker %d begins", task.worker_id)
        if FakeWorker.fails is not None:
            raise FakeWorker.fails
        return TaskReport(seconds={"total": 1.0})

    def close(self) -> None:
        FakeWorker.closed += 1


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> Iterator[PickledSpec]:
    monkeypatch.setattr(base, "WorkerTrainer", FakeWorker)
    FakeWorker.made = FakeWorker.closed = 0
    FakeWorker.fails = None
    config = TrainerConfig(
        feature_config=FeatureConfig(["user"]), target_config=TargetConfig(["click"])
    )
    yield WorkerSpec("run", config.to_dict(), [], dict).pickled()
    base._drop_worker()


def test_a_process_keeps_its_worker_for_the_run_out_of_the_collectors_sight(
    spec: PickledSpec,
) -> None:
    for _ in range(2):
        outcome = base.run_in_this_process(spec, TASK)
        assert outcome.result().seconds == {"total": 1.0}
    assert FakeWorker.made == 1
    assert gc.get_freeze_count() > 0
    base.run_in_this_process(PickledSpec("another run", spec.spec), TASK)
    assert (FakeWorker.made, FakeWorker.closed) == (2, 1)
    base._drop_worker()
    assert gc.get_freeze_count() == 0


def test_an_error_that_another_try_may_cure_is_raised_with_the_workers_last_words(
    spec: PickledSpec,
) -> None:
    FakeWorker.fails = PSConnectionError("server 1 is gone")
    with pytest.raises(WorkerFailure, match=r"worker 3 on .*\n.*worker 3 begins") as failure:
        base.run_in_this_process(spec, TASK)
    assert failure.value.__cause__ is FakeWorker.fails
    assert FakeWorker.closed == 1  # the next try starts with new connections


def test_a_final_error_is_an_outcome_with_the_workers_last_words(spec: PickledSpec) -> None:
    FakeWorker.fails = InvalidArgumentError("column 'x' of a.parquet")
    outcome = base.run_in_this_process(spec, TASK)
    assert outcome.error is FakeWorker.fails
    assert outcome.failure.startswith("InvalidArgumentError: column 'x' of a.parquet\n")
    assert "worker 3 begins" in outcome.failure
    assert FakeWorker.closed == 0


def test_the_first_line_of_a_failed_job_is_the_workers_own_error() -> None:
    text = (
        "An error occurred while calling o1.collect.\n"
        "Job aborted. most recent failure: Lost task 0.3 (executor 1): Traceback:\n"
        '  File "worker.py", line 1\n'
        "pyspark_ps.errors.PSConnectionError: server 1 is gone\n"
        "The above exception was the direct cause of the following exception:\n"
        "distributed_trainer.pools.base.WorkerFailure: worker 3; last lines of its log\n"
    )
    assert first_cause(RuntimeError(text)).startswith("PSConnectionError: server 1 is gone\n")
    lost = "o1\nMost recent failure: Lost task 0.3: ExecutorLostFailure (killed)\n"
    assert first_cause(RuntimeError(lost)).startswith("Lost task 0.3: ExecutorLostFailure")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"maxExecutors": "3"}, None),
        ({"maxExecutors": "3", "cores": "4"}, 12),
        ({"maxExecutors": "3", "cores": "4", "cpus": "2"}, 6),
    ],
)
def test_slots_that_come_and_go_are_counted_by_what_spark_may_start(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: int | None
) -> None:
    names = {
        "maxExecutors": "spark.dynamicAllocation.maxExecutors",
        "cores": "spark.executor.cores",
        "cpus": "spark.task.cpus",
    }
    conf = {names[name]: value for name, value in settings.items()}
    monkeypatch.setattr(executors, "allocates_dynamically", lambda context: True)
    context: Any = SimpleNamespace(getConf=lambda: conf)
    assert slots.count_slots(context) == expected


def test_too_few_slots_are_told_with_the_numbers_and_the_settings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slots, "count_slots", lambda context: 4)
    context: Any = None
    slots.check_slots(context, servers=2, workers=2)
    assert not caplog.records
    slots.check_slots(context, servers=2, workers=3)
    assert "3 workers share 2 task slots (4 slots, 2 of them taken by servers)" in caplog.text
    with pytest.raises(ConfigurationError, match=r"4 task slots and 4 servers.*instances"):
        slots.check_slots(context, servers=4, workers=1)
