"""A training small enough to be done again in plain Keras, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf
from numpy.typing import NDArray

from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig, WeightConfig
from distributed_trainer.key_batch import table_batches
from distributed_trainer.pipeline import NumberedBatch, Pipeline, StopWatch
from distributed_trainer.step import TrainingStep
from distributed_trainer.tf_model_wrapper import TFModelWrapper
from distributed_trainer.worker import CountedStep, define_on_servers
from pyspark_ps import PSMainClient

VOCABULARY = 50
RATE, ACCUMULATOR = 0.05, 0.1

CONFIG = TrainerConfig(
    feature_config=FeatureConfig(
        sparse_features=["user", "item", "seen", "tags", "zone"],
        dense_features=["price", "age"],
        embedding_dims={"user": 8, "item": 8, "seen": 8, "tags": 4, "zone": 4},
        shared_tables={"item": "items", "seen": "items"},
    ),
    target_config=TargetConfig(["y"]),
    weight_config=WeightConfig("w"),
    batch_size=64,
)


def data_of(rows: int, seed: int = 0) -> pa.Table:
    """Few ids, so that batches repeat them; lists of 0 to 4 tags and of items seen."""
    rng = np.random.default_rng(seed)

    def lists() -> list[list[int]]:
        return [rng.integers(0, VOCABULARY, rng.integers(0, 5)).tolist() for _ in range(rows)]

    return pa.table(
        {
            "user": rng.integers(0, VOCABULARY, rows),
            "item": rng.integers(0, VOCABULARY, rows),
            "seen": pa.array(lists(), pa.list_(pa.int64())),
            "tags": pa.array(lists(), pa.list_(pa.int64())),
            "zone": rng.integers(0, VOCABULARY, rows),
            "price": rng.normal(size=rows).astype(np.float32),
            "age": rng.normal(size=rows).astype(np.float32),
            "y": (rng.random(rows) < 0.3).astype(np.float32),
            "w": rng.random(rows).astype(np.float32) * 2,
        }
    )


def network(width: int, outputs: int = 1, activation: str = "sigmoid") -> Any:
    inputs = keras.Input((width,))
    x = keras.layers.Dense(16, activation="relu", kernel_regularizer="l2")(inputs)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation)(x))


def initial_tables() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    dims = CONFIG.feature_config.get_tables()
    return {
        table: rng.normal(0, 0.1, (VOCABULARY, dim)).astype(np.float32)
        for table, dim in dims.items()
    }


def keras_losses(
    model: Any, data: pa.Table, steps: int, start: dict[str, NDArray[np.float32]] | None = None
) -> Iterator[float]:
    """The same training in plain Keras: whole tables, dense gradients, Keras optimizers.

    Args:
        start: table -> float32 (VOCABULARY, dim), its first values; None = `initial_tables`.
    """
    start = initial_tables() if start is None else start
    tables = {name: keras.Variable(table, name=name) for name, table in start.items()}
    rows_optimizer = keras.optimizers.Adagrad(RATE, ACCUMULATOR, epsilon=1e-20)
    weights_optimizer = keras.optimizers.Adam(0.001, epsilon=1e-8)
    loss_of = keras.losses.BinaryCrossentropy()
    variables = [*model.trainable_variables, *tables.values()]
    table_of = {"item": "items", "seen": "items", "tags": "tags", "user": "user", "zone": "zone"}

    count = len(model.trainable_variables)
    weights_optimizer.build(variables[:count])
    rows_optimizer.build(variables[count:])

    @tf.function
    def train(shares: dict[str, Any], dense: Any, targets: Any, weights: Any) -> Any:
        with tf.GradientTape() as tape:
            pieces = [
                tf.linalg.matmul(shares[name], tables[table].value)
                for name, table in table_of.items()
            ]
            outputs = model(tf.concat([*pieces, dense], axis=1), training=True)
            loss = loss_of(targets, outputs, sample_weight=weights) + tf.add_n(model.losses)
        found = tape.gradient(loss, [variable.value for variable in variables])
        weights_optimizer.apply(found[:count], variables[:count])
        rows_optimizer.apply(found[count:], variables[count:])
        return loss

    for step in range(steps):
        columns = data.slice(step * 64, 64).to_pydict()
        loss = train(
            {name: shares_of(columns[name]) for name in table_of},
            np.array([columns["age"], columns["price"]], np.float32).T,
            np.array(columns["y"], np.float32)[:, None],
            np.array(columns["w"], np.float32),
        )
        yield float(loss)


def shares_of(ids_of_samples: list[Any]) -> NDArray[np.float32]:
    """(B, vocabulary): the share that each id has in its sample's mean."""
    shares = np.zeros((len(ids_of_samples), VOCABULARY), np.float32)
    for sample, ids in enumerate(ids_of_samples):
        for one in ids if isinstance(ids, list) else [ids]:
            shares[sample, one] += 1 / (len(ids) if isinstance(ids, list) else 1)
    return shares


def copy_of(model: Any) -> Any:
    """The same `network` with the same weights."""
    copy = network(model.inputs[0].shape[1])
    copy.set_weights(model.get_weights())
    return copy


def losses_over(
    main: PSMainClient, data: pa.Table, model: Any, depth: int
) -> tuple[list[float], dict[str, NDArray[np.float32]]]:
    """Trains over the servers; the losses, and every table's rows before the first step."""
    config = replace(
        CONFIG, embedding_learning_rate=RATE, ps_config=main.config, prefetch_depth=depth
    )
    wrapper = TFModelWrapper(model)
    step = TrainingStep(wrapper, config)
    client = main.worker_client()
    define_on_servers(client, config, wrapper)
    ids = np.arange(VOCABULARY, dtype=np.uint64)
    start, _ = client.pull(dict.fromkeys(config.feature_config.get_tables(), ids))
    losses: list[float] = []

    counted = CountedStep(step, lambda _, computed: losses.append(computed.loss))
    batches = (NumberedBatch(batch, "losses") for batch in table_batches(data, config))
    pipeline = Pipeline(client, wrapper.get_trainable_names(), depth)
    pipeline.train(batches, counted, StopWatch())
    return losses, start
