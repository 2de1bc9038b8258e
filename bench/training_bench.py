"""Training from Parquet, samples/s: one worker and one server, Keras, and the bare compiled step.

    python bench/training_bench.py [--features 8] [--dim 16] [--batch-size 2048] [--rounds 5]

The work of the training bars: sparse features of 200,000 ids each, dim 16, Adagrad 0.05, a dense
128-64-1 network under Adam. All three see the same rows, in turn, in one run:

* bare: a compiled forward and backward pass whose inputs are in memory already (the ceiling);
* ours: `WorkerTrainer.train_partitions` on the file: read, shuffle, pull, step, push, metrics; the
  server is a process of its own;
* keras: `model.fit` with one `Embedding` layer per feature, fed from arrays in memory (it reads no
  file). `fit` has one optimizer for all weights: Adagrad, as for our rows; Adam would be slower.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from bench.step_bench import VOCABULARY, bare_step, network
from distributed_trainer import FeatureConfig, TargetConfig, TrainerConfig, WorkerTrainer
from distributed_trainer.batch_iterator import unit_batches
from distributed_trainer.data_loader import S3ParquetDataLoader, units_of_work
from pyspark_ps import PSConfig, PSMainClient

BATCHES = 96


def write(folder: Path, names: list[str], rows: int) -> dict[str, Any]:
    """One Parquet file of random ids and clicks that depend on them; its columns."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {name: rng.integers(0, VOCABULARY, rows) for name in names}
    columns["y"] = (rng.random(rows) < 0.2 + 0.1 * (columns[names[0]] % 3)).astype(np.float32)
    pq.write_table(pa.table(columns), folder / "data.parquet", row_group_size=rows // 4)
    return columns


def keras_model(names: list[str], dim: int) -> Any:
    """The same network with Embedding layers."""
    inputs = [keras.Input((), dtype="int32", name=name) for name in names]
    rows = [keras.layers.Embedding(VOCABULARY, dim)(one) for one in inputs]
    x = keras.layers.Concatenate()(rows)
    x = keras.layers.Dense(128, activation="relu")(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(
        keras.optimizers.Adagrad(0.05), "binary_crossentropy", metrics=[keras.metrics.AUC()]
    )
    return model


def main() -> None:
    """Prints machine, commit, sizes, medians with their spread, and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, {commit}")
    rows = BATCHES * options.batch_size
    print(
        f"{options.features} features x {VOCABULARY:,} ids x dim {options.dim}, "
        f"batch {options.batch_size}, {rows:,} rows a pass"
    )
    names = [f"f{index:02}" for index in range(options.features)]
    ps_config = PSConfig(num_servers=1, server_port_base=0, num_worker_threads=1)
    config = TrainerConfig(
        feature_config=FeatureConfig(names, [], {}, options.dim),
        target_config=TargetConfig(["y"]),
        batch_size=options.batch_size,
        embedding_learning_rate=0.05,
        ps_config=ps_config,
    )
    width = config.feature_config.get_model_input_dim()
    with (
        tempfile.TemporaryDirectory() as folder,
        PSMainClient(None, ps_config) as main_client,
        WorkerTrainer(0, config, main_client.get_server_info(), lambda: network(width)) as worker,
    ):
        columns = write(Path(folder), names, rows)
        (unit, *_) = units_of_work(
            S3ParquetDataLoader().discover_partitions(folder), options.batch_size
        )
        bare = bare_step(width, list(unit_batches(unit, config, 0)))
        keras_inputs = {name: columns[name].astype(np.int32) for name in names}
        fitted = keras_model(names, options.dim)
        waits: list[float] = []

        def run_bare() -> None:
            for index in range(BATCHES):
                bare(index % unit_batch_count)

        unit_batch_count = unit.num_rows // options.batch_size

        def run_ours() -> None:
            waits.append(worker.train_partitions([folder]).metrics["ps_wait_share"])

        def run_keras() -> None:
            fitted.fit(keras_inputs, columns["y"], batch_size=options.batch_size, verbose=0)

        runs = {"bare": run_bare, "ours": run_ours, "keras": run_keras}
        for run in runs.values():
            run()
        waits.clear()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    rates = {name: sorted(rows / value for value in times) for name, times in seconds.items()}
    middle = {name: float(np.median(values)) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:8s} {middle[name]:10,.0f} samples/s  ({values[0]:,.0f} - {values[-1]:,.0f})")
    print(f"vs the bare step   {middle['ours'] / middle['bare']:6.0%}  (floor 50 %, aim 75 %)")
    print(f"vs keras model.fit {middle['ours'] / middle['keras']:6.1f}x (floor 3x, aim 6x)")
    print(f"waiting share     {np.median(waits):6.1%}  (floor 20 %, aim 5 %)")


if __name__ == "__main__":
    main()
