"""How far something long has come, for someone who looks at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

# What is over sooner shows nothing.
SHOWN_AFTER_SECONDS = 2.0


class Progress:
    """A bar of rows on standard error; nothing when that is no terminal.

    Args:
        what: in a few words.
        total: rows to expect; None = unknown.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._what,
                total=self._total,
                unit=" rows",
                unit_scale=True,
                delay=SHOWN_AFTER_SECONDS,
            )
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, numbers: Mapping[str, int]) -> None:
        """`numbers["rows"]`: done so far."""
        if self._bar is not None:
            self._bar.update(numbers.get("rows", 0) - self._bar.n)
