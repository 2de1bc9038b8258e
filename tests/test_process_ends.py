"""Processes that end at any moment: clients, drivers, interpreters; and children of both."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient
from tests.processes import is_running, wait_until

CONFIG = PSConfig(
    num_servers=2,
    server_port_base=0,
    embedding_dim=4,
    embedding_init="zeros",
    embedding_optimizer="sgd",
    optimizer_configs={"sgd": {"learning_rate": 1.0, "momentum": 0.0}},
    num_worker_threads=1,
    timeout_seconds=30.0,
)


@pytest.fixture(scope="module", params=["unix", "tls"])
def main(request: pytest.FixtureRequest) -> Iterator[PSMainClient]:
    by_tls = {"tls": "on", "transport": "tcp"}
    config = CONFIG.replace(**by_tls) if request.param == "tls" else CONFIG
    with PSMainClient(None, config) as cluster:
        yield cluster


def plain(main: PSMainClient) -> str:
    servers = [info.to_dict() for info in main.get_server_info()]
    return json.dumps({"servers": servers, "config": main.config.to_dict()}) + "\n"


def run(script: str, line: str = "\n", *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()
    return process


def sockets_of(pid: int) -> int:
    """Open sockets of a process."""
    count = 0
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:")
    return count


CLIENT = """
import json, sys, threading
import numpy as np
from pyspark_ps import PSConfig, PSWorkerClient
given = json.loads(sys.stdin.readline())
worker = PSWorkerClient(given["servers"], PSConfig.from_dict(given["config"]))
ids = np.arange(int(sys.argv[1]), int(sys.argv[1]) + 2000)
def work():
    while True:
        worker.push_gradients(None, (ids, np.ones((2000, 4))))
        worker.pull_embeddings(ids)
threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
while worker.get_stats()["batches"] < 6:
    pass
print("working", flush=True)
"""


def test_clients_that_are_killed_amid_pushes_leave_nothing_behind(main: PSMainClient) -> None:
    assert main._running is not None
    pids = [int(record["pid"]) for record in main._running.cluster.servers()]
    worker = main.worker_client()
    worker.pull_embeddings(range(5000))
    before = [sockets_of(pid) for pid in pids]
    clients = [run(CLIENT + "threads[0].join()", plain(main), str(10_000 * n)) for n in range(2)]
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "working\n"
        client.kill()
        client.communicate()
    for n in range(2):
        rows = worker.pull_embeddings(range(10_000 * n, 10_000 * n + 2000))
        # Each server applies its part of a push wholly or not at all, and once.
        assert (rows == rows[:, :1]).all()
        assert (rows == np.round(rows)).all()
        assert len(np.unique(rows)) <= CONFIG.num_servers
        assert (rows <= -6).all()
    assert wait_until(lambda: [sockets_of(pid) for pid in pids] == before)


def unsent_bytes(port: int) -> int:
    """What the TCP sockets at this port have taken from their process and not got rid of."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        place, queues = line.split()[1], line.split()[4]
        if place.endswith(f":{port:04X}"):
            total += int(queues.split(":")[0], 16)
    return total


# Replies of 25 MB, more than sockets hold, until its standard input ends.
PULLS = """
import json, sys, threading
import numpy as np
from pyspark_ps import PSConfig, PSWorkerClient
given = json.loads(sys.stdin.readline())
worker = PSWorkerClient(given["servers"], PSConfig.from_dict(given["config"]))
ids = np.arange(100_000)
enough = threading.Event()
def pull():
    while not enough.is_set():
        rows = worker.pull_embeddings(ids)
        assert rows.shape == (100_000, 64) and not rows.any()
threads = [threading.Thread(target=pull) for _ in range(2)]
for thread in threads:
    thread.start()
sys.stdin.read()
enough.set()
for thread in threads:
    thread.join()
print("done", flush=True)
"""


