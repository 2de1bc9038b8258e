"""Workers as Spark tasks: one Spark job for each pass over a day."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from distributed_trainer.errors import TrainingError
from distributed_trainer.pools.base import (
    PickledSpec,
    TaskOutcome,
    WorkerSpec,
    run_in_this_process,
)
from distributed_trainer.task import WorkerTask
from pyspark_ps.client.checkpoints import hadoop_settings

if TYPE_CHECKING:
    from pyspark import Broadcast, SparkContext

_JOB_PROPERTIES = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")


class SparkPool:
    """Runs each task as a Spark task.

    Spark reuses its Python worker processes, so model, compiled step and connections last from day
    to day (idle processes end after about a minute; the next day then starts cold).
    """

    def __init__(self, spark_context: SparkContext, spec: WorkerSpec) -> None:
        self._context = spark_context
        self._group = f"distributed-trainer-{spec.run}"
        spec = replace(spec, spark_hadoop=hadoop_settings(spark_context))
        self._spec: Broadcast[PickledSpec] = spark_context.broadcast(spec.pickled())

    def run(self, tasks: Sequence[WorkerTask]) -> list[TaskOutcome]:
        """See `WorkerPool.run`. Tasks still running when it raises are cancelled."""
        spec = self._spec

        def run_tasks(assigned: Iterable[WorkerTask]) -> Iterable[TaskOutcome]:
            for task in assigned:
                yield run_in_this_process(spec.value, task)

        day = tasks[0].day
        with self._job(f"{tasks[0].mode} {day.date}, pass {day.pass_index}"):
            rdd = self._context.parallelize(tasks, len(tasks)).mapPartitions(run_tasks)
            return rdd.collect()

    @contextmanager
    def _job(self, description: str) -> Iterator[None]:
        """Names the job in Spark's UI and ends it with the block; then the caller's group again."""
        context = self._context
        outer = {name: context.getLocalProperty(name) for name in _JOB_PROPERTIES}
        context.setJobGroup(self._group, description, interruptOnCancel=True)
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(Exception):  # Spark may be gone
                self.cancel()
            if isinstance(error, Exception):
                raise TrainingError(first_cause(error)) from error
            raise
        finally:
            with contextlib.suppress(Exception):
                for name, value in outer.items():
                    context.setLocalProperty(name, cast(str, value))  # None removes it

    def cancel(self) -> None:
        """See `WorkerPool.cancel`."""
        self._context.cancelJobGroup(self._group)

    def close(self) -> None:
        """See `WorkerPool.close`."""
        self._spec.unpersist()


def first_cause(error: Exception) -> str:
    """What went wrong in a failed Spark job: the worker's own error first, then Spark's text."""
    text = str(error)
    # A Python task's error ends its traceback: "package.module.Error: message" at a line's start.
    causes = re.findall(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)): (.*)$", text, re.M)
    python = [f"{name}: {message}" for name, message in causes if name != "Py4JJavaError"]
    # Where no Python error is told (an executor was killed), Spark's own reason says more than its
    # first line.
    reasons = re.findall(r"[Mm]ost recent failure: (.*)", text)
    first = next(iter(text.splitlines()), type(error).__name__)
    head = next(iter([*python, *reasons]), first)
    return f"{head}\n{text}"
