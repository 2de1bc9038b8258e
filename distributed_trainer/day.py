"""One day: validated if asked, trained, decayed, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Sequence

from distributed_trainer.errors import TrainingError
from distributed_trainer.results import TRAINED, DayTrainingResult, evaluation_of, metrics_of
from distributed_trainer.session import Session
from distributed_trainer.task import EVALUATE, TaskReport
from distributed_trainer.units import UnitOfWork
from distributed_trainer.worker import WorkerTrainingResult
from pyspark_ps.errors import PSError

SLOWEST_FILES = 5


def train_day(
    session: Session, date: str, units: Sequence[UnitOfWork], *, validate: bool = False
) -> tuple[DayTrainingResult, TaskReport]:
    """Trains once on a day's units; its result, and the sums that it is made of.

    Raises:
        TrainingError: names the day; the cause comes first, and is chained.
    """
    try:
        return _train_day(session, date, units, validate)
    except PSError as error:
        raise TrainingError(f"{date} failed: {error}") from (error.__cause__ or error)


def _train_day(
    session: Session, date: str, units: Sequence[UnitOfWork], validate: bool
) -> tuple[DayTrainingResult, TaskReport]:
    started = time.perf_counter()
    if session.state.decay_due:
        session.decay()
    validation = evaluation_of(session.look(date, units, EVALUATE)) if validate else None
    report, outcomes = session.train(date, units)
    session.state.last_day = date
    session.decay()
    day = DayTrainingResult(
        date=date,
        total_samples=report.samples,
        total_batches=report.batches,
        avg_loss=report.avg_loss,
        worker_results=[
            WorkerTrainingResult.of(outcome.worker_id, outcome.result(), outcome.seconds)
            for outcome in outcomes
        ],
        training_time_seconds=time.perf_counter() - started,
        status=TRAINED,
        metrics=metrics_of(report),
        validation=validation,
        seconds=report.seconds,
        table_rows=session.table_rows(),
        slowest_files=slowest_files(units, report),
    )
    return day, report


def slowest_files(
    units: Sequence[UnitOfWork], report: TaskReport
) -> list[dict[str, str | int | float]]:
    """What took longest: path (of a unit's first file), files in the unit, rows, seconds."""
    slowest = sorted(units, key=lambda unit: -report.unit_seconds.get(unit.id, 0.0))
    return [
        {
            "path": unit.parts[0].path,
            "files": len({part.path for part in unit.parts}),
            "rows": unit.num_rows,
            "seconds": report.unit_seconds.get(unit.id, 0.0),
        }
        for unit in slowest[:SLOWEST_FILES]
    ]
