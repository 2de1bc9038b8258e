"""Shapes of dense weights and how they get their first values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyspark_ps.errors import InvalidArgumentError
from pyspark_ps.utils.config import INIT_SCALE_MAX

INIT_STRATEGIES = ("zeros", "ones", "random", "normal", "xavier", "he")


def checked_shape(name: Any, shape: Any) -> tuple[int, ...]:
    """`shape` as plain integers.

    Raises:
        InvalidArgumentError: no name, or no shape.
    """
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"init_weights: name {name!r}: allowed is a non-empty string")
    sizes: list[Any] = list(shape) if isinstance(shape, (Sequence, np.ndarray)) else [None]
    if not all(is_number(size) and isinstance(size, numbers.Integral) for size in sizes) or any(
        size < 0 for size in sizes
    ):
        raise InvalidArgumentError(
            f"init_weights: shape of {name!r} is {shape!r}: allowed is a tuple of integers >= 0"
        )
    return tuple(int(size) for size in sizes)


def check_strategy(strategy: Any, scale: Any) -> None:
    """Refuses, as InvalidArgumentError, what is no strategy or no scale."""
    if strategy not in INIT_STRATEGIES:
        raise InvalidArgumentError(
            f"init_weights: init_strategy = {strategy!r}: allowed are " + ", ".join(INIT_STRATEGIES)
        )
    if not is_number(scale) or not 0 <= scale <= INIT_SCALE_MAX:
        raise InvalidArgumentError(
            f"init_weights: init_scale = {scale!r}: allowed is a number >= 0 and <= "
            f"{INIT_SCALE_MAX:g}"
        )


def initializer(strategy: str, scale: float, shape: tuple[int, ...]) -> tuple[str, float]:
    """A checked strategy as (init, scale) of those that the core knows."""
    if strategy not in ("xavier", "he"):
        return strategy, float(scale)
    fan_in, fan_out = compute_fans(shape)
    variance = 2 / (fan_in + fan_out) if strategy == "xavier" else 2 / fan_in
    return "normal", math.sqrt(variance)


def compute_fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a dense weight, as Keras counts them; at least 1 each.

    Rank 0: 1 and 1. Rank 1: its length for both. Rank 2: rows and columns. Convolution kernels: the
    last two sizes, each times the product of the others.
    """
    if len(shape) < 1:
        return 1, 1
    if len(shape) == 1:
        fan_in = fan_out = shape[0]
    else:
        receptive_field = math.prod(shape[:-2])
        fan_in, fan_out = shape[-2] * receptive_field, shape[-1] * receptive_field
    return max(1, fan_in), max(1, fan_out)


def is_number(value: Any) -> bool:
    """A finite real number; booleans are none."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value)
