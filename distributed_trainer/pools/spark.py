"""Workers as Spark tasks: one Spark job for each pass over a day."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from distributed_trainer.errors import TrainingError
from distributed_trainer.pools.base import (
    PickledSpec,
    TaskOutcome,
    WorkerSpec,
    run_in_this_process,
)
from distributed_trainer.task import WorkerTask

if TYPE_CHECKING:
    from pyspark import Broadcast, SparkContext

logger = logging.getLogger(__name__)


class SparkPool:
    """Runs each task as a Spark task.

    Spark reuses its Python worker processes, so model, compiled step and connections last from day
    to day (idle processes end after about a minute; the next day then starts cold).
    """

    def __init__(self, spark_context: SparkContext, spec: WorkerSpec) -> None:
        self._context = spark_context
        self._spec: Broadcast[PickledSpec] = spark_context.broadcast(spec.pickled())

    def run(self, tasks: Sequence[WorkerTask]) -> list[TaskOutcome]:
        """See `WorkerPool.run`."""
        spec = self._spec

        def run_tasks(assigned: Iterable[WorkerTask]) -> Iterable[TaskOutcome]:
            for task in assigned:
                yield run_in_this_process(spec.value, task)

        try:
            return self._context.parallelize(tasks, len(tasks)).mapPartitions(run_tasks).collect()
        except Exception as error:
            raise TrainingError(first_cause(error)) from error

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


def count_slots(spark_context: SparkContext) -> int | None:
    """Task slots once the executors have registered; None = they come and go with demand."""
    from pyspark_ps.placement import executors

    if executors.allocates_dynamically(spark_context):
        return None
    return sum(executor.slots for executor in executors.wait_for_executors(spark_context))
