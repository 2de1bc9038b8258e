"""A contestant: the work trained by tensorflow-recommenders-addons in process.

tfra_training.py COLUMNS_FILE IDS_OF_A_FEATURE DIM BATCH_SIZE
"""

from __future__ import annotations

import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf
import tensorflow_recommenders_addons as tfra

from bench.peers.columns import load
from bench.peers.passes import serve

de = tfra.dynamic_embedding
FILL_KEYS = 100_000


def network(features: int, rows_max: int, dim: int) -> tf.keras.Model:
    """One dynamic table for all features, made at its full size: one lookup and one update of a
    batch's distinct ids."""
    ids = tf.keras.Input((features,), dtype=tf.int64)
    rows = de.keras.layers.Embedding(
        dim,
        initializer=tf.keras.initializers.RandomNormal(0.0, 0.01, seed=1),
        init_capacity=rows_max,
        name="rows",
    )(ids)
    x = tf.keras.layers.Reshape((features * dim,))(rows)
    x = tf.keras.layers.Dense(128, activation="relu")(x)
    x = tf.keras.layers.Dense(64, activation="relu")(x)
    return tf.keras.Model(ids, tf.keras.layers.Dense(1, activation="sigmoid")(x))


def fill(table: object, rows: int, dim: int) -> None:
    """Makes every row, as ours are made before the first pass."""
    for first in range(0, rows, FILL_KEYS):
        keys = tf.range(first, min(first + FILL_KEYS, rows), dtype=tf.int64)
        table.upsert(keys, tf.random.normal((len(keys), dim), 0.0, 0.01))


def main() -> None:
    path, ids_of_a_feature, dim, batch_size = sys.argv[1], *map(int, sys.argv[2:5])
    ids, clicks = load(path, ids_of_a_feature)
    rows_max = ids.shape[1] * ids_of_a_feature
    model = network(ids.shape[1], rows_max, dim)
    fill(model.get_layer("rows").params, rows_max, dim)
    loss_of = tf.keras.losses.BinaryCrossentropy()
    legacy = tf.keras.optimizers.legacy
    rows_optimizer = de.DynamicEmbeddingOptimizer(legacy.Adagrad(0.05))
    dense_optimizer = legacy.Adam()

    @tf.function
    def train(batches: tf.data.Dataset) -> None:
        for batch_ids, batch_clicks in batches:
            with tf.GradientTape() as tape:
                loss = loss_of(batch_clicks, model(batch_ids, training=True))
            rows = model.get_layer("rows").trainable_variables
            dense = [
                variable
                for layer in model.layers
                if layer.name != "rows"
                for variable in layer.trainable_variables
            ]
            gradients = tape.gradient(loss, rows + dense)
            rows_optimizer.apply_gradients(zip(gradients[: len(rows)], rows, strict=True))
            dense_optimizer.apply_gradients(zip(gradients[len(rows) :], dense, strict=True))

    data = tf.data.Dataset.from_tensor_slices((ids, clicks))
    data = data.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    serve({"pass": lambda: train(data)})


if __name__ == "__main__":
    main()
