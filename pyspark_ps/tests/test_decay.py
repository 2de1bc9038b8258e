"""Decay and prune on running servers."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pyspark_ps import ClosedError, PSConfig, PSMainClient, TableConfig
from pyspark_ps.server import EmbeddingStore

OPTIMIZERS = ("sgd", "adam", "adagrad", "ftrl")


@pytest.fixture(scope="module")
def config():
    return PSConfig(
        num_servers=2,
        server_port_base=0,
        num_worker_threads=2,
        embedding_dim=2,
        tables={name: TableConfig(3, name) for name in OPTIMIZERS},
        auto_decay=True,
        decay_interval_steps=3,
        decay_factor=0.5,
        prune_threshold=1,
    )


@pytest.fixture(scope="module")
def main(config):
    with PSMainClient(None, config) as running:
        yield running


def test_every_interval_of_steps_rows_are_multiplied_then_pruned(main):
    worker = main.worker_client()
    rows = worker.pull_embeddings([1, 2])
    worker.push_embedding_gradients({2: [0.0, 0.0]})  # count 2; id 1 has 1
    assert [main.step() for _ in range(3)] == [False, False, True]
    kept = worker.pull_embeddings([1, 2], create_if_missing=False)
    np.testing.assert_array_equal(kept, [[0, 0], rows[1] * np.float32(0.5)])
    assert [main.step() for _ in range(3)] == [False, False, True]  # count 1, then 0.5: gone
    assert not worker.pull_embeddings([1, 2], create_if_missing=False).any()


def test_steps_of_many_threads_are_counted_once_each(main):
    decayed = []
    threads = [
        threading.Thread(target=lambda: decayed.extend(main.step() for _ in range(15)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(decayed) == 20


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decayed_rows_go_on_as_the_optimizers_rule_says(main, config, name):
    """The store itself is held to the formulas in test_views.py."""
    worker, store = main.worker_client(), EmbeddingStore(3, optimizer_name=name)
    ids = list(range(50))
    for each in (1.0, -0.5):
        grads = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32) * each
        rows = worker.pull_embeddings(ids, name)
        if each == 1.0:
            for token_id, row in zip(ids, rows, strict=True):
                store.set(token_id, row)
        worker.push_embedding_gradients((ids, grads), name)
        store.update_batch((ids, grads))
        main.decay_embeddings("multiply", factor=0.75)
        store.decay(0.75)
    np.testing.assert_array_equal(worker.pull_embeddings(ids, name), store.get_batch(ids)[0])


def test_without_auto_decay_steps_do_nothing(config):
    idle = PSMainClient(None, config.replace(num_servers=1, auto_decay=False))
    with pytest.raises(ClosedError):
        idle.step()
    with idle:
        rows = idle.worker_client().pull_embeddings([1])
        assert not any(idle.step() for _ in range(10))
        np.testing.assert_array_equal(idle.worker_client().pull_embeddings([1]), rows)
