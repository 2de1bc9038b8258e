"""Errors of the trainer."""

from __future__ import annotations

from pyspark_ps.errors import PSError


class TrainingError(PSError):
    """A day could not be trained; the cause is chained (`__cause__`) and told first."""


class DivergedError(TrainingError):
    """The loss is NaN or infinite: going on would make every value so."""
