"""Where the workers of a trainer run: Spark tasks, or child processes of the driver."""

from distributed_trainer.pools.base import TaskOutcome, WorkerPool, WorkerSpec

__all__ = ["TaskOutcome", "WorkerPool", "WorkerSpec"]
