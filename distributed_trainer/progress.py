"""What a person sees while a range of days is trained."""

from __future__ import annotations

import logging
import sys
from typing import Any

from distributed_trainer.config import TrainerConfig
from distributed_trainer.results import TRAINED, DayTrainingResult

logger = logging.getLogger(__name__)


class RangeProgress:
    """One progress bar for a range; plain lines where there is no terminal."""

    def __init__(self, days: int, config: TrainerConfig) -> None:
        self._verbose = config.verbose
        self._days = days
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> RangeProgress:
        if self._verbose and (sys.stderr.isatty() or _in_notebook()):
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._days, unit="day", dynamic_ncols=True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def day_done(self, day: DayTrainingResult) -> None:
        """Shows a finished day."""
        self._done += 1
        text = describe(day)
        if self._bar is not None:
            self._bar.set_description(day.date)
            self._bar.set_postfix_str(text)
            self._bar.update()
        elif self._verbose:
            print(f"[{self._done}/{self._days}] {day.date}  {text}", file=sys.stderr, flush=True)
        logger.debug("%s: %s", day.date, text)


def describe(day: DayTrainingResult) -> str:
    """A day in a line: samples/s, loss, AUC (of the validation where there is one)."""
    if day.status != TRAINED:
        return day.status
    rate = day.total_samples / max(day.training_time_seconds, 1e-9)
    parts = [f"{day.total_samples:,} rows", f"{rate:,.0f}/s", f"loss {day.avg_loss:.4f}"]
    if "auc" in day.metrics:
        parts.append(f"auc {day.metrics['auc']:.4f}")
    if day.validation and "auc" in day.validation:
        parts.append(f"auc before {day.validation['auc']:.4f}")
    return "  ".join(parts)


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules
