"""The work of the training benchmarks: its data, network, configuration and the bare step."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from bench.reporting import facts
from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig
from distributed_trainer.data_loader import S3ParquetDataLoader
from distributed_trainer.key_batch import KeyBatch, unit_batches
from distributed_trainer.thread_config import ThreadConfig, get_optimal_thread_config
from distributed_trainer.units import units_of_work
from pyspark_ps import PSConfig, PSMainClient

FILL_KEYS = 100_000


@dataclass
class Work:
    """Sparse features of `ids` ids each, Adagrad 0.05 for their rows, a dense 128-64-1 network
    under Adam, clicks that depend on the first feature."""

    features: int = 8
    dim: int = 16
    batch_size: int = 2048
    ids: int = 200_000
    batches: int = 96
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [f"f{index:02}" for index in range(self.features)]

    @property
    def rows(self) -> int:
        """Samples of a pass."""
        return self.batches * self.batch_size

    @property
    def width(self) -> int:
        """Of the network's input."""
        return self.features * self.dim

    def config(self, threads: ThreadConfig | None = None) -> TrainerConfig:
        """Of a training with one server. `threads`: None = as advised for a worker by itself."""
        return TrainerConfig(
            thread_config=threads or advised_threads(1),
            feature_config=FeatureConfig(self.names, [], {}, self.dim),
            target_config=TargetConfig(["y"]),
            batch_size=self.batch_size,
            embedding_learning_rate=0.05,
            ps_config=PSConfig(
                num_servers=1, server_port_base=0, num_worker_threads=1, max_embeddings_per_shard=0
            ),
        )

    def write(self, folder: Path) -> dict[str, Any]:
        """One Parquet file of four row groups; its columns."""
        rng = np.random.default_rng(0)
        columns: dict[str, Any] = {
            name: rng.integers(0, self.ids, self.rows) for name in self.names
        }
        chance = 0.2 + 0.1 * (columns[self.names[0]] % 3)
        columns["y"] = (rng.random(self.rows) < chance).astype(np.float32)
        pq.write_table(pa.table(columns), folder / "data.parquet", row_group_size=self.rows // 4)
        return columns

    def fill(self, cluster: PSMainClient) -> None:
        """Makes every row, so that a pass trains tables of full size."""
        client = cluster.worker_client()
        for name, table in self.config().get_table_configs().items():
            client.create_table(name, table)
        for first in range(0, self.ids, FILL_KEYS):
            keys = np.arange(first, min(first + FILL_KEYS, self.ids), dtype=np.uint64)
            for name in self.names:
                client.pull({name: keys})
        print(f"{client.get_embedding_count():,} rows on the server")

    def read(self, folder: Path) -> list[KeyBatch]:
        """The batches of all that was written."""
        files = S3ParquetDataLoader().discover_partitions(str(folder))
        units = units_of_work(files, self.batch_size)
        return [batch for _, _, batch in unit_batches(units, self.config(), lambda unit: 0)]

    def network(self) -> Any:
        """Dense layers of 128, 64 and 1."""
        return keras.Sequential(
            [
                keras.Input((self.width,)),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )

    def bare_step(self, batches: list[KeyBatch]) -> Callable[[int], Any]:
        """The ceiling: a compiled forward and backward pass of inputs that are tensors in memory;
        gradients of inputs and weights stay tensors."""
        model = self.network()
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
            tf.constant(rng.normal(0, 0.01, (batch.num_rows, self.width)), tf.float32)
            for batch in batches
        ]
        targets = [tf.constant(batch.targets) for batch in batches]
        return lambda i: float(step(inputs[i], targets[i])[0])


def advised_threads(workers: int) -> ThreadConfig:
    """What the documentation tells users to give each of so many workers on this machine."""
    return get_optimal_thread_config(len(os.sched_getaffinity(0)), workers)


def parse(description: str | None, rounds: int, **defaults: int) -> tuple[Work, int]:
    """The work and rounds of the command line; prints machine, commit and sizes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    work = Work(**defaults)
    parser.add_argument("--features", type=int, default=work.features)
    parser.add_argument("--ids", type=int, default=work.ids, help="of each feature")
    parser.add_argument("--dim", type=int, default=work.dim)
    parser.add_argument("--batch-size", type=int, default=work.batch_size)
    parser.add_argument("--batches", type=int, default=work.batches, help="of one pass")
    parser.add_argument("--rounds", type=int, default=rounds)
    options = vars(parser.parse_args())
    rounds = options.pop("rounds")
    work = Work(**options)
    print(f"{facts()}, TensorFlow {tf.__version__}")
    print(
        f"{work.features} features x {work.ids:,} ids x dim {work.dim}, batch {work.batch_size}, "
        f"{work.rows:,} rows a pass"
    )
    return work, rounds
