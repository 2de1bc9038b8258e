"""The compiled step and the data road of one worker, without servers: samples/s.

    python bench/step_bench.py [--dim 16] [--features 8] [--batch-size 2048]

Against the bare step: a compiled forward and backward pass of the same network whose inputs are
tensors in memory already and whose gradients are left there. Bars in ratios of medians, measured in
turn, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from distributed_trainer.batch_iterator import KeyBatch, unit_batches
from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig
from distributed_trainer.data_loader import S3ParquetDataLoader, units_of_work
from distributed_trainer.metrics import MetricState
from distributed_trainer.step import TrainingStep
from distributed_trainer.tf_model_wrapper import TFModelWrapper

VOCABULARY = 200_000
BATCHES = 40


def network(width: int) -> Any:
    """The network of the training benchmarks: 128-64-1."""
    inputs = keras.Input((width,))
    x = keras.layers.Dense(128, activation="relu")(inputs)
    x = keras.layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))


def bare_step(width: int, batches: list[KeyBatch]) -> Callable[[int], Any]:
    """Forward and backward of tensors in memory; gradients of inputs and weights stay tensors."""
    model = network(width)
    loss_of = keras.losses.BinaryCrossentropy()
    values = [variable.value for variable in model.trainable_variables]

    @tf.function(autograph=False, jit_compile=False)
    def step(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = loss_of(targets, model(inputs, training=True))
        return loss, tape.gradient(loss, [inputs, *values])

    rng = np.random.default_rng(1)
    inputs = [
        tf.constant(rng.normal(0, 0.01, (len(b.weights), width)), tf.float32) for b in batches
    ]
    targets = [tf.constant(batch.targets) for batch in batches]
    return lambda i: float(step(inputs[i], targets[i])[0])


def read(config: TrainerConfig, folder: Path) -> list[KeyBatch]:
    """Writes one unit of work, reads it twice, prints samples/s of the second time."""
    rng = np.random.default_rng(0)
    rows = BATCHES * config.batch_size
    columns: dict[str, Any] = {
        name: rng.integers(0, VOCABULARY, rows) for name in config.feature_config.sparse_features
    }
    columns["y"] = (rng.random(rows) < 0.3).astype(np.float32)
    pq.write_table(pa.table(columns), folder / "data.parquet")
    units = units_of_work(S3ParquetDataLoader().discover_partitions(str(folder)), config.batch_size)
    for _ in range(2):
        start = time.perf_counter()
        batches = [batch for unit in units for batch in unit_batches(unit, config, 0)]
        seconds = time.perf_counter() - start
    print(f"{'read, keys, shuffle, unique':32s} {rows / seconds:12,.0f} samples/s")
    return batches


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
        rate = len(batches[0].weights) / median
        print(f"{name:32s} {rate:12,.0f} samples/s {ceiling / median:8.0%} of the bare step")


def main() -> None:
    """Prints machine, commit, sizes and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, {commit}")
    print(f"{options.features} features x dim {options.dim}, batch {options.batch_size}")
    names = [f"f{index:02}" for index in range(options.features)]
    config = TrainerConfig(
        feature_config=FeatureConfig(names, [], {}, options.dim),
        target_config=TargetConfig(["y"]),
        batch_size=options.batch_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        batches = read(config, Path(folder))
    width = config.feature_config.get_model_input_dim()
    wrapper = TFModelWrapper(network(width))
    step = TrainingStep(wrapper, config)
    weights = wrapper.get_weights()
    metrics = MetricState(config.target_config)
    rng = np.random.default_rng(2)
    rows = [
        {
            table: rng.normal(0, 0.01, (len(keys), options.dim)).astype(np.float32)
            for table, keys in batch.keys.items()
        }
        for batch in batches
    ]

    def train(index: int) -> None:
        result = step.train(batches[index], rows[index], weights)
        metrics.update(batches[index].targets, result.predictions, batches[index].weights)

    compare(
        {"bare step": bare_step(width, batches), "step, weights given, metrics": train},
        batches,
        options.rounds,
    )


if __name__ == "__main__":
    main()
