"""What every kind of pool shares: the specification of a worker, and running one task with it."""

from __future__ import annotations

import gc
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cloudpickle

from distributed_trainer.config import TrainerConfig
from distributed_trainer.errors import TrainingError
from distributed_trainer.pools.worker_log import last_lines, start_worker_log
from distributed_trainer.task import TaskReport, WorkerTask
from distributed_trainer.worker import WorkerTrainer
from pyspark_ps.errors import (
    ConfigurationError,
    DataCorruptionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)

# Trying again cannot help with these: they are reported at once instead of being raised in the
# task, which Spark would run again (spark.task.maxFailures) before it gives up.
FINAL_ERRORS = (
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    DataCorruptionError,
    ResourceExhaustedError,
    TrainingError,
)


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker process needs to be made; pickled once per run.

    Attributes:
        run: names the run; a process keeps its worker (model, compiled step, connections) for it.
        config: TrainerConfig as a dict.
        server_info: the servers, as dicts.
        model_builder: returns a Keras model.
        spark_hadoop: Spark's S3 settings, which may hold credentials.
    """

    run: str
    config: dict[str, Any]
    server_info: list[dict[str, Any]]
    model_builder: Callable[[], Any]
    spark_hadoop: dict[str, str] = field(default_factory=dict, repr=False)

    def pickled(self) -> PickledSpec:
        """For another process. By cloudpickle, as Spark ships functions: a builder may be defined
        anywhere, also in the program's main module."""
        return PickledSpec(self.run, cloudpickle.dumps(self))


@dataclass(frozen=True)
class PickledSpec:
    """A WorkerSpec on its way; unpickled once in each process that works for the run."""

    run: str
    spec: bytes = field(repr=False)  # holds the job's secret


@dataclass
class TaskOutcome:
    """A task's report, or why it failed for good."""

    worker_id: int
    report: TaskReport | None = None
    error: Exception | None = None
    failure: str = ""  # type and message of the error, then its traceback
    seconds: float = 0.0
    where: str = ""

    @classmethod
    def failed(cls, task: WorkerTask, error: Exception, where: str) -> TaskOutcome:
        """The outcome of a task whose error is being handled."""
        failure = f"{type(error).__name__}: {error}\n{traceback.format_exc()}{last_lines()}"
        return cls(task.worker_id, error=error, failure=failure, where=where)

    def result(self) -> TaskReport:
        """The report.

        Raises:
            TrainingError: the task failed; the cause comes first.
        """
        if self.report is None:
            raise TrainingError(
                f"{self.failure}\n(worker {self.worker_id} on {self.where})"
            ) from self.error
        return self.report


class WorkerPool(Protocol):
    """Runs the tasks of one pass over a day, each in a worker of the run."""

    def run(self, tasks: Sequence[WorkerTask]) -> list[TaskOutcome]:
        """Outcomes in the order of the tasks.

        Raises:
            TrainingError: a task could not be run.
        """

    def cancel(self) -> None:
        """Ends tasks under way, so that `run`, in another thread, raises soon. Thread-safe."""

    def close(self) -> None:
        """Ends the workers; idempotent."""


# The worker of this process, kept from task to task and from day to day: (run, worker).
_kept: tuple[str, WorkerTrainer] | None = None


class WorkerFailure(Exception):
    """A task's error that another try may cure, with what the worker logged before it."""


def run_in_this_process(pickled: PickledSpec, task: WorkerTask) -> TaskOutcome:
    """Runs a task with this process's worker, made anew when the run is another one.

    Errors that another try may cure are raised, final ones are in the outcome.
    """
    where = f"{socket.gethostname()}, process {os.getpid()}"
    try:
        is_new = _kept is None or _kept[0] != pickled.run
        report = _worker_of(pickled, task).run(task)
        if is_new:
            _freeze()
        return TaskOutcome(task.worker_id, report, where=where, seconds=report.seconds["total"])
    except FINAL_ERRORS as error:
        return TaskOutcome.failed(task, error, where)
    except Exception as error:
        _drop_worker()
        raise WorkerFailure(f"worker {task.worker_id} on {where}; {last_lines()}") from error
    except BaseException:
        _drop_worker()
        raise


def _worker_of(pickled: PickledSpec, task: WorkerTask) -> WorkerTrainer:
    global _kept
    if _kept is not None and _kept[0] == pickled.run:
        return _kept[1]
    _drop_worker()
    spec: WorkerSpec = cloudpickle.loads(pickled.spec)
    config = TrainerConfig.from_dict(spec.config)
    start_worker_log(verbose=config.verbose)
    worker = WorkerTrainer(
        task.worker_id,
        config,
        spec.server_info,
        spec.model_builder,
        spark_hadoop=spec.spark_hadoop,
    )
    _kept = (pickled.run, worker)
    return worker


def _drop_worker() -> None:
    global _kept
    kept, _kept = _kept, None
    if kept is not None:
        gc.unfreeze()
        kept[1].close()


def _freeze() -> None:
    """Takes what lives as long as the worker out of the garbage collector's sight.

    PySpark collects garbage after each task, and the next task of the process waits for it: 0.2 s
    with TensorFlow's two hundred thousand objects, a few ms without.
    """
    gc.collect()
    gc.freeze()
