"""A range of days, one after the other."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from distributed_trainer.callbacks import DayCallbacks
from distributed_trainer.day import train_day
from distributed_trainer.day_files import DayFiles
from distributed_trainer.errors import DivergedError, TrainingError
from distributed_trainer.progress import RangeProgress
from distributed_trainer.results import (
    DIVERGED,
    NO_DATA,
    SKIPPED,
    DayTrainingResult,
    summarize,
)
from distributed_trainer.session import Session
from distributed_trainer.task import TaskReport

logger = logging.getLogger(__name__)


class DateRange:
    """Trains on dates in their order.

    Args:
        session: started.
        files: of the days.
        record: gets each day as it ends.
        skip_to: days up to this one ("YYYY-MM-DD") are done already; "" = none.
        validate: each day is predicted before it is trained on.
    """

    def __init__(
        self,
        session: Session,
        files: DayFiles,
        record: Callable[[DayTrainingResult], None],
        *,
        skip_to: str = "",
        validate: bool = False,
    ) -> None:
        self._session = session
        self._files = files
        self._record = record
        self._skip_to = skip_to
        self._validate = validate
        self._totals = TaskReport()

    def run(self, dates: Sequence[str], callbacks: Sequence[Any] = ()) -> dict[str, Any]:
        """Trains; the summary of the range.

        Raises:
            TrainingError: a day failed; the cause comes first, and is chained.
        """
        started = time.perf_counter()
        days: list[DayTrainingResult] = []
        hooks = DayCallbacks(callbacks, self._session, len(dates))
        try:
            with RangeProgress(len(dates), self._session) as progress:
                hooks.train_begin()
                for index, date in enumerate(dates):
                    day, stop = self._day(index, date, hooks, progress)
                    days.append(day)
                    self._record(day)
                    progress.day_done(day)
                    if stop:
                        break
                hooks.train_end()
        finally:
            hooks.close()
        return summarize(dates, days, self._totals, time.perf_counter() - started)

    def _day(
        self, index: int, date: str, hooks: DayCallbacks, progress: RangeProgress
    ) -> tuple[DayTrainingResult, bool]:
        """The day's result, and whether the range ends with it."""
        if date <= self._skip_to:
            return DayTrainingResult(date=date, status=SKIPPED), False
        units = self._files.units_of(date)
        if not units:
            logger.warning("%s: no data at %s", date, self._files.path_of(date))
            return DayTrainingResult(date=date, status=NO_DATA), False
        hooks.day_begin(index)
        try:
            with progress.day(date, sum(unit.num_rows for unit in units)):
                day, report = train_day(self._session, date, units, validate=self._validate)
        except TrainingError as error:
            if not isinstance(error.__cause__, DivergedError) or not hooks.stop_at_nan():
                raise
            logger.warning("%s", error)
            return DayTrainingResult(date=date, status=DIVERGED, avg_loss=math.nan), True
        self._totals.merge(report)
        return day, hooks.day_end(index, day)
