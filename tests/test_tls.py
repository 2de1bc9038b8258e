"""TLS between real processes: what goes by it, who is refused, and what it never shows."""

from __future__ import annotations

import logging
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyspark_ps import (
    AuthenticationError,
    ConfigurationError,
    PSConfig,
    PSMainClient,
    PSWorkerClient,
    ResourceExhaustedError,
    ServerInfo,
    TableConfig,
    _core,
)
from tests.test_external_servers import ByHand

SUBJECT = "/CN=pyspark-ps-test"
# Less than any deadline or limit of a handshake, more than a busy machine takes.
AT_ONCE_SECONDS = 8.0


def config(**fields: object) -> PSConfig:
    values: dict[str, Any] = {
        "num_servers": 2,
        "server_port_base": 0,
        "embedding_dim": 4,
        "num_worker_threads": 2,
        "tls": "on",
        "transport": "tcp",
        "embedding_init": "zeros",
        "embedding_optimizer": "sgd",
        "optimizer_configs": {"sgd": {"learning_rate": 1.0, "momentum": 0}},
    }
    return PSConfig(**{**values, **fields})


@pytest.fixture(scope="module")
def cluster() -> Iterator[PSMainClient]:
    # Frames and rows at their limits, so that these are met on the way.
    settings = config(
        max_message_size=65_536, batch_size=1_000, max_embeddings_per_shard=20_000, metrics_port=0
    )
    with PSMainClient(None, settings) as main:
        yield main


def changed(infos: list[ServerInfo], fingerprint: str) -> list[ServerInfo]:
    for info in infos:
        info.metadata["tls_fingerprint"] = fingerprint
    return infos


def other_fingerprint() -> str:
    return _core.certificate_fingerprint(_core.make_certificate()[0])


def test_everything_that_goes_by_tcp_goes_by_tls(cluster: PSMainClient, tmp_path: Path) -> None:
    worker = cluster.worker_client()
    ids = np.arange(10_000)
    worker.push_embedding_gradients((ids, np.ones((10_000, 4), np.float32)))
    np.testing.assert_array_equal(worker.pull_embeddings(ids), -np.ones((10_000, 4)))
    cluster.set_weights({"w": np.arange(200_000)})
    np.testing.assert_array_equal(worker.pull_model()["w"], np.arange(200_000))
    cluster.create_table("later", TableConfig(3))
    cluster.create_barrier("b", 1)
    assert not cluster.wait_barrier("b", 0)
    cluster.checkpoint(str(tmp_path / "saved"))
    cluster.decay_embeddings("prune", min_count=2)
    cluster.restore(str(tmp_path / "saved"))
    np.testing.assert_array_equal(worker.pull_embeddings(ids), -np.ones((10_000, 4)))
    with pytest.raises(ResourceExhaustedError, match="no room"):
        worker.pull_embeddings(np.arange(10**6, 10**6 + 50_000))
    np.testing.assert_array_equal(worker.pull_embeddings(ids), -np.ones((10_000, 4)))


@pytest.mark.parametrize(
    ("fingerprint", "error"),
    [(lambda: "", ConfigurationError), (other_fingerprint, AuthenticationError)],
    ids=["without", "wrong"],
)
def test_clients_without_it_or_with_another_certificate_are_refused_at_once(
    cluster: PSMainClient, fingerprint: Callable[[], str], error: type[Exception]
) -> None:
    infos = changed(cluster.get_server_info(), fingerprint())
    started = time.monotonic()
    with pytest.raises(error, match=r"server \d"):
        PSWorkerClient(infos, config(tls="auto"))
    assert time.monotonic() - started < AT_ONCE_SECONDS


def test_clients_with_it_are_refused_by_servers_without_at_once() -> None:
    with PSMainClient(None, config(num_servers=1, tls="off")) as main:
        infos = main.get_server_info()
        with pytest.raises(ConfigurationError, match="started without TLS"):
            PSWorkerClient(infos, config(tls="on"))
        started = time.monotonic()
        with pytest.raises(ConfigurationError, match=r"server 0 .*without"):
            PSWorkerClient(changed(infos, other_fingerprint()), config())
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert main.worker_client().pull_embeddings([1]).shape == (1, 4)


def test_the_key_is_in_no_command_line_environment_repr_or_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with PSMainClient(None, config(num_servers=1)) as main:
        infos = main.get_server_info()
        shown = f"{infos} {main.config} {main.config.to_dict()} {[i.to_dict() for i in infos]}"
        (child,) = Path(f"/proc/self/task/{_main_thread()}/children").read_text().split()[-1:]
        assert b"pyspark_ps.server" in Path(f"/proc/{child}/cmdline").read_bytes()
        for name in ("cmdline", "environ"):
            shown += Path(f"/proc/{child}/{name}").read_text(errors="replace")
        main.worker_client().pull_embeddings([1])
    shown += caplog.text
    assert "listens on" in shown
    assert "PRIVATE KEY" not in shown
    assert infos[0].metadata["secret"].reveal() not in shown


