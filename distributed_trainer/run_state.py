"""What goes on from day to day in a run, beyond what the servers hold."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from distributed_trainer.config import TrainerConfig
from distributed_trainer.task import DayPass


@dataclass
class RunState:
    """Saved with each checkpoint, so that a resumed run equals one that was never stopped.

    Attributes:
        run: names the push streams. A run that goes back to a checkpoint gets a new name, so that
            no push of the abandoned attempt counts for the new one; what is random follows `seed`.
        seed: `shuffle_seed`, or the number drawn for the run.
        steps: batches trained so far: what a learning-rate schedule counts by.
        passes: date -> how often it was trained.
        last_day: the last day trained to its end, "" before the first.
        decay_due: the last day's decay has not been applied yet.
        rate_scale: learning rates set by callbacks, as a factor of the configured ones.
    """

    seed: int
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    steps: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    last_day: str = ""
    decay_due: bool = False
    rate_scale: float = 1.0

    @classmethod
    def begin(cls, config: TrainerConfig) -> RunState:
        """A run that has not trained yet."""
        seed = config.shuffle_seed
        return cls(seed=int.from_bytes(os.urandom(7), "little") if seed is None else seed)

    def next_pass(self, date: str) -> DayPass:
        """The pass that training this day now is."""
        return DayPass(self.run, self.seed, self.passes.get(date, 0), date)

    def to_dict(self) -> dict[str, Any]:
        """Plain values (JSON)."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunState:
        """The inverse of `to_dict`."""
        return cls(**values)

    def renamed(self) -> RunState:
        """The same state under a new run name."""
        return replace(self, run=uuid.uuid4().hex, passes=dict(self.passes))
