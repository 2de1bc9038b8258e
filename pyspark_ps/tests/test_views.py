"""The inspection views against plain dictionaries."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pyspark_ps import ClosedError, PSConfig, PSWorkerClient, keys_of
from pyspark_ps.errors import (
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from pyspark_ps.server import EmbeddingStore, PSServer, ShardManager, UpdateCounter, WeightStore
from pyspark_ps.tests import optimizer_reference as reference
from pyspark_ps.utils import ConsistentHashRing
from pyspark_ps.utils.config import OPTIMIZER_DEFAULTS

DIM, ROWS_MAX = 3, 12
# -1 and 2**64 - 1 are one key, "a" and b"a" another.
IDS = st.sampled_from([0, 1, 2, -1, 2**64 - 1, "a", b"a", "1", None, True, *range(10, 18)])
VECTORS = st.lists(st.integers(-40, 40).map(lambda i: i / 20), min_size=DIM, max_size=DIM).map(
    lambda values: np.array(values, np.float32)
)
NAMES = st.sampled_from(["adagrad", "adam", "ftrl", "sgd"])


def key_of(token_id):
    return int(keys_of([token_id])[0])


def initial_row(token_id):
    """What a new row holds, by a store that has seen nothing else."""
    return EmbeddingStore(DIM, init_scale=0.1, seed=3).get(token_id).astype(np.float64)


class EmbeddingStoreAgreesWithADict(RuleBasedStateMachine):
    """key -> [values, count, optimizer state] in float64."""

    @initialize(name=NAMES)
    def make(self, name):
        self.name, self.params = name, OPTIMIZER_DEFAULTS[name]
        self.store = self.new_store()
        self.model = {}

    def new_store(self):
        return EmbeddingStore(
            DIM, init_scale=0.1, optimizer_name=self.name, max_embeddings=ROWS_MAX, seed=3
        )

    def row(self, token_id):
        """The model's row, made when missing; None when it does not fit."""
        key = key_of(token_id)
        if key not in self.model:
            if len(self.model) == ROWS_MAX:
                return None
            values = initial_row(token_id)
            self.model[key] = [values, 1.0, reference.fresh_state(self.name, self.params, values)]
        return self.model[key]

    @rule(token_id=IDS)
    def get(self, token_id):
        if self.row(token_id) is None:
            with pytest.raises(ResourceExhaustedError, match=f"{ROWS_MAX}"):
                self.store.get(token_id)
        else:
            self.near(self.store.get(token_id), self.row(token_id)[0])

    @rule(ids=st.lists(IDS, max_size=6))
    def get_what_is_there(self, ids):
        rows, found = self.store.get_batch(ids, create_if_missing=False)
        assert found == [i for i in ids if key_of(i) in self.model]
        assert rows.shape == (len(found), DIM)
        for row, token_id in zip(rows, found, strict=True):
            self.near(row, self.model[key_of(token_id)][0])

    @rule(grads=st.dictionaries(IDS, VECTORS, max_size=5))
    def update(self, grads):
        new = {key_of(i) for i in grads} - self.model.keys()
        if len(self.model) + len(new) > ROWS_MAX:
            with pytest.raises(ResourceExhaustedError):
                self.store.update_batch(grads)
            return
        sums = {}
        for token_id, gradient in grads.items():
            _, total = sums.get(key_of(token_id), (None, 0))
            sums[key_of(token_id)] = token_id, total + gradient.astype(np.float64)
        for token_id, gradient in sums.values():
            row = self.row(token_id)
            row[0] = reference.step(self.name, self.params, row[0], gradient, row[2])
            row[1] += 1
        self.store.update_batch(grads)

    @rule(token_id=IDS, values=VECTORS)
    def overwrite(self, token_id, values):
        row = self.row(token_id)
        if row is None:
            with pytest.raises(ResourceExhaustedError):
                self.store.set(token_id, values)
            return
        row[0] = values.astype(np.float64)
        row[2] = reference.fresh_state(self.name, self.params, row[0])
        self.store.set(token_id, values)

    @rule(ids=st.lists(IDS, max_size=3))
    def remove(self, ids):
        gone = {key_of(i) for i in ids} & self.model.keys()
        assert self.store.remove_batch(ids) == len(gone)
        for key in gone:
            del self.model[key]

    @rule(factor=st.sampled_from([1.0, 0.5]))
    def decay(self, factor):
        self.store.decay(factor)
        for row in self.model.values():
            was_zero, row[0], row[1] = row[0] == 0, row[0] * factor, row[1] * factor
            if self.name == "ftrl":
                z = reference.z_of(self.params, row[0], row[2]["n"])
                row[2]["z"] = np.where(was_zero, row[2]["z"] * factor, z)

    @rule(min_count=st.sampled_from([0, 1, 1.5, 3]))
    def prune(self, min_count):
        gone = [key for key, row in self.model.items() if row[1] < min_count]
        assert self.store.prune(min_count) == len(gone)
        for key in gone:
            del self.model[key]

    @rule()
    def move_to_another_store(self):
        state, self.store = self.store.get_state(), self.new_store()
        self.store.get("something that goes")
        self.store.set_state(state)

    @rule()
    def clear(self):
        self.store.clear()
        self.model.clear()

    @invariant()
    def holds_the_same_rows(self):
        if not hasattr(self, "store"):
            return
        state = self.store.get_state()
        assert state["keys"].tolist() == sorted(self.model) == self.store.get_all_token_ids()
        assert len(self.store) == self.store.get_stats()["rows"] == len(self.model)
        for i, key in enumerate(state["keys"].tolist()):
            values, count, parts = self.model[key]
            self.near(state["values"][i], values)
            assert state["counts"][i] == np.float32(count)
            assert key in self.store
            assert self.store.get_update_count(key) == np.float32(count)
            for part, wanted in parts.items():
                self.near(state["state"][part][i], wanted)

    @staticmethod
    def near(actual, wanted):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


