"""Arguments that the inspection views share."""

from __future__ import annotations

import math
import numbers
from typing import Any

from pyspark_ps.errors import InvalidArgumentError


def number(what: str, value: Any, *, at_least: float = 0, at_most: float = math.inf) -> float:
    """A finite number within bounds.

    Raises:
        InvalidArgumentError: it is none; names `what`, the value and what is allowed.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not at_least <= value <= at_most:
        bounds = f">= {at_least:g}" + (f" and <= {at_most:g}" if at_most < math.inf else "")
        raise InvalidArgumentError(f"{what} = {value!r}: allowed is a number {bounds}")
    return float(value)


def factor_of(value: Any) -> float:
    """A decay's factor, 0 < factor <= 1."""
    factor = number("factor", value, at_most=1)
    if factor == 0:
        raise InvalidArgumentError("factor = 0: allowed is a number > 0 and <= 1")
    return factor
