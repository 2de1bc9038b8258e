"""Thread counts: the environment, TensorFlow when it is loaded, the optimal share."""

from __future__ import annotations

import logging
import os
import sys
import types

import pytest

from distributed_trainer.thread_config import (
    ThreadConfig,
    configure_threads,
    get_optimal_thread_config,
)
from pyspark_ps.errors import InvalidArgumentError

VARIABLES = {
    "MKL_NUM_THREADS": "3",
    "OMP_NUM_THREADS": "5",
    "OPENBLAS_NUM_THREADS": "5",
    "NUMEXPR_NUM_THREADS": "5",
    "TF_NUM_INTRAOP_THREADS": "7",
    "TF_NUM_INTEROP_THREADS": "2",
}


class _Threading:
    """TensorFlow's thread setters, as far as configure_threads uses them."""

    def __init__(self, *, started: bool) -> None:
        self.counts = [0, 0]
        self._started = started

    def get_intra_op_parallelism_threads(self) -> int:
        return self.counts[0]

    def get_inter_op_parallelism_threads(self) -> int:
        return self.counts[1]

    def set_intra_op_parallelism_threads(self, count: int) -> None:
        if self._started:
            raise RuntimeError("cannot be modified after initialization")
        self.counts[0] = count

    def set_inter_op_parallelism_threads(self, count: int) -> None:
        self.counts[1] = count


def _tensorflow(threading: _Threading) -> types.SimpleNamespace:
    return types.SimpleNamespace(config=types.SimpleNamespace(threading=threading))


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")


@pytest.mark.usefixtures("_environment")
def test_every_library_gets_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    configure_threads(ThreadConfig(3, 5, 7, 2))
    assert {name: os.environ[name] for name in VARIABLES} == VARIABLES


@pytest.mark.usefixtures("_environment")
def test_a_loaded_tensorflow_is_set_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    threading = _Threading(started=False)
    monkeypatch.setitem(sys.modules, "tensorflow", _tensorflow(threading))
    configure_threads(ThreadConfig(3, 5, 7, 2))
    assert threading.counts == [7, 2]


@pytest.mark.usefixtures("_environment")
def test_too_late_is_said_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", _tensorflow(_Threading(started=True)))
    with caplog.at_level(logging.WARNING):
        configure_threads(ThreadConfig(3, 5, 7, 2))
    assert "too late" in caplog.text


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        (16, 4, ThreadConfig(3, 3, 2, 1)),
        (1, 1, ThreadConfig(1, 1, 1, 1)),
        (2, 8, ThreadConfig(1, 1, 1, 1)),
        (64, 1, ThreadConfig(57, 57, 42, 15)),
        (10, 1, ThreadConfig(9, 9, 6, 3)),
    ],
)
def test_a_share_of_nine_tenths_of_the_cores(
    cores: int, workers: int, expected: ThreadConfig
) -> None:
    assert get_optimal_thread_config(cores, workers) == expected


def test_a_node_has_a_core_and_a_worker() -> None:
    with pytest.raises(InvalidArgumentError, match="num_cores"):
        get_optimal_thread_config(0, 1)
    with pytest.raises(InvalidArgumentError, match="num_workers_per_node"):
        get_optimal_thread_config(4, 0)


def test_no_more_threads_than_the_cores_a_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert ThreadConfig(4, 3, 2, 1).within_cores() == ThreadConfig(1, 1, 1, 1)
    finally:
        os.sched_setaffinity(0, allowed)
    assert ThreadConfig(1, 1, 1, 1).within_cores() == ThreadConfig(1, 1, 1, 1)
