"""The report holds every part, in one file."""

from __future__ import annotations

from pathlib import Path

from distributed_trainer.report import write_report
from distributed_trainer.results import NO_DATA, DayTrainingResult


def _history() -> list[dict[str, object]]:
    days = [
        DayTrainingResult(
            date=f"2024-03-0{number}",
            total_samples=1000 * number,
            avg_loss=0.5 / number,
            training_time_seconds=2.0,
            metrics={"auc": 0.7, "accuracy": 0.8},
            validation={"auc": 0.6, "loss": 0.6} if number > 1 else None,
            seconds={"step": 1.0, "wait_read": 0.5, "total": 2.0},
            table_rows={"user": 10 * number, "<item>": 5},
            slowest_files=[
                {"path": f"/data/{number}.parquet", "files": 3, "rows": 7, "seconds": float(number)}
            ],
        )
        for number in (1, 2, 3)
    ]
    days.append(DayTrainingResult(date="2024-03-04", status=NO_DATA))
    return [day.record() for day in days]


def test_a_page_with_pictures_days_and_slowest_files_that_needs_no_other_file(
    tmp_path: Path,
) -> None:
    picture, page = write_report(_history(), tmp_path / "new" / "folder", title="Clicks & more")
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "Clicks &amp; more" in text
    assert text.count("src=") == text.count("src='data:image/png;base64,") == 1
    assert "<td>2024-03-03</td><td>trained</td><td>3,000</td><td>1,500</td>" in text
    assert "<td>no_data</td>" in text
    slowest = text[text.index("Slowest files") :]
    assert slowest.index("/data/3.parquet") < slowest.index("/data/1.parquet")


def test_nothing_is_written_before_the_first_trained_day(tmp_path: Path) -> None:
    assert write_report(_history()[3:], tmp_path / "report") == []
    assert not (tmp_path / "report").exists()


def test_the_history_is_what_a_data_frame_takes() -> None:
    import pandas as pd

    frame = pd.json_normalize(_history())  # nested metrics become columns of their own
    assert list(frame["date"]) == [f"2024-03-0{number}" for number in (1, 2, 3, 4)]
    assert frame["metrics.auc"].notna().sum() == 3
