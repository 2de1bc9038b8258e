"""What the driver tells a worker, and what a worker reports: one pass over units of one day.

Everything here is plain data that pickles and merges. What a unit of work yields (rows, their
order, batch boundaries, dropout) depends on the run's seed, the pass, the day and the unit alone:
never on the worker, the number of workers or the attempt. So push number k of a unit's stream
always means the same rows, and a task that runs twice applies nothing twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.metrics import MetricState
from distributed_trainer.units import UnitOfWork

TRAIN, EVALUATE, PREDICT = "train", "evaluate", "predict"


@dataclass(frozen=True)
class DayPass:
    """One pass of one run over one day.

    Attributes:
        run: name of the run, unique per trainer (e.g. a random hex string of the driver).
        run_seed: `shuffle_seed`, or the number that the driver drew once for the run.
        pass_index: grows with each call that trains the day again; 0 first.
        date: "YYYY-MM-DD".
    """

    run: str
    run_seed: int
    pass_index: int
    date: str

    def stream(self, unit: UnitOfWork) -> str:
        """Name of the push stream of a unit."""
        return f"{self.run}/{self.pass_index}/{self.date}/{unit.id}"

    def unit_seed(self, unit: UnitOfWork) -> int:
        """Seed (64 bits) of the order of rows in a unit."""
        return _seed("rows", self.run_seed, self.pass_index, self.date, unit.id)

    def batch_seed(self, unit: UnitOfWork, batch_index: int) -> int:
        """Seed (32 bits) of what is random inside the step (dropout) of one batch."""
        words = ("step", self.run_seed, self.pass_index, self.date, unit.id, batch_index)
        return _seed(*words) & 0xFFFFFFFF


def _seed(*words: object) -> int:
    text = "\x1f".join(str(word) for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class WorkerTask:
    """The share of one worker in one pass over a day."""

    worker_id: int
    day: DayPass
    units: tuple[UnitOfWork, ...]
    mode: str = TRAIN
    # Steps of the run before each unit (for the learning-rate schedule); empty = all 0.
    first_steps: tuple[int, ...] = ()
    rate_scale: float = 1.0  # of all learning rates, beside a schedule's
    output_path: str = ""  # folder that takes the predictions; "" = the report
    # Weights that are not float, which no server holds: name -> value to begin with.
    local_weights: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass
class TaskReport:
    """Sums over the batches that a task did; `merge` adds another one's.

    Attributes:
        loss_sum: sum of per-sample loss x weight, without regularisation.
        weight_sum: sum of sample weights.
        metrics: states that merge exactly.
        seconds: where the wall time went, by name (read, pull, step, push, start, ...).
        unit_seconds: unit id -> wall time from its first batch to its last.
        moving: non-trainable weights by name, summed as value x rows seen (float64), and
            `moving_rows` the rows they stand for, so that workers average by rows seen.
        local_weights: weights that are not float (a counter has no average): those of the first
            report merged, so of the first worker.
    """

    samples: int = 0
    batches: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    metrics: MetricState | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    unit_seconds: dict[str, float] = field(default_factory=dict)
    moving: dict[str, Any] = field(default_factory=dict)
    moving_rows: int = 0
    local_weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    # unit id -> float32 (rows, output_dim), in the files' own order; of a PREDICT task.
    predictions: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    # unit id -> file of its predictions below `output_path`; of a PREDICT task that has one.
    prediction_files: dict[str, str] = field(default_factory=dict)

    def merge(self, other: TaskReport) -> None:
        """Adds the sums of another report to this one."""
        self.samples += other.samples
        self.batches += other.batches
        self.loss_sum += other.loss_sum
        self.weight_sum += other.weight_sum
        if other.metrics is not None:
            if self.metrics is None:
                self.metrics = other.metrics.copy()
            else:
                self.metrics.merge(other.metrics)
        for name, seconds in other.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        for unit, seconds in other.unit_seconds.items():
            self.unit_seconds[unit] = self.unit_seconds.get(unit, 0.0) + seconds
        for name, total in other.moving.items():
            self.moving[name] = self.moving[name] + total if name in self.moving else total
        self.moving_rows += other.moving_rows
        self.local_weights = self.local_weights or other.local_weights
        self.predictions.update(other.predictions)
        self.prediction_files.update(other.prediction_files)

    def add_moving(self, weights: dict[str, Any], rows: int) -> None:
        """Adds the moving statistics of a worker that has seen `rows` rows."""
        for name, value in weights.items():
            scaled = value.astype("float64") * rows
            self.moving[name] = self.moving[name] + scaled if name in self.moving else scaled
        self.moving_rows += rows

    def moving_average(self) -> dict[str, Any]:
        """name -> float32 array: the workers' moving statistics averaged by rows seen."""
        if self.moving_rows == 0:
            return {}
        return {
            name: (total / self.moving_rows).astype("float32")
            for name, total in self.moving.items()
        }

    @property
    def avg_loss(self) -> float:
        """loss_sum / samples (0 without samples)."""
        return self.loss_sum / self.samples if self.samples else 0.0