EmbeddingStoreAgreesWithADict.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None
)
test_embedding_store_agrees_with_a_dict = EmbeddingStoreAgreesWithADict.TestCase


class UpdateCounterAgreesWithADict(RuleBasedStateMachine):
    @initialize(default=st.sampled_from([0, 2]))
    def make(self, default):
        self.default, self.counter, self.model = default, UpdateCounter(default), {}

    @rule(ids=st.lists(IDS, max_size=6), by=st.sampled_from([0, 1, 2.5]))
    def increment(self, ids, by):
        self.counter.increment_batch(ids, by)
        for token_id in ids:
            key = key_of(token_id)
            self.model[key] = self.model.get(key, self.default) + by

    @rule(token_id=IDS)
    def increment_one(self, token_id):
        key = key_of(token_id)
        self.model[key] = self.model.get(key, self.default) + 1
        assert self.counter.increment(token_id) == self.model[key]

    @rule(token_id=IDS, count=st.integers(0, 9))
    def set_count(self, token_id, count):
        self.counter.set_count(token_id, count)
        self.model[key_of(token_id)] = count

    @rule(token_id=IDS)
    def remove(self, token_id):
        assert self.counter.remove(token_id) == (self.model.pop(key_of(token_id), None) is not None)

    @rule()
    def decay(self):
        self.counter.decay(0.5)
        self.model = {key: count / 2 for key, count in self.model.items()}

    @rule(threshold=st.integers(0, 4))
    def prune(self, threshold):
        below = sorted(key for key, count in self.model.items() if count < threshold)
        assert self.counter.get_below_threshold(threshold) == below
        assert self.counter.get_above_threshold(threshold) == sorted(self.model.keys() - set(below))
        assert self.counter.prune(threshold) == below
        for key in below:
            del self.model[key]

    @rule(ids=st.lists(IDS, max_size=4), k=st.integers(0, 5))
    def ask(self, ids, k):
        wanted = {i: self.model.get(key_of(i), self.default) for i in ids}
        assert self.counter.get_counts(ids) == wanted
        assert all((i in self.counter) == (key_of(i) in self.model) for i in ids)
        top = sorted(self.model.items(), key=lambda item: (-item[1], item[0]))[:k]
        assert self.counter.get_top_k(k) == top
        stats = self.counter.get_stats()
        assert stats["tokens"] == len(self.counter) == len(self.model)
        assert stats["total"] == sum(self.model.values())
        assert stats["max"] == max(self.model.values(), default=0)


UpdateCounterAgreesWithADict.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None
)
test_update_counter_agrees_with_a_dict = UpdateCounterAgreesWithADict.TestCase


