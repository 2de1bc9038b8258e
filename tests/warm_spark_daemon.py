"""Spark's own daemon of Python workers, with TensorFlow imported before it forks them.

What `tests.warm_workers` is for workers without Spark: each import of TensorFlow takes four seconds
of a processor, and a Spark of two executors has up to four workers, and others after each death.
Named by `spark.python.daemon.module`.
"""

from __future__ import annotations

import keras  # noqa: F401
from pyspark.daemon import manager

if __name__ == "__main__":
    manager()
