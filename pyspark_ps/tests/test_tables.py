"""Tables: where definitions come from, who learns them, and that each has its own optimizer."""

from __future__ import annotations

import numpy as np
import pytest

from pyspark_ps import (
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    PSConfig,
    PSWorkerClient,
    ResourceExhaustedError,
    TableConfig,
)
from pyspark_ps.server import EmbeddingStore, PSServer

CONFIG = PSConfig(
    embedding_dim=2,
    embedding_init="zeros",
    num_worker_threads=2,
    optimizer_configs={"adagrad": {"epsilon": 1e-3}},
    tables={
        "plain": TableConfig(3, "sgd", {"learning_rate": 0.5, "momentum": 0.0}),
        "faster": TableConfig(3, "sgd", {"learning_rate": 2.0, "momentum": 0.0}),
        "adaptive": TableConfig(1, optimizer_params={"learning_rate": 0.25}, init="normal"),
        "steps": TableConfig(2, "adam", init="random", init_scale=0.5),
    },
    max_embeddings_per_shard=500,
)


@pytest.fixture(scope="module")
def server():
    with PSServer(0, 1, CONFIG, port=0) as running:
        yield running


@pytest.fixture
def worker(server):
    # No tables in its own configuration: servers own the definitions.
    config = PSConfig(embedding_dim=99, num_servers=1)
    with PSWorkerClient([server.get_server_info()], config) as client:
        yield client


def test_definitions_are_the_servers_complete_with_what_was_left_open(worker):
    tables = worker.get_tables()
    assert tables["default"] == CONFIG.default_table()
    assert tables["adaptive"] == TableConfig(
        dim=1,
        optimizer="adagrad",
        optimizer_params={
            "learning_rate": 0.25,
            "epsilon": 1e-3,
            "initial_accumulator": 0.1,
            "weight_decay": 0.0,
        },
        init="normal",
        init_scale=0.01,
    )
    assert tables["steps"].init_scale == 0.5
    assert tables["steps"].optimizer_params["amsgrad"] is False


def test_one_push_runs_every_tables_own_optimizer_at_its_own_rate(worker):
    ids = [1, "one"]
    before = {name: worker.pull_embeddings(ids, name) for name in worker.get_tables()}
    grads = {name: np.full_like(rows, 0.5) for name, rows in before.items()}
    worker.push_gradients(None, {name: (ids, g) for name, g in grads.items()})
    for name, table in worker.get_tables().items():
        store = EmbeddingStore(
            table.dim,
            optimizer_name=table.optimizer,
            optimizer_config=table.optimizer_params,
        )
        for token_id, row in zip(ids, before[name], strict=True):
            store.set(token_id, row)
        store.update_batch((ids, grads[name]))
        after = worker.pull_embeddings(ids, name)
        np.testing.assert_array_equal(after, store.get_batch(ids)[0])
        assert (after < before[name]).all()
    np.testing.assert_array_equal(worker.pull_embeddings(ids, "plain"), np.full((2, 3), -0.25))
    np.testing.assert_array_equal(worker.pull_embeddings(ids, "faster"), np.full((2, 3), -1.0))


def test_the_same_definition_again_does_nothing_and_another_is_an_error(worker):
    worker.pull_embeddings([5], "plain")
    worker.create_table(
        "plain", TableConfig(3, "sgd", {"learning_rate": 0.5, "momentum": 0.0}, "zeros")
    )
    for other in (
        TableConfig(4, "sgd", {"learning_rate": 0.5, "momentum": 0.0}, "zeros"),
        TableConfig(3, "sgd", {"learning_rate": 0.6, "momentum": 0.0}, "zeros"),
        TableConfig(3, "adam", {}, "zeros"),
        TableConfig(3, "sgd", {"learning_rate": 0.5, "momentum": 0.0}, "normal"),
    ):
        with pytest.raises(InvalidArgumentError, match="'plain'"):
            worker.create_table("plain", other)
    assert len(worker.pull_embeddings([5], "plain", create_if_missing=False)) == 1


def test_a_table_made_by_one_client_is_known_to_all(server, worker):
    name = "Σ" * 128  # characters, not bytes
    with PSWorkerClient([server.get_server_info()], PSConfig(num_servers=1)) as other:
        other.create_table(name, TableConfig(7, init="zeros"))
    np.testing.assert_array_equal(worker.pull_embeddings([1], name), np.zeros((1, 7)))
    assert worker.get_tables()[name].dim == 7
    with pytest.raises(NotFoundError, match=r"'nowhere'.*'adaptive', 'default'"):
        worker.pull_embeddings([1], "nowhere")


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("x" * 129, TableConfig(4), "1-128"),
        ("", TableConfig(4), "1-128"),
        ("tab\tbed", TableConfig(4), "printable"),
        ("new", TableConfig(0), "dim.*0"),
        ("new", TableConfig(65_537), "dim.*65537"),
        ("new", TableConfig(4, "sgdd"), "sgdd"),
        ("new", TableConfig(4, "sgd", {"lr": 1}), "'lr'"),
        ("new", TableConfig(4, "sgd", {"learning_rate": -1}), "learning_rate.*-1"),
        ("new", TableConfig(4, "sgd", {"nesterov": True, "momentum": 0.0}), "nesterov"),
        ("new", TableConfig(4, init="xavier"), "xavier"),
        ("new", TableConfig(4, init_scale=float("inf")), "init_scale"),
        ("new", {"dim": 4}, "TableConfig"),
    ],
)
def test_a_wrong_table_is_refused_before_anything_is_sent(worker, name, table, words):
    with pytest.raises(ConfigurationError, match=words):
        worker.create_table(name, table)
    with pytest.raises(ConfigurationError, match=words):
        PSServer(0, 1, CONFIG.replace(tables={name: table}))
    assert name not in worker.get_tables()


def test_the_limit_of_rows_counts_all_tables_together(server, worker):
    room = 500 - server.get_stats()["embeddings"]
    worker.pull_embeddings(range(1000, 1000 + room), "plain")
    refusals = server.get_stats()["refusals_total"]
    with pytest.raises(ResourceExhaustedError, match=r"server 0.*500"):
        worker.pull_embeddings([2000], "faster")
    with pytest.raises(ResourceExhaustedError):
        worker.push_embedding_gradients({2000: [1.0, 1.0]})
    assert server.get_stats()["refusals_total"] == refusals + 2
    assert server.get_stats()["embeddings"] == 500
    assert worker.pull_embeddings([1000], "plain").shape == (1, 3)
    assert not worker.pull_embeddings([2000], "faster", create_if_missing=False).any()
