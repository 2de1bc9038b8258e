"""Embeddings trained by Spark tasks, with the servers on Spark's executors.

    python -m pyspark_ps.examples.distributed_embedding

Words that stand in the same sentence shall get similar embeddings. The corpus is an RDD; each of
its partitions is a task that pulls the rows of its words, computes, and pushes gradients, all tasks
at once and without locks. The servers run as long Spark jobs beside them and hold a task slot each.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient

TOPICS = {
    "sea": ["ship", "harbour", "tide", "sailor", "anchor"],
    "kitchen": ["pan", "oven", "knife", "recipe", "salt"],
    "night": ["moon", "star", "lamp", "sleep", "dream"],
}
VOCABULARY = [word for words in TOPICS.values() for word in words]
SENTENCES = 6_000
BATCH = 200
PASSES = 3


def make_sentences(seed: int) -> list[list[str]]:
    """Sentences of three words, each of one topic."""
    random = np.random.default_rng(seed)
    topics = list(TOPICS.values())
    return [
        [
            str(word)
            for word in random.choice(topics[random.integers(len(topics))], 3, replace=False)
        ]
        for _ in range(SENTENCES)
    ]


def train_partition(
    sentences: Iterable[list[str]], server_info: list[dict[str, Any]], config: dict[str, Any]
) -> Iterator[int]:
    """Runs in a Spark task: trains on its sentences and yields how many they were."""
    random = np.random.default_rng(0)
    trained = 0
    with PSWorkerClient(server_info, PSConfig.from_dict(config)) as worker:
        sentences = iter(sentences)
        while batch := list(itertools.islice(sentences, BATCH)):
            train_batch(worker, batch, random)
            trained += len(batch)
    yield trained


def train_batch(
    worker: PSWorkerClient, batch: list[list[str]], random: np.random.Generator
) -> None:
    """Draws the first two words of each sentence together, and the first from a random one."""
    first = [sentence[0] for sentence in batch]
    second = [sentence[1] for sentence in batch]
    other = [str(word) for word in random.choice(VOCABULARY, len(batch))]
    # Strings are ids as they are, and may repeat. One pull and one push for the whole batch.
    left_ids, right_ids = first + first, second + other
    rows = worker.pull_embeddings(left_ids + right_ids)
    left, right = np.split(rows, 2)
    together = np.repeat([1.0, 0.0], len(batch))
    error = (1 / (1 + np.exp(-(left * right).sum(axis=1))) - together)[:, None] / len(batch)
    gradients = np.concatenate([error * right, error * left])
    worker.push_embedding_gradients((left_ids + right_ids, gradients))


def print_neighbours(main_client: PSMainClient) -> None:
    """Each topic's first word with the words whose embeddings are most like its own."""
    rows = main_client.worker_client().pull_embeddings(VOCABULARY, create_if_missing=False)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for topic in TOPICS.values():
        likeness = rows @ rows[VOCABULARY.index(topic[0])]
        nearest = [VOCABULARY[i] for i in np.argsort(-likeness)[1:4]]
        print(f"{topic[0]:>6}: {', '.join(nearest)}")


def main() -> None:
    # Spark starts "python3" on executors unless told otherwise; they need this environment.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    from pyspark import SparkConf, SparkContext

    # Two executors with two slots each: two servers, and two slots for the training tasks.
    conf = SparkConf().set("spark.ui.showConsoleProgress", "false")
    spark_context = SparkContext("local-cluster[2,2,1024]", "distributed_embedding", conf=conf)
    config = PSConfig(
        num_servers=2,
        embedding_dim=16,
        embedding_init_scale=0.1,
        optimizer_configs={"adagrad": {"learning_rate": 0.1}},
    )
    with PSMainClient(spark_context, config) as main_client:
        # The driver's word where the servers are; secrets in it print as ***.
        servers = [server.to_dict() for server in main_client.get_server_info()]
        plain_config = config.to_dict()
        corpus = spark_context.parallelize(make_sentences(seed=1), 2).cache()
        for number in range(PASSES):
            trained = corpus.mapPartitions(
                lambda sentences: train_partition(sentences, servers, plain_config)
            ).sum()
            print(f"pass {number}: {trained} sentences")
        print_neighbours(main_client)
    spark_context.stop()


if __name__ == "__main__":
    main()
