"""What placing servers needs before there is one: spreading, launching, fans."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import stat
import time
from typing import Any

import pytest

from pyspark_ps import ConfigurationError, PSConfig, TableConfig, _core
from pyspark_ps.client.initial_weights import compute_fans
from pyspark_ps.placement.credentials import Credentials, uses_tls
from pyspark_ps.placement.executors import (
    Executor,
    _explain,
    expected_executors,
    own_address,
    spread,
)
from pyspark_ps.placement.launch import (
    LaunchSpec,
    ServerProcess,
    level_of,
    make_socket_folder,
    remove_socket_folder,
)
from pyspark_ps.placement.memory import memory_warning, parse_bytes, row_bytes
from pyspark_ps.placement.plan import LOOPBACK, resolve_placement


def executor(name: str, host: str, slots: int = 2) -> Executor:
    return Executor(name, host, slots)


def test_servers_are_spread_over_hosts_before_executors_and_executors_before_slots() -> None:
    executors = [executor("1", "a"), executor("2", "a"), executor("3", "b")]
    assert spread(executors, 4) == [
        "executor_a_1",
        "executor_b_3",
        "executor_a_2",
        "executor_a_1",
    ]


def test_no_executor_is_preferred_for_more_servers_than_it_has_slots() -> None:
    assert spread([executor("1", "a", 1), executor("2", "a", 2)], 4) == [
        "executor_a_1",
        "executor_a_2",
        "executor_a_2",
        None,
    ]


def test_without_executors_nothing_is_preferred() -> None:
    assert spread([], 2) == [None, None]


def test_credentials_of_a_launch_are_not_in_its_repr_and_survive_pickling() -> None:
    credentials = Credentials(b"\x01\x02secret", "a certificate", "its key")
    spec = LaunchSpec(0, {"server_id": 0}, credentials)
    for shown in (repr(spec), repr(credentials), str(credentials)):
        assert not re.search("secret'|" + b"secret".hex() + "|a certificate|its key", shown)
    assert pickle.loads(pickle.dumps(spec)).credentials == credentials
    line = json.loads(spec.to_line())
    assert Credentials.from_dict(line["credentials"]) == credentials


@pytest.mark.parametrize("made", [_core.Client, _core.Server, _core.Coordinator])
@pytest.mark.parametrize("text", ['{"a":' * 65 + "0" + "}" * 65, "{", "[]"])
def test_options_that_are_no_object_or_too_deep_are_refused(made: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"options: .*JSON"):
        made(text, b"0123456789abcdef")


def test_socket_folder_is_private_and_short() -> None:
    folder = make_socket_folder()
    try:
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert len(folder) < 80
    finally:
        remove_socket_folder(folder)
    assert not os.path.exists(folder)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("INFO server 0 listens", logging.INFO),
        ("ERROR server 0: no", logging.ERROR),
        ("[2013-11-28 10:00:00.000] [warning] slow", logging.WARNING),
        ("Traceback (most recent call last):", logging.INFO),
    ],
)
def test_relayed_lines_keep_their_level(line: str, level: int) -> None:
    assert level_of(line) == level


def test_a_child_that_cannot_start_leaves_its_last_words() -> None:
    lines: list[str] = []
    started = time.monotonic()
    # No server: the options lack all that one needs.
    process = ServerProcess(LaunchSpec(0, {"server_id": 0}, Credentials(b"s")), lines.append)
    assert process.wait(30)
    assert time.monotonic() - started < 20
    assert process.poll() != 0
    assert "exit code" in process.describe_end()
    assert lines
    assert lines[-1] in process.describe_end()
    process.end()


def test_a_child_is_told_nothing_secret_by_arguments_or_environment() -> None:
    secret = b"0123456789abcdef0123456789abcdef"
    credentials = Credentials(secret, "a certificate", "-----BEGIN PRIVATE KEY-----")
    process = ServerProcess(LaunchSpec(0, {"server_id": 0}, credentials), lambda _line: None)
    try:
        for name in ("cmdline", "environ"):
            with open(f"/proc/{process.pid}/{name}", "rb") as file:
                content = file.read()
            assert secret not in content
            assert secret.hex().encode() not in content
            assert b"PRIVATE KEY" not in content
    finally:
        process.end()


def test_own_address_is_the_one_that_reaches_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_LOCAL_IP", raising=False)
    assert own_address(f"{LOOPBACK}:4040") == LOOPBACK
    monkeypatch.setenv("SPARK_LOCAL_IP", "192.0.2.7")
    assert own_address(f"{LOOPBACK}:4040") == "192.0.2.7"


@pytest.mark.parametrize(
    ("shape", "fans"),
    [
        ((), (1, 1)),
        ((7,), (7, 7)),
        ((128, 64), (128, 64)),
        ((3, 3, 16, 32), (144, 288)),
        ((0, 5), (1, 5)),
    ],
)
def test_fans_are_counted_as_keras_counts_them(
    shape: tuple[int, ...], fans: tuple[int, int]
) -> None:
    assert compute_fans(shape) == fans


def test_a_row_of_16_floats_with_adagrad_takes_144_bytes_and_its_index_entry() -> None:
    table = PSConfig().fill_table(TableConfig(16, "adagrad"))
    assert row_bytes(table) == 144 + 16


def test_servers_that_may_outgrow_their_container_name_the_setting_and_its_value() -> None:
    config = PSConfig(num_servers=4, embedding_dim=16, max_embeddings_per_shard=10_000_000)
    settings = {"spark.executor.memory": "8g"}
    # Two servers on each of two executors: 2 * 10 M * 160 bytes, and Spark's own 384 MiB.
    warning = memory_warning(config, "yarn", 2, settings.get)
    assert warning is not None
    assert "spark.executor.memoryOverhead is 819 MiB: set it to 3436m" in warning
    settings["spark.executor.memoryOverhead"] = "3436m"
    assert memory_warning(config, "yarn", 2, settings.get) is None
    assert memory_warning(config, "local-cluster[2,2,1024]", 2, {}.get) is None
    unlimited = PSConfig(max_embeddings_per_shard=0)
    assert "max_embeddings_per_shard = 0" in str(memory_warning(unlimited, "k8s://x", 2, {}.get))


@pytest.mark.parametrize(
    ("text", "size"), [("512m", 512 << 20), ("2g", 2 << 30), ("1024", 1 << 30), ("7kb", 7 << 10)]
)
def test_sizes_are_read_as_spark_writes_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


class Context:
    """What placement reads of a SparkContext."""

    def __init__(self, master: str, **settings: str) -> None:
        self.master = master
        self.pythonExec = "python3"
        self._settings = {name.replace("_", "."): value for name, value in settings.items()}

    def getConf(self) -> Context:
        return self

    def get(self, name: str, default: str | None = None) -> str | None:
        return self._settings.get(name, default)


@pytest.mark.parametrize(
    ("master", "placement", "resolved"),
    [
        (None, "auto", "local"),
        ("local", "auto", "local"),
        ("local[4]", "auto", "local"),
        ("local-cluster[2,2,1024]", "auto", "executors"),
        ("yarn", "auto", "executors"),
        ("yarn", "local", "local"),
        ("local[4]", "executors", "executors"),
    ],
)
def test_auto_places_servers_where_the_workers_run(
    master: str | None, placement: str, resolved: str
) -> None:
    context: Any = None if master is None else Context(master)
    assert resolve_placement(context, PSConfig(placement=placement)) == resolved


@pytest.mark.parametrize("setting", ["network.crypto.enabled", "ssl.enabled", "ssl.rpc.enabled"])
def test_what_spark_encrypts_the_servers_encrypt_unless_the_user_says_otherwise(
    setting: str,
) -> None:
    encrypted: Any = Context("yarn", **{"spark_" + setting.replace(".", "_"): "true"})
    plain: Any = Context("yarn", spark_io_encryption_enabled="true")
    assert uses_tls(encrypted, PSConfig())
    assert not uses_tls(encrypted, PSConfig(tls="off"))
    assert not uses_tls(plain, PSConfig())
    assert not uses_tls(None, PSConfig())
    assert uses_tls(None, PSConfig(tls="on"))
    assert uses_tls(None, PSConfig(tls_cert_file="/c", tls_key_file="/k"))
    # Nobody could make a certificate for servers that are started by hand.
    by_hand = PSConfig(placement="external", server_addresses=["a:1"], secret_file="/s")
    assert not uses_tls(plain, by_hand)
    with pytest.raises(ConfigurationError, match=rf"tls_cert_file .*{setting} is true; tls='off'"):
        uses_tls(encrypted, by_hand)


@pytest.mark.parametrize(
    ("context", "count"),
    [
        (Context("local-cluster[3, 2, 1024]"), 3),
        (Context("yarn", spark_executor_instances="7"), 7),
        (Context("spark://host:7077", spark_cores_max="8", spark_executor_cores="4"), 2),
        (Context("yarn", spark_dynamicAllocation_enabled="true"), 0),
        (Context("spark://host:7077"), None),
    ],
)
def test_expected_executors_are_read_from_the_settings(context: Any, count: int | None) -> None:
    assert expected_executors(context) == count


def test_an_interpreter_without_the_package_is_named_with_the_setting_to_change() -> None:
    context: Any = Context("yarn")
    error = RuntimeError("...\nModuleNotFoundError: No module named 'pyspark_ps'\n...")
    explained = _explain(error, context)
    assert "'python3'" in explained
    assert "No module named 'pyspark_ps'" in explained
    assert "PYSPARK_PYTHON" in explained