@pytest.mark.slow  # it waits until the server has waited for 30 s
@pytest.mark.timeout(300)
def test_a_client_that_freezes_amid_replies_is_counted_and_goes_on_when_it_thaws() -> None:
    config = CONFIG.replace(
        num_servers=1,
        embedding_dim=64,
        transport="tcp",
        compression=False,  # rows of zeros would fit into the sockets
        timeout_seconds=200.0,
    )
    with PSMainClient(None, config) as main:

        def stalled() -> int:
            return int(main.get_cluster_stats()["servers"][0]["stalled_total"])

        def stalls_when_frozen() -> bool:
            client.send_signal(signal.SIGSTOP)
            port = main.get_server_info()[0].port
            # What is not sent yet may still fit into the frozen client's socket.
            if not wait_until(lambda: unsent_bytes(port) == 0, 2) and wait_until(
                lambda: stalled() > 0, 60
            ):
                return True
            client.send_signal(signal.SIGCONT)
            return False

        client = run(PULLS, plain(main))
        try:
            assert stalled() == 0
            assert wait_until(stalls_when_frozen, 180)
            client.send_signal(signal.SIGCONT)
            out, err = client.communicate(timeout=120)
        finally:
            client.kill()
        assert (client.returncode, out.splitlines()[-1:], err) == (0, ["done"], "")


@pytest.mark.parametrize(
    ("what", "ending"),
    [
        ("a pull in another thread", ""),
        ("an exception", "raise SystemExit(0)"),
        ("threads that wait at a barrier", "barrier"),
    ],
)
def test_an_interpreter_ends_cleanly_amid_calls(main: PSMainClient, what: str, ending: str) -> None:
    if ending == "barrier":
        main.create_barrier("never", 2)
        ending = (
            "threading.Thread(target=worker.enter_barrier, args=('never',), daemon=True).start()\n"
            "import time\ntime.sleep(0.3)"
        )
    for _ in range(3):
        client = run(f"{CLIENT}\n{ending}\n", plain(main), "50000")
        out, err = client.communicate(timeout=60)
        assert (client.returncode, out, err) == (0, "working\n", ""), what


DRIVER = """
import json, os, sys, threading, time
from pyspark_ps import PSConfig, PSError, PSMainClient
main = PSMainClient(None, PSConfig(num_servers=2, server_port_base=0, num_worker_threads=1))
main.start_servers()
worker = main.worker_client()
worker.pull_embeddings([1])
child = os.fork()
if child == 0:
    time.sleep(600)
    os._exit(0)
print(json.dumps([child, *(r["pid"] for r in main._running.cluster.servers())]), flush=True)
"""


def test_servers_end_with_their_driver_though_a_child_of_it_lives_on() -> None:
    driver = run(DRIVER + "time.sleep(600)")
    assert driver.stdout is not None
    child, *pids = json.loads(driver.stdout.readline())
    try:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert wait_until(lambda: not any(is_running(pid) for pid in pids), 10)
        assert is_running(child)
    finally:
        os.kill(child, signal.SIGKILL)
        driver.communicate()


def test_a_driver_ends_cleanly_amid_its_threads_calls() -> None:
    ending = """
os.kill(child, 9)
def work():
    try:
        while True:
            worker.pull_embeddings(range(1000))
    except PSError:
        pass
threading.Thread(target=work, daemon=True).start()
main.create_barrier("b", 1)
def wait():
    try:
        main.wait_barrier("b")
    except PSError:
        pass
threading.Thread(target=wait, daemon=True).start()
time.sleep(0.3)
"""
    driver = run(DRIVER + ending)
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (0, "")
    assert wait_until(lambda: not any(is_running(pid) for pid in json.loads(out)), 10)


def push_ones(servers: list[dict[str, Any]], config: dict[str, Any], first: int) -> None:
    with PSWorkerClient(servers, PSConfig.from_dict(config)) as worker:
        worker.push_gradients(None, (range(first, first + 100), np.ones((100, 4))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_either_kind_are_clients_of_their_own(main: PSMainClient, method: str) -> None:
    first = {"fork": 100_000, "spawn": 200_000}[method]
    worker = main.worker_client()
    worker.pull_embeddings([1])  # the parent is connected
    servers = json.loads(plain(main))["servers"]
    context = multiprocessing.get_context(method)
    children = [
        context.Process(target=push_ones, args=(servers, main.config.to_dict(), first))
        for _ in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    rows = worker.pull_embeddings(range(first, first + 100))
    np.testing.assert_array_equal(rows, np.full((100, 4), -2.0))
