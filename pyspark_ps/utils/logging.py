"""Loggers of the two packages; nothing is configured at import."""

from __future__ import annotations

import logging


def get_logger(name: str, level: int | str | None = None) -> logging.Logger:
    """The logger `name`, below "pyspark_ps" unless it names a package of its own.

    Handlers and formats are the application's: this adds none. `level` (a number or a name such as
    "DEBUG") sets the logger's own level.
    """
    known = name.split(".", 1)[0] in ("pyspark_ps", "distributed_trainer")
    logger = logging.getLogger(name if known else f"pyspark_ps.{name}")
    if level is not None:
        logger.setLevel(level)
    return logger