def _main_thread() -> int:
    return int(Path("/proc/self").resolve().name)


# --- certificates of one's own


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cert.pem and key.pem (RSA, behind it a second certificate as a chain has it), an expired one,
    and keys that do not fit."""
    folder = tmp_path_factory.mktemp("certificates")
    cert, key, chain, expired = (
        str(folder / name) for name in ("cert.pem", "key.pem", "chain.pem", "expired.pem")
    )
    new = ("req", "-x509", "-nodes", "-subj", SUBJECT, "-days", "2", "-newkey")
    openssl(*new, "rsa:2048", "-keyout", key, "-out", cert)
    openssl(*new, "ed25519", "-keyout", str(folder / "other.pem"), "-out", chain)
    openssl("x509", "-in", cert, "-signkey", key, "-days", "-1", "-out", expired)
    openssl("pkey", "-in", key, "-aes128", "-passout", "pass:x", "-out", str(folder / "locked.pem"))
    Path(cert).write_text(Path(cert).read_text() + Path(chain).read_text())
    (folder / "key.pem").chmod(0o600)
    (folder / "noise.pem").write_bytes(bytes(range(256)))
    return folder


def test_a_certificate_of_ones_own_is_shown_and_pinned(files: Path) -> None:
    own = {"tls_cert_file": str(files / "cert.pem"), "tls_key_file": str(files / "key.pem")}
    with PSMainClient(None, config(num_servers=1, tls="auto", **own)) as main:
        (info,) = main.get_server_info()
        certificate = (files / "cert.pem").read_text()
        assert info.metadata["tls_fingerprint"] == _core.certificate_fingerprint(certificate)
        assert main.worker_client().pull_embeddings([1]).shape == (1, 4)


@pytest.mark.parametrize(
    ("cert", "key", "names", "says"),
    [
        ("none.pem", "key.pem", "tls_cert_file", "No such file"),
        ("cert.pem", "none.pem", "tls_key_file", "No such file"),
        (".", "key.pem", "tls_cert_file", "Is a directory"),
        ("noise.pem", "key.pem", "tls_cert_file", "holds no certificate"),
        ("key.pem", "key.pem", "tls_cert_file", "holds no certificate"),
        ("cert.pem", "noise.pem", "tls_key_file", "holds no private key"),
        ("cert.pem", "locked.pem", "tls_key_file", "without a password"),
        ("cert.pem", "other.pem", "tls_key_file", "not the certificate's"),
        ("expired.pem", "key.pem", "tls_cert_file", "has expired, on"),
    ],
)
def test_files_that_cannot_serve_are_refused_by_name(
    files: Path, cert: str, key: str, names: str, says: str
) -> None:
    own = {"tls_cert_file": str(files / cert), "tls_key_file": str(files / key)}
    main = PSMainClient(None, config(**own))
    with pytest.raises(ConfigurationError, match=rf"{names}.*{says}") as caught:
        main.start_servers()
    assert own[names] in str(caught.value)
    assert main.get_server_info() == []


# --- servers started by hand


def test_servers_by_hand_and_their_drivers_share_a_certificate(tmp_path: Path, files: Path) -> None:
    cert, key = str(files / "cert.pem"), str(files / "key.pem")
    by_hand = ByHand(tmp_path, tls="on", tls_cert_file=cert, tls_key_file=key, transport="tcp")
    try:
        by_hand.start_all()
        # A driver needs no key.
        with PSMainClient(None, by_hand.config.replace(tls_key_file=None)) as main:
            assert main.worker_client().pull_embeddings(range(100)).shape == (100, 4)
        plain = by_hand.config.replace(tls="off")
        with pytest.raises(ConfigurationError, match="one side speaks by TLS"):
            PSMainClient(None, plain).start_servers()
        another = by_hand.config.replace(tls_cert_file=str(files / "chain.pem"), tls_key_file=None)
        with pytest.raises(AuthenticationError, match="another certificate"):
            PSMainClient(None, another).start_servers()
        for address in by_hand.config.server_addresses:
            with socket.create_connection(("127.0.0.1", int(address.split(":")[1]))) as stranger:
                stranger.sendall(b"\x16\x03\x01\x00\x05hello" * 100)
        assert by_hand.serves()
        by_hand.write(by_hand.config.replace(tls_key_file=None))
        without_key = by_hand.start(1)
        assert without_key.wait(60) == 2
        assert without_key.stderr is not None
        assert "tls_key_file" in without_key.stderr.readline()
    finally:
        by_hand.end()
