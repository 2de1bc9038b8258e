"""The order in which a worker pulls, computes and pushes.

With prefetch depth d the requests of one worker reach the servers in this order, whatever the
timing: pull 0 .. pull d, push 0, pull d+1, push 1, pull d+2, ... So the result of one worker
depends on its data and on d alone. One thread does the requests and what stands around a step
(`BatchStep.prepare` behind a pull, `finish` before a push), one reads ahead, the caller's computes;
d = 0 does everything in the caller's thread: pull, step, push.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.key_batch import KeyBatch
from distributed_trainer.step import StepResult
from pyspark_ps.client.worker_client import PSWorkerClient

Rows = dict[str, NDArray[np.float32]]


@dataclass
class NumberedBatch:
    """A batch and its push stream; its place in the order is its number there."""

    batch: KeyBatch
    stream: str
    rate_scale: float = 1.0
    seed: int = 0
    unit: str = ""  # its id


class BatchStep(Protocol):
    """A training step in three parts; the first and the last may run beside another batch's
    `compute`, in another thread."""

    def prepare(self, numbered: NumberedBatch, rows: Rows, weights: Rows) -> Any:
        """What `compute` takes."""

    def compute(self, numbered: NumberedBatch, prepared: Any) -> Any:
        """What `finish` takes."""

    def finish(self, computed: Any) -> StepResult:
        """The gradients."""


class StopWatch:
    """Seconds by name; `measure` adds the wall time of a block."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to `seconds[name]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Adds to `seconds[name]`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


class StreamPusher:
    """Pushes each batch under (its stream, its number). Used by one thread, in order."""

    def __init__(self, client: PSWorkerClient) -> None:
        self._client = client
        self._open = ExitStack()
        self._stream: str | None = None

    def push(self, numbered: NumberedBatch, result: StepResult) -> None:
        """Applies the gradients of a batch on the servers; returns when they are applied."""
        if numbered.stream != self._stream:
            self.close()
            self._open.enter_context(self._client.stream(numbered.stream))
            self._stream = numbered.stream
        gradients = {
            table: (keys, result.row_gradients[table])
            for table, keys in numbered.batch.keys.items()
            if len(keys)
        }
        self._client.push_gradients(
            result.weight_gradients, gradients, rate_scale=numbered.rate_scale
        )

    def close(self) -> None:
        """Leaves the stream."""
        self._open.close()
        self._stream = None


class Pipeline:
    """Runs batches through pull, step and push, `depth` batches ahead.

    Args:
        client: of this worker.
        weights: names of the dense weights to pull with each batch.
        depth: batches pulled ahead; 0 = strictly synchronous.
        create_rows: whether a pull makes rows of ids never seen.
    """

    def __init__(
        self, client: PSWorkerClient, weights: list[str], depth: int, *, create_rows: bool = True
    ) -> None:
        self._client = client
        self._weights = weights
        self._depth = depth
        self._create_rows = create_rows

    def train(
        self,
        batches: Iterator[NumberedBatch],
        step: BatchStep,
        watch: StopWatch,
    ) -> None:
        """Trains on all batches; when it returns every push is applied. Raises the first error."""
        if self._depth == 0:
            self._train_synchronously(batches, step, watch)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="ps-requests") as requests:
            pusher = StreamPusher(self._client)
            try:
                self._train_ahead(batches, step, watch, requests, pusher)
            finally:
                requests.submit(pusher.close).result()

    def _train_synchronously(
        self,
        batches: Iterator[NumberedBatch],
        step: BatchStep,
        watch: StopWatch,
    ) -> None:
        pusher = StreamPusher(self._client)
        try:
            for numbered in _measured(batches, watch):
                with watch.measure("wait_pull"):
                    prepared = self._pull_for(step, numbered, watch)
                with watch.measure("step"):
                    computed = step.compute(numbered, prepared)
                with watch.measure("wait_push"):
                    self._push(pusher, numbered, step.finish(computed), watch)
        finally:
            pusher.close()

    def _train_ahead(
        self,
        batches: Iterator[NumberedBatch],
        step: BatchStep,
        watch: StopWatch,
        requests: ThreadPoolExecutor,
        pusher: StreamPusher,
    ) -> None:
        source = _measured(batches, watch)
        pulls: deque[tuple[NumberedBatch, Future[Any]]] = deque()
        push: Future[None] | None = None

        def pull_next() -> None:
            numbered = next(source, None)
            if numbered is not None:
                pulls.append((numbered, requests.submit(self._pull_for, step, numbered, watch)))

        def finish_and_push(numbered: NumberedBatch, computed: Any) -> None:
            self._push(pusher, numbered, step.finish(computed), watch)

        for _ in range(self._depth + 1):
            pull_next()
        while pulls:
            numbered, pull = pulls.popleft()
            with watch.measure("wait_pull"):
                prepared = pull.result()
            with watch.measure("step"):
                computed = step.compute(numbered, prepared)
            if push is not None:
                with watch.measure("wait_push"):
                    push.result()
            push = requests.submit(finish_and_push, numbered, computed)
            pull_next()
        if push is not None:
            with watch.measure("wait_push"):
                push.result()

    def predict(
        self,
        batches: Iterator[NumberedBatch],
        predict: Callable[[NumberedBatch, Rows, Rows], Any],
        watch: StopWatch,
    ) -> None:
        """Pulls for each batch, ahead, and hands it to `predict`. Pushes nothing."""
        source = _measured(batches, watch)
        with ThreadPoolExecutor(1, thread_name_prefix="ps-requests") as requests:
            pulls: deque[tuple[NumberedBatch, Future[tuple[Rows, Rows]]]] = deque()
            for numbered in source:
                pulls.append((numbered, requests.submit(self._pull, numbered, watch)))
                if len(pulls) > max(1, self._depth):
                    self._predict_one(pulls, predict, watch)
            while pulls:
                self._predict_one(pulls, predict, watch)

    @staticmethod
    def _predict_one(
        pulls: deque[tuple[NumberedBatch, Future[tuple[Rows, Rows]]]],
        predict: Callable[[NumberedBatch, Rows, Rows], Any],
        watch: StopWatch,
    ) -> None:
        numbered, pull = pulls.popleft()
        with watch.measure("wait_pull"):
            rows, weights = pull.result()
        with watch.measure("step"):
            predict(numbered, rows, weights)

    def _pull_for(self, step: BatchStep, numbered: NumberedBatch, watch: StopWatch) -> Any:
        return step.prepare(numbered, *self._pull(numbered, watch))

    def _pull(self, numbered: NumberedBatch, watch: StopWatch) -> tuple[Rows, Rows]:
        with watch.measure("pull"):
            return self._client.pull(
                numbered.batch.keys, self._weights, create_if_missing=self._create_rows
            )

    @staticmethod
    def _push(
        pusher: StreamPusher, numbered: NumberedBatch, result: StepResult, watch: StopWatch
    ) -> None:
        with watch.measure("push"):
            pusher.push(numbered, result)


def _measured(batches: Iterator[NumberedBatch], watch: StopWatch) -> Iterator[NumberedBatch]:
    """The same batches; the time spent waiting for them is `wait_read`."""
    while True:
        with watch.measure("wait_read"):
            numbered = next(batches, None)
        if numbered is None:
            return
        yield numbered
