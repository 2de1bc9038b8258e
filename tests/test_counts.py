"""Speed that does not depend on the machine's mood: counts of instructions, bytes, allocations and
copies stay below the limits of tests/count_limits.py.

A figure that is much lower than its limit is as welcome as it is a reason to lower the limit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient
from tests import count_limits

PROGRAM = Path(__file__).parent.parent / "build" / "release" / "bench" / "ps_counts"
NO_AVX2 = 77
KEYS, DIM = 8_192, 64


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Of the program of counts; skips where it or its processor is not there."""
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not built (tools/build release does)")
    done = subprocess.run([*command], capture_output=True, text=True, timeout=100, check=False)
    if done.returncode == NO_AVX2:
        pytest.skip("no AVX2 here, which the counts are pinned to")
    assert done.returncode == 0, done.stderr
    return done


def counts(what: str) -> dict[str, float]:
    """{name: value} as the program prints them."""
    lines = run(str(PROGRAM), what).stdout.splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines)}


@pytest.mark.parametrize("work", sorted(count_limits.INSTRUCTIONS_PER_ROW))
def test_a_row_takes_no_more_instructions(work: str, tmp_path: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed (tools/debian-packages.txt names it)")
    done = run(
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={tmp_path / 'callgrind'}",
        "--toggle-collect=CountedWork",
        str(PROGRAM),
        work,
    )
    collected = re.search(r"Collected : (\d+)", done.stderr)
    rows = re.search(r"^rows (\S+)", done.stdout, re.MULTILINE)
    assert collected is not None, done.stderr
    assert rows is not None, done.stdout
    per_row = int(collected[1]) / float(rows[1])
    assert 20 < per_row <= count_limits.INSTRUCTIONS_PER_ROW[work]


@pytest.mark.parametrize("what", sorted(count_limits.COUNTS))
def test_memory_and_requests_stay_as_small(what: str) -> None:
    found = counts(what)
    limits = count_limits.COUNTS[what]
    assert found.keys() == limits.keys()
    assert {name: value for name, value in found.items() if value > limits[name]} == {}


@pytest.fixture(scope="module")
def worker() -> Iterator[PSWorkerClient]:
    config = PSConfig(num_servers=1, embedding_dim=DIM, server_port_base=0)
    with PSMainClient(None, config) as cluster:
        yield cluster.worker_client()


def arrays_made(run_once: Callable[[], object], size: int) -> float:
    """The most NumPy memory that a call holds beyond what was there, in units of `size` bytes."""
    run_once()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        run_once()
        return (tracemalloc.get_traced_memory()[1] - before) / size
    finally:
        tracemalloc.stop()


def test_rows_are_not_copied_at_the_python_edge(worker: PSWorkerClient) -> None:
    keys = np.random.default_rng(1).integers(0, 2**62, KEYS, dtype=np.uint64)
    gradients = np.full((KEYS, DIM), 1e-3, np.float32)
    made = {
        "pull": arrays_made(lambda: worker.pull_embeddings(keys), gradients.nbytes),
        "push": arrays_made(
            lambda: worker.push_embedding_gradients((keys, gradients)), gradients.nbytes
        ),
    }
    limits = {
        name: copies + count_limits.PYTHON_COPIES_SLACK
        for name, copies in count_limits.PYTHON_COPIES.items()
    }
    assert {name: value for name, value in made.items() if value > limits[name]} == {}
