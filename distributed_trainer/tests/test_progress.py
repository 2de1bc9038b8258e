"""What is shown while a range is trained, without a training."""

from __future__ import annotations

import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from distributed_trainer import progress
from distributed_trainer.config import TrainerConfig
from distributed_trainer.progress import RangeProgress, print_table
from distributed_trainer.results import NO_DATA, DayTrainingResult


def _day(number: int, **changes: Any) -> DayTrainingResult:
    values = {
        "total_samples": 1000,
        "avg_loss": 0.25,
        "training_time_seconds": 2.0,
        "metrics": {"auc": 0.75},
    }
    return DayTrainingResult(date=f"2024-03-{number:02d}", **{**values, **changes})


def _session(pushes: list[int], asked: threading.Event, **changes: Any) -> Any:
    """Counts pushes as the servers of a running day would."""

    def pushes_done() -> int:
        if len(pushes) == 1:
            asked.set()
        return pushes[0] if len(pushes) == 1 else pushes.pop(0)

    return SimpleNamespace(config=TrainerConfig(batch_size=10, **changes), pushes_done=pushes_done)


def test_rows_of_a_running_day_are_shown_when_enough_of_them_are_new(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.001)
    asked = threading.Event()
    session = _session([50, 54, 55, 59, 62], asked, progress_update_threshold=50)
    with RangeProgress(3, session) as shown, shown.day("2024-03-01", 200):
        assert asked.wait(60)
    lines = capsys.readouterr().err.splitlines()
    assert "[1/3] 2024-03-01  50 of 200 rows" in lines  # of 0, 40, 50, 90, 120
    assert not any(" 40 of" in line or " 90 of" in line for line in lines)


def test_days_are_lines_without_a_terminal_and_a_table_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = _session([0], threading.Event())
    with RangeProgress(2, session) as shown:
        shown.day_done(_day(1, validation={"auc": 0.5}))
        shown.day_done(_day(2, status=NO_DATA, metrics={}))
    said = capsys.readouterr().err
    assert "[1/2] 2024-03-01  1,000 rows  500/s  loss 0.2500  auc 0.7500  auc before 0.5000" in said
    assert "[2/2] 2024-03-02  no_data" in said
    assert "1 of 2 days trained, 1,000 rows" in said


def test_nothing_is_shown_when_not_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    session = _session([0], threading.Event(), verbose=False)
    with RangeProgress(2, session) as shown, shown.day("2024-03-01", 10**9):
        shown.day_done(_day(1))
    assert capsys.readouterr().err == ""


def test_the_table_of_a_long_range_shows_its_last_days(
    capsys: pytest.CaptureFixture[str],
) -> None:
    history = [_day(number).record() for number in range(1, 31)] * 2
    print_table(history)
    said = capsys.readouterr().err
    assert "60 of 60 days trained" in said
    assert said.count("2024-03-") == progress.TABLE_DAYS_MAX


def test_a_notebook_shows_a_bar_and_the_table_in_its_cell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    with RangeProgress(2, _session([0], threading.Event())) as shown:
        shown.day_done(_day(1))
        shown.day_done(_day(2))
    out, err = capsys.readouterr()
    assert "2/2" in err  # the bar
    assert "2024-03-02" in out  # a notebook shows standard output as a cell's own
