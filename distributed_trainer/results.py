"""What a day and a range of days come to: the records that users read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distributed_trainer.task import TaskReport
from distributed_trainer.worker import WorkerTrainingResult

# A diverged day ends the range that a callback (TerminateOnNaN) was to stop.
TRAINED, SKIPPED, NO_DATA, DIVERGED = "trained", "skipped", "no_data", "diverged"


@dataclass
class DayTrainingResult:
    """One day.

    Attributes:
        date: "YYYY-MM-DD".
        avg_loss: sum of per-sample loss x weight / samples.
        worker_results: one per worker that had work.
        checkpoint_path: None where no checkpoint was written.
        status: "trained", "no_data", "skipped" or "diverged".
        metrics: merged over all workers.
        validation: metrics of the model on the day before it was trained on it; None = not asked.
        seconds: where the workers' wall time went, summed over them, by stage.
        table_rows: table -> rows on the servers at the day's end.
        slowest_files: path, files, rows and seconds of what took longest, slowest first.
    """

    date: str
    total_samples: int = 0
    total_batches: int = 0
    avg_loss: float = 0.0
    worker_results: list[WorkerTrainingResult] = field(default_factory=list)
    training_time_seconds: float = 0.0
    checkpoint_path: str | None = None
    status: str = TRAINED
    metrics: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    table_rows: dict[str, int] = field(default_factory=dict)
    slowest_files: list[dict[str, Any]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The day as a plain record, one row of a DataFrame."""
        return {
            "date": self.date,
            "status": self.status,
            "samples": self.total_samples,
            "batches": self.total_batches,
            "avg_loss": self.avg_loss,
            "metrics": dict(self.metrics),
            "time_seconds": self.training_time_seconds,
            "checkpoint_path": self.checkpoint_path,
            "validation": None if self.validation is None else dict(self.validation),
            "seconds": dict(self.seconds),
            "table_rows": dict(self.table_rows),
            "slowest_files": [dict(file) for file in self.slowest_files],
        }


def metrics_of(report: TaskReport) -> dict[str, float]:
    """The merged metrics by name."""
    return dict(report.metrics.result()) if report.metrics is not None else {}


def evaluation_of(report: TaskReport) -> dict[str, float]:
    """Loss and metrics by name."""
    return {"loss": report.avg_loss, **metrics_of(report)}


def summarize(
    dates: Sequence[str], days: Sequence[DayTrainingResult], totals: TaskReport, seconds: float
) -> dict[str, Any]:
    """The summary of a range; `totals` are the merged sums of the days that were trained."""
    return {
        "start_date": dates[0],
        "end_date": dates[-1],
        "num_days": len(dates),
        "num_days_trained": sum(day.status == TRAINED for day in days),
        "total_samples": totals.samples,
        "total_batches": totals.batches,
        "avg_loss": totals.avg_loss,
        "metrics": metrics_of(totals),
        "total_time_seconds": seconds,
        "daily_results": [day.record() for day in days],
    }
