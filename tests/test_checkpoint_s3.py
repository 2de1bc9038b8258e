"""Checkpoints of real servers in S3: an S3 server of the tests' own, which fails on demand."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pyspark_ps import PSConfig, PSMainClient
from pyspark_ps.checkpoint.verifying import verify
from pyspark_ps.errors import DataCorruptionError, NotFoundError, StorageError
from pyspark_ps.storage import CheckpointManager
from pyspark_ps.tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

IDS = np.arange(2_000, dtype=np.int64)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


def config(server: S3Server, servers: int) -> PSConfig:
    return PSConfig(
        num_servers=servers,
        server_port_base=0,
        num_worker_threads=2,
        embedding_dim=8,
        s3_endpoint_url=server.endpoint,
        s3_multipart_threshold=5 << 20,
        s3_compression="none",
    )


@pytest.fixture(scope="module")
def main(s3_server: S3Server) -> Iterator[PSMainClient]:
    """Two servers, started before anyone knew the credentials: these travel with each job."""
    with PSMainClient(None, config(s3_server, 2)) as started:
        started.init_weights({"kernel": (1_500, 1_500)}, "normal", 0.1)  # 27 MB with states: parts
        yield started


@pytest.fixture(autouse=True)
def _credentials(main: PSMainClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@pytest.fixture
def place(s3_server: S3Server) -> str:
    bucket = s3_server.make_bucket(f"bucket-{secrets.token_hex(6)}")
    return f"s3a://{bucket}/models/day=1"


def push(main: PSMainClient, step: int) -> None:
    gradients = np.random.default_rng(step).normal(size=(len(IDS), 8)).astype(np.float32)
    main.worker_client().push_embedding_gradients((IDS, gradients))


def rows(main: PSMainClient) -> NDArray[np.float32]:
    return main.worker_client().pull_embeddings(IDS, create_if_missing=False)


def kernel(main: PSMainClient) -> NDArray[np.float32]:
    values: NDArray[np.float32] = main.worker_client().pull_model()["kernel"].copy()
    return values


def test_what_two_servers_saved_three_load(
    s3_server: S3Server, main: PSMainClient, place: str
) -> None:
    push(main, 1)
    with (
        s3_server.fault("PUT", "/embeddings/", 503, "SlowDown", times=2),
        s3_server.fault("PUT", "/weights/", seconds=1, times=1),
        s3_server.fault("PUT", "/manifest.json", 500, "InternalError", times=1),
    ):
        info = main.save_to_s3(place)
    assert (info.s3_path, info.embedding_count) == (place, len(IDS))
    assert s3_server.seen("PUT", "partNumber=2"), "the dense weights went in parts"
    expected, tensor = rows(main), kernel(main)
    push(main, 2)
    after_two = rows(main)
    manager = CheckpointManager(config(s3_server, 3))
    found = manager.location(place)
    assert verify(found, manager.manifest(place)) == []
    assert SECRET_KEY not in found.read("manifest.json")[0].decode()
    assert ACCESS_KEY not in found.read("manifest.json")[0].decode()
    with PSMainClient(None, config(s3_server, 3)) as other:
        with s3_server.fault("GET", "/embeddings/", 503, "SlowDown", times=1):
            other.load_from_s3(place)
        np.testing.assert_array_equal(rows(other), expected)
        np.testing.assert_array_equal(kernel(other), tensor)
        push(other, 2)
        np.testing.assert_array_equal(rows(other), after_two)
        other.save_to_s3(place)  # in place of the one it came from
        assert [i.s3_path for i in other.list_checkpoints(place.rpartition("/")[0])] == [place]
    main.load_from_s3(place)
    np.testing.assert_array_equal(rows(main), after_two)
    main.delete_checkpoint(place)
    assert list(found.entries()) == []


def test_a_save_that_is_refused_leaves_the_old_checkpoint_and_the_cluster_at_work(
    s3_server: S3Server, main: PSMainClient, place: str
) -> None:
    push(main, 1)
    main.save_to_s3(place)
    expected = rows(main)
    push(main, 2)
    for method, containing in (("PUT", "/embeddings/"), ("PUT", "/weights/"), ("PUT", "/manifest")):
        with (
            s3_server.fault(method, containing, 403, "AccessDenied"),
            pytest.raises(StorageError, match="s3:PutObject") as caught,
        ):
            main.save_to_s3(place)
        assert place.partition("://")[2].partition("/")[0] in str(caught.value)
        assert SECRET_KEY not in str(caught.value)
    push(main, 3)
    main.load_from_s3(place)
    np.testing.assert_array_equal(rows(main), expected)
    manager = CheckpointManager(config(s3_server, 1))
    named = {file.path for file in manager.manifest(place).files}
    left = {entry.path for entry in manager.location(place).entries()}
    assert left == named | {"manifest.json"}, "the refused saves removed what they had written"


def damage(s3_server: S3Server, place: str, kind: str) -> str:
    """Flips a bit in the middle of a file of that kind; its key."""
    bucket, _, prefix = place.partition("://")[2].partition("/")
    client = s3_server.client()
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/{kind}/")["Contents"]
    key = str(listed[0]["Key"])
    data = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    return key


@pytest.mark.parametrize("kind", ["embeddings", "weights"])
def test_a_load_that_fails_changes_nothing(
    s3_server: S3Server, main: PSMainClient, place: str, kind: str
) -> None:
    push(main, 1)
    main.save_to_s3(place)
    push(main, 2)
    before, tensor = rows(main), kernel(main)
    with (
        s3_server.fault("GET", f"/{kind}/", 403, "AccessDenied"),
        s3_server.fault("HEAD", f"/{kind}/", 403, "AccessDenied"),
        pytest.raises(StorageError, match="s3:GetObject"),
    ):
        main.load_from_s3(place)
    key = damage(s3_server, place, kind)
    with pytest.raises(DataCorruptionError, match=key.rpartition("/")[2]):
        main.load_from_s3(place)
    with pytest.raises(NotFoundError, match="holds no checkpoint"):
        main.load_from_s3(place + "-other")
    np.testing.assert_array_equal(rows(main), before)
    np.testing.assert_array_equal(kernel(main), tensor)


def test_no_command_line_shows_credentials(main: PSMainClient, place: str) -> None:
    main.save_to_s3(place, save_model=False)
    lines = list(server_command_lines())
    assert len(lines) >= 2
    assert not any(SECRET_KEY.encode() in line or ACCESS_KEY.encode() in line for line in lines)


def server_command_lines() -> Iterator[bytes]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = file.read_bytes()
            if b"pyspark_ps.server" in line:
                yield line


def test_places_that_do_not_exist_are_named(s3_server: S3Server, main: PSMainClient) -> None:
    for call in (
        lambda: main.save_to_s3("s3://no-such-bucket/x"),
        lambda: main.load_from_s3("s3://no-such-bucket/x"),
        lambda: main.list_checkpoints("s3://no-such-bucket/x"),
    ):
        with pytest.raises(StorageError, match="there is no bucket 'no-such-bucket'"):
            call()