@pytest.mark.parametrize("name", ["adam", "sgd", "adagrad", "ftrl"])
def test_weights_of_many_chunks_are_updated_as_one(name):
    shape = (3, 100_000)  # 300,000 floats: two chunks
    params = OPTIMIZER_DEFAULTS[name]
    store = WeightStore(name)
    store.init_weights("w", shape, "xavier")
    wanted = store.get("w").astype(np.float64)
    assert abs(wanted.std() * np.sqrt(100_003 / 2) - 1) < 0.02
    state = reference.fresh_state(name, params, wanted)
    random = np.random.default_rng(0)
    for _ in range(3):
        gradient = random.normal(size=shape).astype(np.float32)
        store.update("w", gradient)
        wanted = reference.step(name, params, wanted, gradient, state)
    np.testing.assert_allclose(store.get("w"), wanted, rtol=1e-4, atol=1e-5)
    shown = store.get_state()["weights"]["w"]["state"]
    for part, values in state.items():
        np.testing.assert_allclose(
            shown[part], np.broadcast_to(values, shown[part].shape), 1e-4, 1e-4
        )
    other = WeightStore(name)
    other.set_state(store.get_state())
    for each in (store, other):
        each.update("w", gradient)
    np.testing.assert_array_equal(store.get("w"), other.get("w"))
    assert store.get_layer_version("w") == 5


def test_accumulated_gradients_are_applied_once_as_mean_or_sum():
    for average, wanted in ((True, -2.0), (False, -6.0)):
        store = WeightStore("sgd", {"learning_rate": 1.0, "momentum": 0.0})
        store.set_weights({"a": np.zeros(2), "b": [7.0]})
        for gradient in (1.0, 2.0, 3.0):
            store.accumulate_gradient("a", np.full(2, gradient))
        np.testing.assert_array_equal(store.get("a"), [0, 0])
        store.apply_accumulated_gradients(average=average)
        store.apply_accumulated_gradients(average=average)
        np.testing.assert_array_equal(store.get("a"), [wanted, wanted])
        np.testing.assert_array_equal(store.get("b"), [7.0])


