"""Servers that are started by hand and outlive the drivers that use them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pyspark_ps import (
    AuthenticationError,
    ConfigurationError,
    PSConfig,
    PSConnectionError,
    PSMainClient,
    PSTimeoutError,
    PSWorkerClient,
    TableConfig,
)
from tests.processes import wait_until


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, none of them next to another."""
    with contextlib.ExitStack() as open_sockets:
        ports: list[int] = []
        while len(ports) < count:
            taken = open_sockets.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            if all(abs(port - other) > 1 for other in ports):
                ports.append(port)
    return ports


class ByHand:
    """Server processes as an operator starts them."""

    def __init__(self, folder: Path, servers: int = 2, **fields: object) -> None:
        secret = folder / "secret"
        secret.write_text("0123456789abcdef0123456789abcdef\n")
        secret.chmod(0o600)
        self.config = PSConfig(
            placement="external",
            server_addresses=[f"127.0.0.1:{port}" for port in free_ports(servers)],
            secret_file=str(secret),
            embedding_dim=4,
            num_worker_threads=1,
            timeout_seconds=20.0,
        ).replace(**fields)
        self._file = folder / "cluster.json"
        self.write(self.config)
        self.processes: list[subprocess.Popen[str]] = []

    def write(self, config: PSConfig) -> None:
        """What servers started from now on are told."""
        self._file.write_text(config.to_json())

    def start(self, server_id: int, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pyspark_ps.server", "--config", str(self._file)]
        process = subprocess.Popen(
            [*command, "--server-id", str(server_id), *more],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def start_all(self) -> None:
        for server_id in reversed(range(len(self.config.server_addresses))):
            self.start(server_id)
        assert wait_until(self.serves), "the servers do not serve"

    def serves(self) -> bool:
        try:
            with PSMainClient(None, self.config):
                return True
        except (PSConnectionError, PSTimeoutError):
            return False

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[ByHand]:
    servers = ByHand(tmp_path)
    yield servers
    servers.end()


DRIVER = """
import sys
import numpy as np
from pyspark_ps import PSConfig, PSMainClient
config = PSConfig.from_json(open(sys.argv[1]).read())
main = PSMainClient(None, config)
main.start_servers()
main.set_weights({"w": np.arange(3)})
main.worker_client().pull_embeddings([1, 2, 3])
print("done", flush=True)
if len(sys.argv) > 2:
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_servers_outlive_drivers_however_those_end(by_hand: ByHand) -> None:
    by_hand.start_all()
    for how in ([], ["killed"]):
        driver = subprocess.run(
            [sys.executable, "-c", DRIVER, str(by_hand._file), *how],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert driver.stdout == "done\n"
        assert (driver.returncode == 0) == (not how)
    with PSMainClient(None, by_hand.config) as main:
        infos = main.get_server_info()
        assert [info.status for info in infos] == ["running", "running"]
        assert [info.address for info in infos] == by_hand.config.server_addresses
        assert main.get_cluster_stats()["total_embeddings"] == 3
        with PSWorkerClient([info.to_dict() for info in infos], by_hand.config) as worker:
            np.testing.assert_array_equal(worker.pull_model()["w"], [0, 1, 2])
            main.create_table("later", TableConfig(3))
            assert worker.pull_embeddings([5], table="later").shape == (1, 3)
            main.create_barrier("b", 1)
            assert not main.wait_barrier("b", 0)
    assert [info.status for info in main.get_server_info()] == ["unknown", "unknown"]
    assert all(process.poll() is None for process in by_hand.processes)

    # A driver with another configuration or another secret changes nothing.
    for field, value in (("embedding_dim", 5), ("seed", 9), ("weight_optimizer", "sgd")):
        with pytest.raises(ConfigurationError, match=r"external servers"):
            PSMainClient(None, by_hand.config.replace(**{field: value})).start_servers()
    other_secret = Path(str(by_hand.config.secret_file) + "2")
    other_secret.write_text("another secret of sixteen bytes")
    stranger = PSMainClient(None, by_hand.config.replace(secret_file=str(other_secret)))
    with pytest.raises(AuthenticationError):
        stranger.start_servers()

    # The end of server 0 is the end of all, and leaves nothing.
    sockets = [info.metadata["unix_socket"] for info in infos]
    assert all(os.path.exists(path) for path in sockets)
    by_hand.processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(30) for process in by_hand.processes] == [1, 0]
    assert not any(os.path.exists(os.path.dirname(path)) for path in sockets)
    for address in by_hand.config.server_addresses:
        with socket.socket() as port_test:
            port_test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port_test.bind(("127.0.0.1", int(address.rpartition(":")[2])))


def test_a_server_that_dies_is_lost_until_all_are_started_again(
    by_hand: ByHand, tmp_path: Path
) -> None:
    by_hand.start_all()
    config = by_hand.config.replace(timeout_seconds=5.0)
    main = PSMainClient(None, config)
    main.start_servers()
    worker = main.worker_client()
    worker.pull_embeddings(range(100))
    saved = str(tmp_path / "saved")
    main.save_to_s3(saved)
    by_hand.processes[0].kill()  # server 1
    with pytest.raises(PSConnectionError, match="server 1"):
        worker.pull_embeddings(range(100))
    assert wait_until(lambda: main.get_server_info()[1].status == "lost")
    with pytest.raises(PSConnectionError, match=r"do not serve: 1 \(lost\)"):
        PSMainClient(None, config).start_servers()
    # Another in its place would have lost its rows: it is told so.
    refused = by_hand.start(1)
    assert refused.wait(60) == 1
    assert refused.stderr is not None
    assert "was lost with its rows" in refused.stderr.read()
    by_hand.processes[1].kill()  # server 0, and the coordinator with it
    assert wait_until(lambda: main.get_server_info()[0].status == "lost")
    main.shutdown_servers()
    by_hand.start_all()
    with PSMainClient(None, config) as again:
        assert again.get_cluster_stats()["total_embeddings"] == 0
        again.load_from_s3(saved)
        assert again.get_cluster_stats()["total_embeddings"] == 100


def test_the_command_says_what_is_wrong(by_hand: ByHand, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pyspark_ps.server", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = run("--help")
    assert code == 0
    for word in ("server_addresses", "secret_file", "--server-id", "cluster.json", "openssl"):
        assert word in said

    file = str(by_hand._file)
    assert run("--config", file, "--server-id", "2")[1].count("2 server_addresses") == 1
    assert run("--config", str(tmp_path / "none"), "--server-id", "0")[0] == 2
    plain = json.loads(by_hand.config.to_json())
    local = tmp_path / "local.json"
    local.write_text(json.dumps({**plain, "placement": "local", "server_addresses": []}))
    assert "secret_file" in run("--config", str(local), "--server-id", "0")[1]
    short = tmp_path / "short"
    short.write_text("short")
    local.write_text(json.dumps({**plain, "secret_file": str(short)}))
    assert "holds 5 bytes" in run("--config", str(local), "--server-id", "0")[1]

    # The port of an address is that one or none.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(by_hand.config.server_addresses[0].rpartition(":")[2])))
        taken.listen()
        code, said = run("--config", file, "--server-id", "0")
    assert (code, "no free port" in said) == (1, True)
