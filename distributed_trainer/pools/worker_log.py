"""What a worker process logs: to its standard error, and its last lines into a failure's report."""

from __future__ import annotations

import collections
import logging

TAIL_LINES = 40
_PACKAGES = ("distributed_trainer", "pyspark_ps")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Tail(logging.Handler):
    """Keeps the last lines."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(_FORMAT))
        self.lines: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record's line."""
        self.lines.append(self.format(record))


_tail: _Tail | None = None


def start_worker_log(*, verbose: bool) -> None:
    """Sets up this process's logging, once; `verbose` = also progress, every so many batches."""
    global _tail
    if _tail is None:
        _tail = _Tail()
        logging.basicConfig(format=_FORMAT)  # to standard error: in Spark, the executor's log
        for name in _PACKAGES:
            logging.getLogger(name).addHandler(_tail)
    for name in _PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)


def last_lines() -> str:
    """The last lines that this process's worker logged, as a paragraph; "" without any."""
    if _tail is None or not _tail.lines:
        return ""
    return "last lines of the worker's log:\n  " + "\n  ".join(_tail.lines)