def test_weights_come_and_go_by_name():
    store = WeightStore()
    store.set_weights({"a": np.ones((2, 2)), "b": 3.0})
    store.set_weights("c", [1, 2])
    assert len(store) == 3
    assert store.get_layer_names() == ["a", "b", "c"]
    assert store.get_shapes() == {"a": (2, 2), "b": (), "c": (2,)}
    assert store.get_stats()["parameters"] == 7
    assert {n: v.shape for n, v in store.get_all().items()} == store.get_shapes()
    version = store.get_version()
    assert store.remove("a")
    assert not store.remove("a")
    assert "a" not in store
    assert store.get_version() > version
    with pytest.raises(NotFoundError, match=r"'a'.*'b', 'c'"):
        store.get("a")
    store.set_weights({"a": [1.0]})  # another shape is another weight now
    store.clear()
    assert store.get_all() == {}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: EmbeddingStore(0), ConfigurationError, "dim.*0"),
        (lambda: EmbeddingStore(65_537), ConfigurationError, "dim.*65537"),
        (lambda: EmbeddingStore(4, "ones"), ConfigurationError, "init.*ones"),
        (lambda: EmbeddingStore(4, init_scale=-1), ConfigurationError, "init_scale.*-1"),
        (lambda: EmbeddingStore(4, optimizer_name="adm"), ConfigurationError, "adm"),
        (lambda: EmbeddingStore(4, optimizer_config={"lr": 1}), ConfigurationError, "'lr'"),
        (lambda: EmbeddingStore(4, max_embeddings=-1), InvalidArgumentError, "-1"),
        (lambda: EmbeddingStore(4).decay(0), InvalidArgumentError, "factor"),
        (lambda: EmbeddingStore(4).decay(1.5), InvalidArgumentError, "1.5"),
        (lambda: EmbeddingStore(4).prune(-1), InvalidArgumentError, "-1"),
        (lambda: EmbeddingStore(4).get(1.5), InvalidArgumentError, "1.5"),
        (lambda: EmbeddingStore(4).update(1, [1.0]), InvalidArgumentError, "shape"),
        (lambda: EmbeddingStore(1).update(1, [np.nan]), InvalidArgumentError, "finite"),
        (lambda: EmbeddingStore(4).set(1, [[1.0] * 4]), InvalidArgumentError, "shape"),
        (lambda: EmbeddingStore(4).set_state({}), InvalidArgumentError, "table"),
        (
            lambda: EmbeddingStore(4).set_state(EmbeddingStore(5).get_state()),
            InvalidArgumentError,
            "dim 5",
        ),
        (lambda: WeightStore("adm"), ConfigurationError, "adm"),
        (lambda: WeightStore().init_weights("a", (2, -1)), InvalidArgumentError, "-1"),
        (lambda: WeightStore().init_weights("a", (2,), "xaver"), InvalidArgumentError, "xaver"),
        (lambda: WeightStore().set_weights({"a": [np.inf]}), InvalidArgumentError, "'a'"),
        (lambda: WeightStore().update("a", [1.0]), NotFoundError, "'a'"),
        (
            lambda: WeightStore("sgd").set_state(WeightStore().get_state()),
            InvalidArgumentError,
            "sgd",
        ),
        (lambda: UpdateCounter(-1), InvalidArgumentError, "-1"),
        (lambda: UpdateCounter().increment(1, -1), InvalidArgumentError, "-1"),
        (lambda: ShardManager(2, 2, PSConfig()), ConfigurationError, "2"),
        (lambda: PSServer(1, 2, PSConfig()), ConfigurationError, "PSMainClient"),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_value(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_shard_manager_serves_its_own_ids_only():
    config = PSConfig(embedding_dim=2, virtual_nodes_per_server=50)
    managers = [ShardManager(server, 3, config) for server in range(3)]
    ring, ids = ConsistentHashRing(3, 50), list(range(200))
    parts = managers[0].partition_tokens(ids)
    assert parts == ring.get_servers_batch(ids)
    for server, manager in enumerate(managers):
        own = manager.filter_owned_tokens(ids)
        assert own == parts[server]
        assert all(manager.owns_token(i) == (i in own) for i in ids[:20])
        rows, found = manager.get_embeddings(own)
        assert rows.shape == (len(own), 2)
        assert found == own
        assert manager.get_embedding_count() == len(own)
        stranger = parts[(server + 1) % 3][0]
        with pytest.raises(InvalidArgumentError, match=f"server {(server + 1) % 3}"):
            manager.get_embeddings([stranger])
        with pytest.raises(InvalidArgumentError, match=f"server {(server + 1) % 3}"):
            manager.update_embeddings({stranger: [1, 1]})
        manager.update_embeddings({own[0]: [1.0, 1.0]})
        assert manager.prune_embeddings(2) == len(own) - 1
        manager.decay_embeddings(0.5)
        assert manager.prune_embeddings(1.1) == 1


def test_a_shard_manager_holds_dense_weights():
    manager = ShardManager(0, 2, PSConfig(weight_optimizer="sgd"))
    manager.init_weights({"a": (2,), "b": (3, 1)}, "ones")
    manager.update_weights({"a": [1.0, 0.0]})
    assert manager.get_weight_count() == 2
    np.testing.assert_allclose(manager.get_weights(["a"])["a"], [0.99, 1.0])
    assert manager.get_weights().keys() == {"a", "b"}
    assert manager.get_stats()["weights"]["parameters"] == 5


def test_a_server_in_this_process_serves_clients_and_shows_what_it_holds():
    config = PSConfig(embedding_dim=2, num_worker_threads=2, seed=5)
    server = PSServer(0, 1, config, host="127.0.0.1", port=0)
    assert server.get_server_info() is None
    assert not server.is_running()
    threads = threading.active_count()
    with server:
        info = server.get_server_info()
        assert server.is_running()
        assert info.host == "127.0.0.1"
        with PSWorkerClient([info], config) as worker:
            rows = worker.pull_embeddings([1, "a"])
        manager = server.shard_manager
        assert manager.get_embedding_count() == 2
        served, _ = manager.get_embeddings([1, "a"])
        np.testing.assert_array_equal(served, rows)
        np.testing.assert_array_equal(EmbeddingStore(2, seed=5).get_batch([1, "a"])[0], rows)
        manager.update_embeddings({"a": [1.0, 1.0]})
        assert manager.prune_embeddings(2) == 1
        manager.init_weights({"w": (2, 2)}, "ones")
        manager.update_weights({"w": np.ones((2, 2))})
        assert manager.get_weights()["w"].max() < 1
        assert manager.get_weight_count() == 1
        assert manager.get_stats()["embeddings"]["rows"] == 1
    assert not server.is_running()
    assert threading.active_count() == threads
    with pytest.raises(ClosedError):
        server.shard_manager.get_embeddings([1])
    server.start()  # empty again
    assert server.shard_manager.get_embedding_count() == 0
    server.shutdown()
