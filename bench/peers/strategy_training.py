"""A contestant: the work trained under tf.distribute.ParameterServerStrategy.

    strategy_training.py COLUMNS_FILE IDS_OF_A_FEATURE DIM BATCH_SIZE WORKERS

This process is the coordinator; it starts one parameter server and the workers, processes of their
own on this host, as TensorFlow's guide describes it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf

from bench.peers.columns import load
from bench.peers.passes import serve

STEPS_OF_A_CLOSURE = 8  # the guide: several steps in one function, so that scheduling costs less


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def be_server(cluster: dict[str, list[str]], job: str, index: int) -> None:
    """Serves until the coordinator, which holds the other end of standard input, has ended."""
    tf.distribute.Server(
        tf.train.ClusterSpec(cluster), job_name=job, task_index=index, protocol="grpc", start=True
    )
    sys.stdin.read()
    os._exit(0)


def network(features: int, ids: int, dim: int) -> tuple[tf.keras.Model, list[tf.Variable]]:
    """(the network, its embedding tables): a table per feature, as in the bars' work."""
    inputs = tf.keras.Input((features,), dtype=tf.int64)
    layers = [tf.keras.layers.Embedding(ids, dim) for _ in range(features)]
    rows = [layer(inputs[:, k]) for k, layer in enumerate(layers)]
    x = tf.keras.layers.Concatenate()(rows)
    x = tf.keras.layers.Dense(128, activation="relu")(x)
    x = tf.keras.layers.Dense(64, activation="relu")(x)
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(1, activation="sigmoid")(x))
    return model, [layer.embeddings for layer in layers]


def main() -> None:
    path, ids_of_a_feature, dim, batch_size, workers = sys.argv[1], *map(int, sys.argv[2:6])
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers + 1)]
    cluster = {"ps": addresses[:1], "worker": addresses[1:]}
    tasks = [("ps", 0), *(("worker", index) for index in range(workers))]
    for job, index in tasks:
        subprocess.Popen(
            [sys.executable, __file__, "--serve", json.dumps([cluster, job, index])],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
    ids, clicks = load(path, 0)
    strategy = tf.distribute.ParameterServerStrategy(
        tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster), rpc_layer="grpc"
        )
    )
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        model, tables = network(ids.shape[1], ids_of_a_feature, dim)
        rows_optimizer = tf.keras.optimizers.legacy.Adagrad(0.05)
        dense_optimizer = tf.keras.optimizers.legacy.Adam()
        loss_of = tf.keras.losses.BinaryCrossentropy(reduction=tf.keras.losses.Reduction.SUM)
    dense = [v for v in model.trainable_variables if not any(v is table for table in tables)]

    def data() -> tf.data.Dataset:
        slices = tf.data.Dataset.from_tensor_slices((ids, clicks))
        return slices.batch(batch_size, drop_remainder=True).repeat().prefetch(4)

    def step(batch_ids: tf.Tensor, batch_clicks: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = loss_of(batch_clicks, model(batch_ids, training=True)) / batch_size
        gradients = tape.gradient(loss, tables + dense)
        rows_optimizer.apply_gradients(zip(gradients[: len(tables)], tables, strict=True))
        dense_optimizer.apply_gradients(zip(gradients[len(tables) :], dense, strict=True))

    @tf.function
    def train(batches: object) -> None:
        for _ in tf.range(STEPS_OF_A_CLOSURE):
            strategy.run(step, args=next(batches))

    batches = iter(coordinator.create_per_worker_dataset(data))
    closures = len(ids) // batch_size // STEPS_OF_A_CLOSURE

    def one_pass() -> None:
        for _ in range(closures):
            coordinator.schedule(train, args=(batches,))
        coordinator.join()

    serve({"pass": one_pass})
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        be_server(*json.loads(sys.argv[2]))
    else:
        main()
