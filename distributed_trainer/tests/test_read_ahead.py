"""Reading ahead: order, errors, bounds, and that no thread stays."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from distributed_trainer.read_ahead import read_ahead


def _threads() -> int:
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_reading_ahead_keeps_items_order_and_errors(depth: int) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("at item five")

    found: list[int] = []
    with pytest.raises(ValueError, match="item five"):
        found.extend(read_ahead(items(), depth))
    assert found == list(range(5))
    assert _threads() == 0


def test_reading_ahead_is_bounded_and_closing_ends_it() -> None:
    made: list[int] = []
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            for item in range(1_000):
                made.append(item)
                yield item
        finally:
            closed.set()

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    time.sleep(0.1)
    assert len(made) <= 4  # one taken, two waiting, one in hand
    ahead.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert len(made) < 10
    assert _threads() == 0


def test_an_abandoned_reader_ends() -> None:
    ahead = read_ahead(iter(range(100)), 1)
    next(ahead)
    del ahead
    gc.collect()
    assert _threads() == 0


# ---- batches of raw data
