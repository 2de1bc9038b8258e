"""What a person sees while a range of days is trained: a bar or lines, and a table at the end."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distributed_trainer.results import TRAINED, DayTrainingResult
from pyspark_ps.errors import PSError

if TYPE_CHECKING:
    from distributed_trainer.session import Session

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
TABLE_WIDTH = 100  # characters, where there is no terminal to ask
METRICS_SHOWN = 2
TABLE_DAYS_MAX = 40  # a longer range's table shows the last ones


class RangeProgress:
    """One progress bar for a range (tqdm, also in notebooks); plain lines without a terminal.

    While a day is trained the rows done so far are shown each time that at least
    `progress_update_threshold` of them are new; the servers' counters tell. At the end comes a
    table of the days. `verbose=False` shows nothing.
    """

    def __init__(self, num_days: int, session: Session) -> None:
        self._session = session
        self._config = session.config
        self._num_days = num_days
        self._days: list[DayTrainingResult] = []
        self._bar: Any = None

    def __enter__(self) -> RangeProgress:
        if self._config.verbose and (sys.stderr.isatty() or _in_notebook()):
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._num_days, unit="day", dynamic_ncols=True)
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._config.verbose and exc_type is None and self._num_days > 1:
            print_table([day.record() for day in self._days])

    @contextmanager
    def day(self, date: str, rows: int) -> Iterator[None]:
        """Shows how far a day of so many rows is, as long as the block lasts."""
        if not self._config.verbose or rows <= self._config.progress_update_threshold:
            yield
            return
        done = threading.Event()
        watcher = threading.Thread(
            target=self._watch, args=(date, rows, done), name="day-progress", daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, date: str, rows: int, done: threading.Event) -> None:
        try:
            first = self._session.pushes_done()
            shown = 0
            while not done.wait(POLL_SECONDS):
                pushes = self._session.pushes_done() - first
                trained = min(rows, pushes * self._config.batch_size)
                if trained - shown >= self._config.progress_update_threshold:
                    shown = trained
                    self._show(date, f"{trained:,} of {rows:,} rows")
        except PSError as error:  # the day itself tells what is wrong
            logger.debug("no progress of %s: %s", date, error)

    def day_done(self, day: DayTrainingResult) -> None:
        """Shows a finished day."""
        self._days.append(day)
        text = describe(day)
        self._show(day.date, text)
        if self._bar is not None:
            self._bar.update()
        logger.debug("%s: %s", day.date, text)

    def _show(self, date: str, text: str) -> None:
        if self._bar is not None:
            self._bar.set_description(date)
            self._bar.set_postfix_str(text)
        elif self._config.verbose:
            number = sum(day.date <= date for day in self._days) or len(self._days) + 1
            print(f"[{number}/{self._num_days}] {date}  {text}", file=sys.stderr, flush=True)


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


def print_table(history: Sequence[Mapping[str, Any]]) -> None:
    """A table of days: `get_training_history()`, or the `daily_results` of a summary."""
    from rich.console import Console
    from rich.table import Table

    shown = list(history)[-TABLE_DAYS_MAX:]
    names = list(next((day["metrics"] for day in shown if day["metrics"]), {}))[:METRICS_SHOWN]
    before = "auc" in names and any(day["validation"] for day in shown)
    table = Table(title=_title(history), title_justify="left")
    table.add_column("date", no_wrap=True)
    for head in ("rows", "rows/s", "seconds", "loss", *names, *(["auc before"] if before else [])):
        table.add_column(head, justify="right", no_wrap=True)
    for day in shown:
        table.add_row(str(day["date"]), *_cells(day, names, before))
    width = None if sys.stderr.isatty() or _in_notebook() else TABLE_WIDTH
    Console(stderr=not _in_notebook(), width=width).print(table)


def _cells(day: Mapping[str, Any], names: Sequence[str], before: bool) -> list[str]:
    if day["status"] != TRAINED:
        return [str(day["status"])]
    seconds = max(day["time_seconds"], 1e-9)
    cells = [
        f"{day['samples']:,}",
        f"{day['samples'] / seconds:,.0f}",
        f"{seconds:.1f}",
        f"{day['avg_loss']:.4f}",
        *(f"{day['metrics'].get(name, float('nan')):.4f}" for name in names),
    ]
    if before:
        cells.append(f"{day['validation']['auc']:.4f}" if day["validation"] else "")
    return cells


def _title(history: Sequence[Mapping[str, Any]]) -> str:
    trained = [day for day in history if day["status"] == TRAINED]
    rows = sum(day["samples"] for day in trained)
    text = f"{len(trained)} of {len(history)} days trained, {rows:,} rows"
    if len(history) > TABLE_DAYS_MAX:
        text += f" (the last {TABLE_DAYS_MAX} days)"
    return text


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules
