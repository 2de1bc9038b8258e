"""ConsistentHashRing, and that the core agrees with the configuration about optimizers."""

from __future__ import annotations

import numpy as np
import pytest

from pyspark_ps import ConfigurationError, InvalidArgumentError, PSConfig, _core
from pyspark_ps.utils import ConsistentHashRing
from pyspark_ps.utils.config import OPTIMIZER_DEFAULTS
from pyspark_ps.utils.sharding import PARTITION_COUNT, _mix64

IDS = np.arange(20_000)


def servers_of(ring: ConsistentHashRing) -> np.ndarray:
    found = np.empty(len(IDS), dtype=int)
    for server, ids in ring.get_servers_batch(IDS).items():
        found[ids] = server
    return found


def test_mix64_has_the_golden_values_of_splitmix64() -> None:
    # First outputs of SplitMix64 with seed 0 (state 0 and one increment).
    states = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert [hex(value) for value in _mix64(states)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
    ]


def test_every_server_is_present_and_every_key_in_its_place() -> None:
    ring = ConsistentHashRing(5)
    placed = ring.get_servers_batch(["a", "b", 3, None, b"c"])
    assert sorted(placed) == [0, 1, 2, 3, 4]
    assert sum(len(keys) for keys in placed.values()) == 5
    for server, keys in placed.items():
        assert all(ring.get_server(key) == server for key in keys)
    assert ring.get_servers_batch([]) == {server: [] for server in range(5)}


def test_the_same_ring_places_alike_and_spreads_evenly() -> None:
    placed = servers_of(ConsistentHashRing(4))
    np.testing.assert_array_equal(placed, servers_of(ConsistentHashRing(4)))
    share = np.bincount(placed, minlength=4) / len(IDS)
    assert share.max() <= 1.05 / 4 + 0.02  # the cap on partitions, and noise of the sample
    assert share.min() > 0.15


def test_adding_a_server_moves_about_its_share() -> None:
    moved = np.mean(servers_of(ConsistentHashRing(4)) != servers_of(ConsistentHashRing(5)))
    assert 0.5 / 5 < moved < 2.0 / 5


def test_strings_and_integers_are_different_ids() -> None:
    ring = ConsistentHashRing(100)
    texts = [ring.get_server(str(number)) for number in range(200)]
    assert texts != [ring.get_server(number) for number in range(200)]
    assert ring.get_server(b"7") == ring.get_server("7")


def test_dense_tensors_are_placed_by_name() -> None:
    ring = ConsistentHashRing(3)
    found = {ring.get_server_for_weight(f"layer{number}/kernel") for number in range(50)}
    assert found == {0, 1, 2}


@pytest.mark.parametrize("arguments", [(0,), (-1,), (2.0,), (True,), (2, 0), ("2",)])
def test_wrong_sizes_are_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="allowed is an integer >= 1"):
        ConsistentHashRing(*arguments)  # type: ignore[arg-type]


def test_partition_count_is_a_power_of_two() -> None:
    assert PARTITION_COUNT & (PARTITION_COUNT - 1) == 0


@pytest.mark.parametrize("name", OPTIMIZER_DEFAULTS)
def test_the_core_has_the_same_defaults(name: str) -> None:
    expected = {key: float(value) for key, value in OPTIMIZER_DEFAULTS[name].items()}
    assert _core.optimizer_config(name, {}) == expected


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("sgd", {"momentum": 1.0}),
        ("sgd", {"momentum": 1.1}),
        ("sgd", {"nesterov": True, "momentum": 0.0}),
        ("sgd", {"nesterov": True, "dampening": 0.5}),
        ("sgd", {"nesterov": 0.5}),
        ("adam", {"beta1": 1.0}),
        ("adam", {"beta2": 0.99999999}),  # 1 as a float32
        ("adam", {"beta2": 0.9999}),
        ("adam", {"epsilon": 0.0}),
        ("adam", {"learning_rate": 0.0}),
        ("adagrad", {"epsilon": 1e-60}),  # 0 as a float32
        ("adagrad", {"learning_rate": 1e39}),
        ("adagrad", {"initial_accumulator": 0.0}),
        ("adagrad", {"momentum": 0.5}),
        ("ftrl", {"learning_rate": 0.5}),
        ("ftrl", {"learning_rate_power": 0.0}),
        ("ftrl", {"learning_rate_power": 0.5}),
        ("ftrl", {"alpha": 0.5, "learning_rate": 0.5}),
    ],
)
def test_configuration_and_core_allow_the_same(name: str, params: dict[str, float]) -> None:
    def is_allowed_by(check: object) -> bool:
        try:
            check()  # type: ignore[operator]
        except ConfigurationError:
            return False
        return True

    config = PSConfig(optimizer_configs={name: params})
    core_params = {key: float(value) for key, value in params.items()}
    by_core = is_allowed_by(lambda: _core.optimizer_config(name, core_params))
    assert is_allowed_by(config.validate) == by_core
