"""Server processes beside the driver: their life, and what the driver asks of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pyspark_ps import (
    ClosedError,
    ConfigurationError,
    InvalidArgumentError,
    PSConfig,
    PSConnectionError,
    PSError,
    PSMainClient,
    PSWorkerClient,
    ServerInfo,
    TableConfig,
)
from pyspark_ps.placement import launch
from pyspark_ps.utils import ConsistentHashRing
from tests.processes import is_running, pids_of, wait_until

SERVER_STATS = {
    "server_id",
    "address",
    "uptime_seconds",
    "requests_total",
    "errors_total",
    "refusals_total",
    "embeddings",
    "weights",
    "memory_bytes",
    "bytes_received_total",
    "bytes_sent_total",
    "latency_ms",
    "tables",
}
TABLE_STATS = {"rows", "dim", "memory_bytes", "created_total", "pruned_total"}


def small(**fields: object) -> PSConfig:
    values = {
        "num_servers": 2,
        "server_port_base": 0,
        "embedding_dim": 4,
        "num_worker_threads": 2,
        "timeout_seconds": 20.0,
    }
    return PSConfig(**{**values, **fields})


@pytest.fixture(scope="module")
def shared() -> Iterator[PSMainClient]:
    """Two servers for tests that only add to them."""
    with PSMainClient(None, small()) as main:
        yield main


# --- the life of servers


def test_servers_are_processes_that_end_at_shutdown_with_their_sockets() -> None:
    main = PSMainClient(None, small())
    assert main.get_server_info() == []
    infos = main.start_servers()
    pids = pids_of(main)
    folders = {os.path.dirname(info.metadata["unix_socket"]) for info in infos}
    assert [info.server_id for info in infos] == [0, 1]
    assert all(info.status == "running" for info in infos)
    assert all(is_running(pid) and pid != os.getpid() for pid in pids)
    assert all(os.path.exists(info.metadata["unix_socket"]) for info in infos)
    main.shutdown_servers()
    assert not any(is_running(pid) for pid in pids)
    assert not any(os.path.exists(folder) for folder in folders)
    assert [info.status for info in main.get_server_info()] == ["stopped", "stopped"]
    for info in infos:
        with socket.socket() as port_test:
            port_test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port_test.bind((info.host, info.port))


def test_starting_twice_starts_once_and_starting_after_a_shutdown_starts_empty() -> None:
    main = PSMainClient(None, small(num_servers=1))
    first = main.start_servers()
    assert main.start_servers() == first
    main.worker_client().pull_embeddings([1, 2, 3])
    main.set_weights({"w": np.ones(3)})
    main.shutdown_servers()
    main.shutdown_servers()
    second = main.start_servers()
    try:
        assert second[0].metadata["incarnation"] != first[0].metadata["incarnation"]
        assert main.get_cluster_stats()["total_embeddings"] == 0
        assert main.get_cluster_stats()["total_weights"] == 0
    finally:
        main.shutdown_servers()


def test_calls_before_the_start_and_after_the_shutdown_say_so() -> None:
    main = PSMainClient(None, small())
    calls: list[Callable[[], object]] = [
        lambda: main.worker_client(),
        lambda: main.init_weights({"w": (1,)}),
        lambda: main.set_weights({"w": np.ones(1)}),
        lambda: main.create_table("t", TableConfig(3)),
        lambda: main.get_tables(),
        lambda: main.decay_embeddings(),
        lambda: main.get_cluster_stats(),
        lambda: main.create_barrier("b", 1),
        lambda: main.save_to_s3("/x"),
        lambda: main.step(),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="have not been started"):
            call()
    main.start_servers()
    main.shutdown_servers()
    for call in calls:
        with pytest.raises(ClosedError, match="were shut down"):
            call()


def test_the_list_of_servers_is_a_copy(shared: PSMainClient) -> None:
    infos = shared.get_server_info()
    infos[0].host = "changed"
    infos[0].metadata.clear()
    infos.pop()
    again = shared.get_server_info()
    assert len(again) == 2
    assert again[0].host != "changed"
    assert again[0].metadata


def test_each_server_announces_a_range_of_partitions_and_its_real_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        base = taken.getsockname()[1]
        with PSMainClient(None, small(server_port_base=base)) as main:
            infos = main.get_server_info()
    ports = [info.port for info in infos]
    assert base not in ports
    assert len(set(ports)) == 2
    assert all(base < port <= base + 100 for port in ports)
    for info in infos:
        low, high = info.shard_range
        assert 0 <= low < high <= 4095


def test_two_clusters_beside_each_other_keep_apart() -> None:
    base = 51_000 + os.getpid() % 5_000
    config = small(num_servers=1, server_port_base=base)
    with PSMainClient(None, config) as one, PSMainClient(None, config) as other:
        ports = {main.get_server_info()[0].port for main in (one, other)}
        assert len(ports) == 2
        one.set_weights({"w": np.ones(2)})
        assert one.get_cluster_stats()["total_weights"] == 1
        assert other.get_cluster_stats()["total_weights"] == 0
        # The secret of one opens nothing of the other.
        stranger = other.get_server_info()[0]
        stranger.metadata["secret"] = one.get_server_info()[0].metadata["secret"]
        with pytest.raises(PSConnectionError):
            PSWorkerClient([stranger], small(timeout_seconds=3.0)).pull_embeddings([1])


DRIVER = """
import json, sys, time
from pyspark_ps import PSConfig, PSMainClient
main = PSMainClient(None, PSConfig(**json.loads(sys.argv[1])))
infos = main.start_servers()
pids = [record["pid"] for record in main._running.cluster.servers()]
sockets = [info.metadata["unix_socket"] for info in infos]
print(json.dumps({"pids": pids, "sockets": sockets}), flush=True)
{then}
"""


def start_driver(then: str) -> tuple[subprocess.Popen[str], list[int], list[str]]:
    arguments = json.dumps({"num_servers": 2, "server_port_base": 0, "num_worker_threads": 1})
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.replace("{then}", then), arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    with driver.stdout:
        said = json.loads(driver.stdout.readline())
    return driver, said["pids"], said["sockets"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_servers_end_with_a_driver_that_is_killed(number: signal.Signals) -> None:
    driver, pids, sockets = start_driver("time.sleep(600)")
    try:
        assert all(is_running(pid) for pid in pids)
        assert all(os.path.exists(path) for path in sockets)
    finally:
        driver.send_signal(number)
        driver.wait()
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))
    assert wait_until(lambda: not any(os.path.exists(os.path.dirname(path)) for path in sockets), 2)


@pytest.mark.parametrize("then", ["", "raise ValueError('a mistake')", "import os; os._exit(3)"])
def test_servers_end_with_a_driver_that_ends_without_a_shutdown(then: str) -> None:
    driver, pids, sockets = start_driver(then)
    driver.wait()
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))
    assert wait_until(lambda: not any(os.path.exists(os.path.dirname(path)) for path in sockets), 2)


def test_a_forked_child_that_exits_leaves_the_servers_alone(shared: PSMainClient) -> None:
    pids = pids_of(shared)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            shared.shutdown_servers(0)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0
    time.sleep(0.3)
    assert all(is_running(pid) for pid in pids)
    shared.get_cluster_stats()


def test_a_server_that_dies_is_a_typed_error_within_the_deadline_and_shown_as_lost() -> None:
    main = PSMainClient(None, small(timeout_seconds=5.0))
    main.start_servers()
    try:
        worker = main.worker_client()
        keys = np.arange(200, dtype=np.uint64)
        worker.pull_embeddings(keys)
        os.kill(pids_of(main)[1], signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(PSConnectionError):
            worker.pull_embeddings(keys)
        assert time.monotonic() - started < 8.0
        assert wait_until(lambda: main.get_server_info()[1].status == "lost")
        assert main.get_server_info()[0].status == "running"
        with pytest.raises(PSConnectionError):
            main.decay_embeddings()
    finally:
        main.shutdown_servers(grace_period_seconds=1)


def test_a_server_that_cannot_start_fails_the_start_within_seconds_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = PSMainClient(None, small(server_host="192.0.2.1"))  # an address of no host
    started = time.monotonic()
    with pytest.raises(PSError, match=r"192\.0\.2\.1"):
        main.start_servers()
    assert time.monotonic() - started < 20
    assert main.get_server_info() == []

    environment = launch._child_environment
    broken = {**environment(), "PYTHONHOME": "/nowhere"}
    monkeypatch.setattr(launch, "_child_environment", lambda: broken)
    main = PSMainClient(None, small())
    with pytest.raises(PSError, match=r"server \d ended before it served: .*exit code"):
        main.start_servers()
    assert time.monotonic() - started < 30
    monkeypatch.setattr(launch, "_child_environment", environment)
    main.start_servers()  # a failed start does not stand in the way of the next
    main.shutdown_servers()


def test_the_secret_is_not_in_command_lines_environments_or_reprs(shared: PSMainClient) -> None:
    infos = shared.get_server_info()
    secret = infos[0].metadata["secret"].reveal()
    assert len(bytes.fromhex(secret)) == 32
    assert secret not in repr(infos)
    assert secret not in str(infos)
    for pid in pids_of(shared):
        for name in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{name}") as file:
                assert secret not in file.read()


def test_servers_start_in_a_folder_whose_files_shadow_modules(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json.py", "logging.py"):
        with open(os.path.join(tmp_path, name), "w") as file:
            file.write("raise RuntimeError('the wrong module')")
    monkeypatch.chdir(tmp_path)
    with PSMainClient(None, small(num_servers=1)) as main:
        assert main.get_cluster_stats()["total_embeddings"] == 0


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_both_transports_carry_pulls_and_pushes(transport: str) -> None:
    config = small(transport=transport)
    with PSMainClient(None, config) as main:
        infos = main.get_server_info()
        assert all(bool(info.metadata["unix_socket"]) == (transport == "unix") for info in infos)
        with PSWorkerClient(infos, config) as worker:
            before = worker.pull_embeddings([1, 2, 3])
            worker.push_embedding_gradients(([1, 2, 3], np.ones((3, 4))))
            assert (worker.pull_embeddings([1, 2, 3]) < before).all()


# --- what the driver asks of them


def test_initial_weights_and_rows_do_not_depend_on_the_number_of_servers() -> None:
    shapes = {"kernel": (300, 1000), "bias": (7,), "scalar": ()}  # kernel: two chunks
    ids = [*range(300), "a", "b"]
    seen = []
    for servers in (1, 3):
        with PSMainClient(None, small(num_servers=servers, seed=5)) as main:
            main.init_weights(shapes, "normal", 0.5)
            main.init_weights({"uniform": (50, 40)}, "random", 2.0)
            worker = main.worker_client()
            seen.append((worker.pull_model(), worker.pull_embeddings(ids)))
    (weights, rows), (weights_of_three, rows_of_three) = seen
    assert list(weights) == list(weights_of_three)
    for name, values in weights.items():
        np.testing.assert_array_equal(values, weights_of_three[name])
    np.testing.assert_array_equal(rows, rows_of_three)
    assert abs(weights["kernel"].std() - 0.5) < 0.01
    assert abs(weights["kernel"].mean()) < 0.01
    assert np.abs(weights["uniform"]).max() <= 2.0
    assert abs(weights["uniform"].std() - 2 / np.sqrt(3)) < 0.05
    assert weights["scalar"].shape == ()


def test_rows_lie_where_the_ring_says() -> None:
    config = small(num_servers=3)
    with PSMainClient(None, config) as main:
        main.worker_client().pull_embeddings(range(1000))
        rows = [server["embeddings"] for server in main.get_cluster_stats()["servers"]]
    placed = ConsistentHashRing(3, config.virtual_nodes_per_server).get_servers_batch(range(1000))
    assert rows == [len(placed[server]) for server in range(3)]


@pytest.mark.parametrize(
    ("strategy", "deviation"),
    [
        ("zeros", 0.0),
        ("ones", 0.0),
        ("xavier", np.sqrt(2 / (400 + 100))),
        ("he", np.sqrt(2 / 400)),
        ("normal", 0.25),
    ],
)
def test_strategies_give_the_deviation_that_they_promise(
    shared: PSMainClient, strategy: str, deviation: float
) -> None:
    name = f"strategy/{strategy}"
    shared.init_weights({name: (400, 100)}, strategy, 0.25)
    values = shared.worker_client().pull_model([name])[name]
    assert values.dtype == np.float32
    assert abs(values.std() - deviation) <= 0.02 * deviation
    assert values.mean() == pytest.approx(1.0 if strategy == "ones" else 0.0, abs=0.01)


def test_weights_are_added_and_replaced_but_never_reshaped(shared: PSMainClient) -> None:
    worker = shared.worker_client()
    shared.set_weights({"set/a": np.arange(6).reshape(2, 3), "set/b": np.float64(3.5)})
    shared.set_weights({"set/a": np.zeros((2, 3))})
    np.testing.assert_array_equal(worker.pull_model(["set/a"])["set/a"], np.zeros((2, 3)))
    assert worker.pull_model(["set/b"])["set/b"] == 3.5
    with pytest.raises(InvalidArgumentError, match="set/a"):
        shared.set_weights({"set/new": np.ones(2), "set/a": np.zeros((3, 2))})
    with pytest.raises(InvalidArgumentError, match="set/a"):
        shared.init_weights({"set/new": (2,), "set/a": (3, 2)})
    with pytest.raises(InvalidArgumentError, match="set/b"):
        shared.set_weights({"set/a": np.ones((2, 3)), "set/b": np.float32("nan")})
    assert "set/new" not in worker.pull_model()
    np.testing.assert_array_equal(worker.pull_model(["set/a"])["set/a"], np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("shapes", "strategy", "scale"),
    [
        ({"x": (2, -1)}, "normal", 0.1),
        ({"x": (2.0,)}, "normal", 0.1),
        ({"x": "ab"}, "normal", 0.1),
        ({"x": 3}, "normal", 0.1),
        ({"": (3,)}, "normal", 0.1),
        ({"x": (3,)}, "orthogonal", 0.1),
        ({"x": (3,)}, "normal", -0.1),
        ({"x": (3,)}, "normal", float("nan")),
    ],
)
def test_wrong_shapes_and_strategies_are_refused(
    shared: PSMainClient, shapes: dict[str, object], strategy: str, scale: float
) -> None:
    before = shared.get_cluster_stats()["total_weights"]
    with pytest.raises(InvalidArgumentError, match="init_weights"):
        shared.init_weights(shapes, strategy, scale)  # type: ignore[arg-type]
    assert shared.get_cluster_stats()["total_weights"] == before


def test_tables_are_made_while_workers_run(shared: PSMainClient) -> None:
    with PSWorkerClient(shared.get_server_info(), small()) as worker:
        worker.pull_embeddings([1])
        shared.create_table("dynamic", TableConfig(3, "sgd"))
        shared.create_table("dynamic", TableConfig(3, "sgd"))  # the same again: nothing
        assert worker.pull_embeddings([1, 2], table="dynamic").shape == (2, 3)
        with pytest.raises(InvalidArgumentError, match="dynamic"):
            shared.create_table("dynamic", TableConfig(4, "sgd"))
        tables = shared.get_tables()
        assert tables["dynamic"] == small().fill_table(TableConfig(3, "sgd"))
        assert tables["default"] == small().default_table()
        assert worker.pull_embeddings([3], table="dynamic").shape == (1, 3)


def test_a_wrong_table_is_refused(shared: PSMainClient) -> None:
    for name, table in (("", TableConfig(3)), ("x", TableConfig(0)), ("a\tb", TableConfig(3))):
        with pytest.raises((ConfigurationError, InvalidArgumentError)):
            shared.create_table(name, table)
    assert "x" not in shared.get_tables()


def test_decay_multiplies_rows_and_counts_and_prunes_what_was_seldom_seen() -> None:
    config = small(tables={"other": TableConfig(2)})
    with PSMainClient(None, config) as main:
        worker = main.worker_client()
        often, seldom = np.arange(40), np.arange(40, 100)
        worker.pull_embeddings(np.arange(100))  # counts: 1 each
        for _ in range(3):
            worker.push_embedding_gradients((often, np.zeros((40, 4))))  # 4 each
        worker.pull_embeddings(np.arange(10), table="other")
        rows = worker.pull_embeddings(often)
        assert main.decay_embeddings("multiply", factor=0.5) == {
            "method": "multiply",
            "results": [
                {"server_id": 0, "method": "multiply", "factor": 0.5},
                {"server_id": 1, "method": "multiply", "factor": 0.5},
            ],
        }
        np.testing.assert_array_equal(worker.pull_embeddings(often), rows * np.float32(0.5))
        pruned = main.decay_embeddings("prune", min_count=1)  # counts: 2 and 0.5
        assert pruned["method"] == "prune"
        for server, result in enumerate(pruned["results"]):
            assert set(result) == {"server_id", "method", "min_count", "pruned"}
            assert (result["server_id"], result["method"]) == (server, "prune")
            assert result["min_count"] == 1
        assert sum(r["pruned"] for r in pruned["results"]) == len(seldom) + 10
        assert main.get_cluster_stats()["total_embeddings"] == 40


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "divide"},
        {"factor": 0},
        {"factor": 1.5},
        {"factor": float("nan")},
        {"factor": "0.5"},
        {"method": "prune", "min_count": -1},
        {"method": "prune", "min_count": None},
    ],
)
def test_wrong_decay_is_refused(shared: PSMainClient, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError, match="decay_embeddings"):
        shared.decay_embeddings(**arguments)  # type: ignore[arg-type]


def test_statistics_have_the_keys_of_the_contract() -> None:
    config = small(tables={"other": TableConfig(8)})
    with PSMainClient(None, config) as main:
        main.init_weights({"w": (10, 3), "b": (3,)})
        main.worker_client().pull_embeddings(range(50))
        main.worker_client().pull_embeddings(range(20), table="other")
        stats = main.get_cluster_stats()
        infos = main.get_server_info()
    assert set(stats) == {
        "servers",
        "total_embeddings",
        "total_weights",
        "total_parameters",
        "total_memory_bytes",
    }
    assert stats["total_embeddings"] == 70
    assert stats["total_weights"] == 2
    assert stats["total_parameters"] == 33
    assert stats["total_memory_bytes"] == sum(s["memory_bytes"] for s in stats["servers"]) > 0
    for server, info in zip(stats["servers"], infos, strict=True):
        assert set(server) >= SERVER_STATS
        assert server["server_id"] == info.server_id
        assert server["address"] == info.address
        assert set(server["tables"]) == {"default", "other"}
        for table in server["tables"].values():
            assert set(table) >= TABLE_STATS
            assert set(table["memory_bytes"]) == {"values", "state", "index"}
        assert set(server["latency_ms"]["pull"]) == {"count", "p50", "p99", "p999", "max"}
    assert sum(s["tables"]["other"]["rows"] for s in stats["servers"]) == 20
    assert sum(s["tables"]["other"]["created_total"] for s in stats["servers"]) == 20


def test_a_wrong_configuration_or_context_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError, match="num_servers"):
        PSMainClient(None, small(num_servers=0))
    with pytest.raises(ConfigurationError, match="placement"):
        PSMainClient(None, small(placement="executors"))
    with pytest.raises(InvalidArgumentError, match="SparkContext"):
        PSMainClient("local[2]", small())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="PSConfig"):
        PSMainClient(None, "2 servers")  # type: ignore[arg-type]


def test_server_records_reach_other_processes_as_dicts(shared: PSMainClient) -> None:
    plain = json.loads(json.dumps([info.to_dict() for info in shared.get_server_info()]))
    assert isinstance(ServerInfo.from_dict(plain[0]), ServerInfo)
    with PSWorkerClient(plain, small()) as worker:
        assert worker.pull_embeddings([1]).shape == (1, 4)
