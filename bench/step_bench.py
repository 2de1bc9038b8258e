"""The compiled step and the data road of one worker, without servers: samples/s.

    python bench/step_bench.py [--features 8] [--dim 16] [--batch-size 2048]

Against the bare step: a compiled forward and backward pass of the same network whose inputs are
tensors in memory already and whose gradients are left there. Bars in ratios of medians, measured in
turn, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.reporting import bar
from bench.training_work import Work, parse
from distributed_trainer.key_batch import KeyBatch
from distributed_trainer.metrics import MetricState
from distributed_trainer.step import TrainingStep
from distributed_trainer.tf_model_wrapper import TFModelWrapper


def read(work: Work, folder: Path) -> list[KeyBatch]:
    """Writes one file, reads it twice, prints samples/s of the second time."""
    work.write(folder)
    for _ in range(2):
        start = time.perf_counter()
        batches = work.read(folder)
        seconds = time.perf_counter() - start
    print(f"{'read, keys, shuffle, unique':32s} {work.rows / seconds:12,.0f} samples/s")
    return batches


def step_of(work: Work, batches: list[KeyBatch]) -> Callable[[int], Any]:
    """Our step, new dense weights each time, metrics counted."""
    wrapper = TFModelWrapper(work.network())
    step = TrainingStep(wrapper, work.config())
    weights = wrapper.get_weights()
    metrics = MetricState(work.config().target_config)
    rng = np.random.default_rng(2)
    rows = [
        {
            table: rng.normal(0, 0.01, (len(keys), work.dim)).astype(np.float32)
            for table, keys in batch.keys.items()
        }
        for batch in batches
    ]

    def train(index: int) -> None:
        result = step.train(batches[index], rows[index], weights)
        metrics.update(batches[index].targets, result.predictions, batches[index].weights)

    return train


def compare(runs: dict[str, Callable[[int], Any]], batches: list[KeyBatch], rounds: int) -> None:
    """Runs all in turn and prints medians; the first is the ceiling."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for index in range(5):
            run(index)
    for number in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(number % len(batches))
            seconds[name].append(time.perf_counter() - start)
    ceiling, *_ = (float(np.median(times)) for times in seconds.values())
    for name, times in seconds.items():
        median = float(np.median(times))
        print(f"{name:32s} {batches[0].num_rows / median:12,.0f} samples/s")
    bar(f"{name}, against the bare step", f"{ceiling / median:.0%}", "", "")


def main() -> None:
    """Prints machine, commit, sizes and figures."""
    work, rounds = parse(__doc__, rounds=300, batches=40)
    with tempfile.TemporaryDirectory() as folder:
        batches = read(work, Path(folder))
    runs = {
        "bare step": work.bare_step(batches),
        "step, weights given, metrics": step_of(work, batches),
    }
    compare(runs, batches, rounds)


if __name__ == "__main__":
    main()
