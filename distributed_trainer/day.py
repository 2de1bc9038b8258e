"""One day: validated if asked, trained, saved, decayed, and what it came to."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from distributed_trainer.errors import TrainingError
from distributed_trainer.results import TRAINED, DayTrainingResult, evaluation_of, metrics_of
from distributed_trainer.session import Session
from distributed_trainer.task import EVALUATE, TaskReport
from distributed_trainer.units import UnitOfWork
from distributed_trainer.worker import WorkerTrainingResult
from pyspark_ps.errors import PSError

logger = logging.getLogger(__name__)

SLOWEST_FILES = 5
RECOVERIES_MAX = 3  # losses of servers that one day outlives


def train_day(
    session: Session, date: str, units: Sequence[UnitOfWork], *, validate: bool = False
) -> tuple[DayTrainingResult, TaskReport]:
    """Trains once on a day's units; its result, and the sums that it is made of.

    When a server is lost, all of them go back to the last checkpoint and the day starts again.

    Raises:
        TrainingError: names the day; the cause comes first, and is chained.
    """
    for recoveries_left in reversed(range(RECOVERIES_MAX + 1)):
        try:
            return _train_day(session, date, units, validate)
        except PSError as error:
            lost = session.lost_servers(error)
            if not lost or session.restorable is None or recoveries_left == 0:
                raise TrainingError(f"{date} failed: {error}{_advice(session, lost)}") from (
                    error.__cause__ or error
                )
            logger.warning(
                "%s: servers %s were lost (%s); all go back to %s and the day is trained again",
                date,
                lost,
                error,
                session.restorable,
            )
        session.recover()
    raise AssertionError("not reached")


def _advice(session: Session, lost: Sequence[int]) -> str:
    if not lost or session.restorable is not None:
        return ""
    return (
        f"\nServers {lost} were lost with their rows, and no checkpoint holds what was trained so "
        "far: set s3_checkpoint_path to outlive that"
    )


def _train_day(
    session: Session, date: str, units: Sequence[UnitOfWork], validate: bool
) -> tuple[DayTrainingResult, TaskReport]:
    started = time.perf_counter()
    if session.state.decay_due:
        session.decay()
    validation = evaluation_of(session.look(date, units, EVALUATE)) if validate else None
    report, outcomes = session.train(date, units)
    session.state.last_day = max(session.state.last_day, date)
    session.state.decay_due = session.config.decay_after_each_day
    checkpoint_path = session.save_day(date)
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
        checkpoint_path=checkpoint_path,
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
