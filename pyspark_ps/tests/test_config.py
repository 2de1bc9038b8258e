"""PSConfig and TableConfig: defaults, bounds, merging, dict and JSON forms."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pyspark_ps import ConfigurationError, PSConfig, TableConfig
from pyspark_ps.utils.config import OPTIMIZER_DEFAULTS

# The contract's list, written out once more: a changed default must be meant.
DEFAULTS = {
    "num_servers": 4,
    "server_port_base": 50000,
    "server_host": None,
    "embedding_dim": 64,
    "embedding_init": "normal",
    "embedding_init_scale": 0.01,
    "embedding_optimizer": "adagrad",
    "weight_optimizer": "adam",
    "batch_size": 10000,
    "timeout_seconds": 60.0,
    "compression": True,
    "compression_algorithm": "lz4",
    "max_message_size": 104857600,
    "auto_decay": False,
    "decay_interval_steps": 1000,
    "decay_factor": 0.99,
    "prune_threshold": 5,
    "s3_bucket": "",
    "s3_region": "us-east-1",
    "s3_endpoint_url": None,
    "s3_checkpoint_prefix": "checkpoints/",
    "s3_compression": "zstd",
    "s3_multipart_threshold": 8388608,
    "s3_max_concurrency": 10,
    "checkpoint_on_shutdown": True,
    "virtual_nodes_per_server": 150,
    "max_embeddings_per_shard": 10_000_000,
    "num_worker_threads": 4,
    "optimizer_configs": {
        "sgd": {
            "learning_rate": 0.01,
            "momentum": 0.9,
            "weight_decay": 0,
            "nesterov": False,
            "dampening": 0,
        },
        "adam": {
            "learning_rate": 0.001,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 0,
            "amsgrad": False,
        },
        "adagrad": {
            "learning_rate": 0.01,
            "epsilon": 1e-10,
            "initial_accumulator": 0.1,
            "weight_decay": 0,
        },
        "ftrl": {"alpha": 0.05, "beta": 1, "l1": 0, "l2": 0, "learning_rate_power": -0.5},
    },
    "tables": {},
    "seed": 0,
    "weight_replicas": 2,
    "driver_silence_seconds": 60.0,
    "metrics_port": None,
    "tls": "auto",
    "tls_cert_file": None,
    "tls_key_file": None,
    "server_addresses": [],
    "secret_file": None,
    "checkpoint_path": "",
    "transport": "auto",
    "placement": "auto",
}

# field, a value that is allowed although it is at the edge
AT_THE_EDGE = [
    ("num_servers", 1),
    ("server_port_base", 0),
    ("server_port_base", 65535),
    ("server_host", "0.0.0.0"),
    ("embedding_dim", 1),
    ("embedding_init", "zeros"),
    ("embedding_init", "random"),
    ("embedding_init_scale", 0),
    ("embedding_optimizer", "ftrl"),
    ("batch_size", 1),
    ("timeout_seconds", 0.001),
    ("compression_algorithm", "none"),
    ("max_message_size", 65536),
    ("virtual_nodes_per_server", 1),
    ("max_embeddings_per_shard", 0),
    ("num_worker_threads", 1),
    ("seed", 2**64 - 1),
    ("driver_silence_seconds", 0.5),
    ("transport", "unix"),
    ("placement", "executors"),
    ("tls", "off"),
    ("tls", "on"),
    ("metrics_port", 0),
    ("metrics_port", 65535),
    ("auto_decay", True),
    ("decay_interval_steps", 1),
    ("decay_factor", 1),
    ("prune_threshold", 0),
    ("checkpoint_on_shutdown", False),
    ("s3_region", "eu-west-1"),
    ("s3_endpoint_url", "http://localhost:5000"),
    ("optimizer_configs", {"adam": {"learning_rate": 0}}),
    ("optimizer_configs", {"ftrl": {"learning_rate": 0}}),
    ("optimizer_configs", {"sgd": {"nesterov": True, "momentum": 0.5}}),
]

REFUSED = [
    ("num_servers", 0),
    ("num_servers", 2.0),
    ("num_servers", True),
    ("num_servers", "4"),
    ("server_port_base", -1),
    ("server_port_base", 65536),
    ("server_host", ""),
    ("embedding_dim", 0),
    ("embedding_init", "xavier"),
    ("embedding_init_scale", -0.1),
    ("embedding_init_scale", float("nan")),
    ("embedding_init_scale", 1e39),
    ("batch_size", 2**63),
    ("max_message_size", 2**63),
    ("max_embeddings_per_shard", 2**63),
    ("embedding_dim", 65_537),
    ("embedding_init_scale", float("inf")),
    ("embedding_optimizer", "adamw"),
    ("weight_optimizer", ""),
    ("batch_size", 0),
    ("timeout_seconds", 0),
    ("timeout_seconds", float("inf")),
    ("compression", "lz4"),
    ("compression_algorithm", "gzip"),
    ("max_message_size", 65535),
    ("decay_interval_steps", 0),
    ("decay_factor", 0),
    ("decay_factor", 1.01),
    ("prune_threshold", -1),
    ("s3_compression", "zip"),
    ("s3_multipart_threshold", 5 * 1024 * 1024 - 1),
    ("s3_max_concurrency", 0),
    ("virtual_nodes_per_server", 0),
    ("max_embeddings_per_shard", -1),
    ("num_worker_threads", 0),
    ("seed", -1),
    ("seed", 2**64),
    ("weight_replicas", 0),
    ("weight_replicas", 5),
    ("driver_silence_seconds", 0),
    ("transport", "udp"),
    ("placement", "cloud"),
    ("tls", True),
    ("tls_cert_file", ""),
    ("tls_cert_file", "/without/a/key"),
    ("tls_key_file", "/without/a/certificate"),
    ("optimizer_configs", {"adamw": {}}),
    ("optimizer_configs", {"adam": {"lr": 0.1}}),
    ("optimizer_configs", {"adam": {"learning_rate": -1e-9}}),
    ("optimizer_configs", {"adam": {"learning_rate": float("nan")}}),
    ("optimizer_configs", {"adam": {"learning_rate": 10**400}}),
    ("optimizer_configs", {"adam": {"learning_rate": "0.1"}}),
    ("optimizer_configs", {"adam": {"beta1": 1.0}}),
    ("optimizer_configs", {"adam": {"epsilon": 0}}),
    ("optimizer_configs", {"adam": {"amsgrad": 0.5}}),
    ("optimizer_configs", {"adagrad": {"learning_rate": 1e39}}),
    ("optimizer_configs", {"sgd": {"nesterov": True, "momentum": 0}}),
    ("optimizer_configs", {"sgd": {"nesterov": True, "dampening": 0.1}}),
    ("optimizer_configs", {"ftrl": {"learning_rate_power": 0.1}}),
    ("optimizer_configs", {"ftrl": {"alpha": 0.1, "learning_rate": 0.1}}),
    ("optimizer_configs", {"adam": 0.1}),
    ("optimizer_configs", None),
    ("tables", {"": TableConfig(8)}),
    ("tables", {"x" * 129: TableConfig(8)}),
    ("tables", {"line\nbreak": TableConfig(8)}),
    ("tables", {"default": TableConfig(8)}),
    ("tables", {"t": {"dim": 8}}),
]

EXTERNAL = {"placement": "external", "server_addresses": ["a:1", "b:2"], "secret_file": "/s"}


def test_defaults_are_those_of_the_contract() -> None:
    assert PSConfig().to_dict() == DEFAULTS
    PSConfig().validate()


@pytest.mark.parametrize(("field", "value"), AT_THE_EDGE)
def test_values_at_the_edge_are_allowed(field: str, value: object) -> None:
    PSConfig(**{field: value}).validate()


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_refusal_names_field_and_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"PSConfig\.{field}.* = .*allowed is") as caught:
        PSConfig(**{field: value}).validate()
    assert isinstance(caught.value, ConfigurationError)


def test_external_servers_need_addresses_and_a_secret_and_nobody_else_takes_them() -> None:
    PSConfig(**EXTERNAL).validate()
    PSConfig(**EXTERNAL, num_servers=2).validate()
    wrong = [
        ("num_servers", {**EXTERNAL, "num_servers": 3}),
        ("server_addresses", {**EXTERNAL, "server_addresses": []}),
        ("secret_file", {**EXTERNAL, "secret_file": None}),
        ("server_addresses", {**EXTERNAL, "placement": "local"}),
        ("secret_file", {"secret_file": "/s"}),
    ]
    for field, values in wrong:
        with pytest.raises(ConfigurationError, match=rf"PSConfig\.{field}.* = .*allowed is"):
            PSConfig(**values).validate()


def test_the_refused_value_is_in_the_message() -> None:
    with pytest.raises(ConfigurationError, match="num_servers = 0: allowed is an integer, 1 to"):
        PSConfig(num_servers=0).validate()


def test_dict_and_json_forms_give_the_same_configuration_back() -> None:
    config = PSConfig(
        num_servers=3,
        seed=2**64 - 1,
        tables={"users": TableConfig(16, "sgd", {"nesterov": True}, "random", 0.5)},
        optimizer_configs={"adam": {"beta1": 0.8}},
    )
    assert PSConfig.from_dict(config.to_dict()) == config
    assert PSConfig.from_json(config.to_json()) == config
    assert isinstance(PSConfig.from_json(config.to_json()).tables["users"], TableConfig)


def test_unknown_keys_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="'num_server'; did you mean 'num_servers'"):
        PSConfig.from_dict({"num_server": 3})
    with pytest.raises(ConfigurationError, match=r"TableConfig\.dim is missing"):
        TableConfig.from_dict({})


def test_optimizer_configs_are_merged_over_the_defaults() -> None:
    config = PSConfig(optimizer_configs={"adam": {"learning_rate": 0.1}})
    assert config.optimizer_configs["adam"]["beta2"] == 0.999
    assert config.get_optimizer_config("adam") == {
        **OPTIMIZER_DEFAULTS["adam"],
        "learning_rate": 0.1,
    }
    assert config.get_optimizer_config("sgd") == OPTIMIZER_DEFAULTS["sgd"]


def _refuses(check: Callable[[dict[str, Any]], object], params: dict[str, Any]) -> bool:
    try:
        check(params)
    except ConfigurationError:
        return True
    return False


@pytest.mark.parametrize("name", sorted(OPTIMIZER_DEFAULTS))
def test_configuration_and_servers_refuse_the_same_parameters(name: str) -> None:
    from pyspark_ps import _core

    checks = [
        lambda p: PSConfig(optimizer_configs={name: p}).validate(),
        lambda p: TableConfig(8, name, p).validate(),
        lambda p: _core.optimizer_config(name, {k: float(v) for k, v in p.items()}),
    ]
    for parameter, default in OPTIMIZER_DEFAULTS[name].items():
        for value in (1e-50, -1e-50, 1 + 1e-12, 1 - 1e-12, 0.999, -0.001, default, 0, 1, 2, -1):
            params = {**OPTIMIZER_DEFAULTS[name], parameter: value}
            assert len({_refuses(check, params) for check in checks}) == 1, params
        for value in (1e39, float("inf"), float("nan")):
            params = {**OPTIMIZER_DEFAULTS[name], parameter: value}
            assert all(_refuses(check, params) for check in checks), params


def test_a_changed_configuration_does_not_change_the_defaults() -> None:
    PSConfig().optimizer_configs["adam"]["learning_rate"] = 7.0
    assert PSConfig().get_optimizer_config("adam")["learning_rate"] == 0.001


def test_ftrl_learning_rate_is_another_name_for_alpha() -> None:
    config = PSConfig(optimizer_configs={"ftrl": {"learning_rate": 0.3}})
    assert config.get_optimizer_config("ftrl")["alpha"] == 0.3
    assert "learning_rate" not in config.get_optimizer_config("ftrl")
    table = config.fill_table(TableConfig(4, "ftrl", {"learning_rate": 0.7}))
    assert table.optimizer_params["alpha"] == 0.7


def test_an_unknown_optimizer_is_a_value_error_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="no optimizer 'adagard'; did you mean 'adagrad'"):
        PSConfig().get_optimizer_config("adagard")


def test_a_table_takes_what_it_leaves_open_from_the_configuration() -> None:
    config = PSConfig(
        embedding_dim=8,
        embedding_optimizer="sgd",
        embedding_init="random",
        embedding_init_scale=0.5,
        optimizer_configs={"sgd": {"learning_rate": 0.5}, "adam": {"beta1": 0.5}},
        tables={"a": TableConfig(3), "b": TableConfig(4, "adam", {"beta2": 0.25}, "zeros", 0)},
    )
    tables = config.all_tables()
    assert list(tables) == ["default", "a", "b"]
    assert tables["default"] == dataclasses.replace(tables["a"], dim=8)
    assert tables["a"].optimizer == "sgd"
    assert tables["a"].optimizer_params["learning_rate"] == 0.5
    assert (tables["a"].init, tables["a"].init_scale) == ("random", 0.5)
    assert tables["b"].optimizer_params["beta1"] == 0.5
    assert tables["b"].optimizer_params["beta2"] == 0.25
    assert (tables["b"].init, tables["b"].init_scale) == ("zeros", 0)


@pytest.mark.parametrize(
    "table",
    [
        TableConfig(0),
        TableConfig(4, "adamw"),
        TableConfig(4, "adam", {"alpha": 1}),
        TableConfig(4, None, {"beta1": 0.5}),  # the configuration's optimizer is adagrad
        TableConfig(4, init="ones"),
        TableConfig(4, init_scale=-1),
    ],
)
def test_a_wrong_table_is_refused(table: TableConfig) -> None:
    with pytest.raises(ConfigurationError, match=r"TableConfig\."):
        PSConfig(tables={"t": table}).validate()


def test_importing_the_package_loads_neither_numpy_nor_spark_nor_tensorflow() -> None:
    code = (
        "import sys, pyspark_ps, pyspark_ps.utils, pyspark_ps.server.host; "
        "print([m for m in ('numpy', 'pyspark', 'tensorflow', 'pyspark_ps._core') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
