"""An iterator run ahead of its consumer in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Runs `items` in a thread of its own, at most `depth` items ahead (0 = no thread).

    Its errors are raised here. Closing the iterator ends the thread, after the item that it is
    at.
    """
    if depth == 0:
        yield from items
        return
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    closed = threading.Event()
    reader = threading.Thread(
        target=_fill, args=(items, ready, closed), name="read-ahead", daemon=True
    )
    reader.start()
    try:
        while True:
            item = ready.get()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        closed.set()
        while reader.is_alive():  # a full queue holds the reader until it is emptied
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.05)
        reader.join()


@dataclass
class _Failure:
    error: BaseException


def _fill(items: Iterable[T], ready: queue.Queue[Any], closed: threading.Event) -> None:
    try:
        for item in items:
            if closed.is_set():
                return
            ready.put(item)
    except BaseException as error:
        ready.put(_Failure(error))
    else:
        ready.put(_END)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
