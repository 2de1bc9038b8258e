"""The order of a worker's requests, and that errors surface."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest

from distributed_trainer.key_batch import KeyBatch
from distributed_trainer.pipeline import NumberedBatch, Pipeline, Rows, StopWatch
from distributed_trainer.step import StepResult
from pyspark_ps.client.worker_client import PSWorkerClient


class RecordingClient:
    """Notes what a pipeline asks of its client, in order."""

    def __init__(self, delay: float = 0.0) -> None:
        self.calls: list[str] = []
        self.streams: list[str] = []
        self._delay = delay

    def pull(
        self, tables: dict[str, Any], weights: Any, create_if_missing: bool
    ) -> tuple[Rows, Rows]:
        time.sleep(self._delay)
        self.calls.append(f"pull {int(tables['t'][0])}")
        return {"t": np.zeros((1, 2), np.float32)}, {}

    def push_gradients(self, weights: Any, rows: Any, *, rate_scale: float) -> None:
        time.sleep(self._delay)
        self.calls.append(f"push {int(rows['t'][0][0])}")

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        self.streams.append(name)
        yield


def numbered(index: int, stream: str = "s") -> NumberedBatch:
    batch = KeyBatch(
        keys={"t": np.array([index], np.uint64)},
        positions={"f": np.zeros(1, np.int32)},
        offsets={},
        dense=np.zeros((1, 0), np.float32),
        targets=None,
        weights=np.ones(1, np.float32),
        num_rows=1,
        weight_sum=1.0,
    )
    return NumberedBatch(batch=batch, stream=stream)


class EmptyStep:
    """Gradients of zeros; notes which parts ran in the thread that computes."""

    def __init__(self) -> None:
        self.threads: dict[str, set[bool]] = {}

    def _note(self, part: str) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        self.threads.setdefault(part, set()).add(is_main)

    def prepare(self, numbered: NumberedBatch, rows: Rows, weights: Rows) -> Rows:
        self._note("prepare")
        return rows

    def compute(self, numbered: NumberedBatch, prepared: Rows) -> Rows:
        self._note("compute")
        return prepared

    def finish(self, computed: Rows) -> StepResult:
        self._note("finish")
        return StepResult(
            loss=0.0,
            loss_sum=0.0,
            weight_gradients={},
            row_gradients=computed,
            predictions=np.zeros((1, 1), np.float32),
        )


def run(client: RecordingClient, depth: int, batches: list[NumberedBatch]) -> list[str]:
    pipeline = Pipeline(cast(PSWorkerClient, client), [], depth)
    pipeline.train(iter(batches), EmptyStep(), StopWatch())
    return client.calls


def test_depth_0_is_strictly_synchronous() -> None:
    calls = run(RecordingClient(), 0, [numbered(i) for i in range(3)])
    assert calls == ["pull 0", "push 0", "pull 1", "push 1", "pull 2", "push 2"]


@pytest.mark.parametrize("delay", [0.0, 0.005])
def test_order_depends_on_depth_alone(delay: float) -> None:
    one = run(RecordingClient(delay), 1, [numbered(i) for i in range(4)])
    assert one == ["pull 0", "pull 1", "push 0", "pull 2", "push 1", "pull 3", "push 2", "push 3"]
    two = run(RecordingClient(delay), 2, [numbered(i) for i in range(4)])
    assert two == ["pull 0", "pull 1", "pull 2", "push 0", "pull 3", "push 1", "push 2", "push 3"]


@pytest.mark.parametrize("depth", [0, 1])
def test_ahead_only_the_compiled_part_is_in_the_thread_that_computes(depth: int) -> None:
    step = EmptyStep()
    pipeline = Pipeline(cast(PSWorkerClient, RecordingClient()), [], depth)
    pipeline.train(iter([numbered(0), numbered(1)]), step, StopWatch())
    around = {depth == 0}
    assert step.threads == {"prepare": around, "compute": {True}, "finish": around}


def test_each_stream_is_opened_once_and_in_order() -> None:
    client = RecordingClient()
    run(client, 1, [numbered(0, "a"), numbered(1, "a"), numbered(2, "b"), numbered(3, "b")])
    assert client.streams == ["a", "b"]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_first_error_is_raised_and_no_thread_stays(depth: int) -> None:
    class Refusing(RecordingClient):
        def push_gradients(self, weights: Any, rows: Any, *, rate_scale: float) -> None:
            raise ConnectionError(f"push {int(rows['t'][0][0])} refused")

    before = threading.active_count()
    with pytest.raises(ConnectionError, match="push 0 refused"):
        run(Refusing(), depth, [numbered(i) for i in range(6)])
    assert threading.active_count() == before


def test_no_batches_is_no_request() -> None:
    assert run(RecordingClient(), 1, []) == []
