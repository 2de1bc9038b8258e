"""The S3 protocol, against a server of it that fails and dawdles on demand."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from pyspark_ps.checkpoint.verifying import verify
from pyspark_ps.errors import NotFoundError, PSError, StorageError
from pyspark_ps.storage import CheckpointManager, Location, open_location, read_manifest
from pyspark_ps.tests.checkpoint_data import contents, expected, save_checkpoint
from pyspark_ps.tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from pyspark_ps.utils.config import PSConfig

MIB = 1 << 20


@pytest.fixture
def place(s3_server: S3Server, bucket: str) -> Location:
    return open_location(f"s3://{bucket}/dir", s3_server.credentials)


def write(place: Location, name: str, mebibytes: int) -> None:
    output = place.open_output(name)
    for number in range(mebibytes):
        output.write(bytes([number]) * MIB)
    output.close()


def parts(server: S3Server, name: str) -> int:
    return len(server.seen("PUT", f"{name}?uploadId"))


def test_files_above_the_threshold_go_in_parts(s3_server: S3Server, bucket: str) -> None:
    config = {**s3_server.credentials, "multipart_threshold": 10 * MIB}
    place = open_location(f"s3://{bucket}", config)
    write(place, f"{bucket}-small", 9)
    write(place, f"{bucket}-large", 20)
    assert parts(s3_server, f"{bucket}-small") == 0
    assert parts(s3_server, f"{bucket}-large") == 3, "of 8 MiB"
    data = place.open_input(f"{bucket}-large").read()
    assert data == b"".join(bytes([number]) * MIB for number in range(20))


def test_the_fields_of_the_configuration_reach_the_transfers(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    config = PSConfig(s3_multipart_threshold=12 * MIB, s3_max_concurrency=2)
    backend: Any = open_location(f"s3://{bucket}", config).backend
    used = backend._transfers.config
    assert used.multipart_threshold == 12 * MIB
    assert used.max_request_concurrency == 2
    assert used.max_in_memory_upload_chunks == 2


def test_a_refused_part_is_sent_again(s3_server: S3Server, place: Location) -> None:
    with s3_server.fault("PUT", "/dir/x", 503, "SlowDown", times=2):
        write(place, "x", 17)
    assert place.size("x") == 17 * MIB


def test_slow_answers_are_waited_for(s3_server: S3Server, place: Location) -> None:
    write(place, "x", 1)
    with s3_server.fault("GET", "/dir/x", seconds=1.5, times=1):
        assert len(place.open_input("x").read_at(100, 0)) == 100
    with s3_server.fault("PUT", "/dir/y", seconds=1.5, times=1):
        place.put("y", b"1")
    assert place.read("y")[0] == b"1"


def test_an_aborted_or_failed_upload_leaves_nothing(s3_server: S3Server, place: Location) -> None:
    output = place.open_output("aborted")
    output.write(bytes(20 * MIB))
    output.abort()
    with (
        s3_server.fault("PUT", "/dir/failed", 400, "BadDigest"),
        pytest.raises(StorageError, match=r"dir/failed .*BadDigest"),
    ):
        write(place, "failed", 20)
    assert list(place.entries()) == []
    bucket = place.path.partition("/")[0]
    assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=bucket)


def test_uploads_of_a_dead_save_are_dropped_and_others_stay(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    client, manager = s3_server.client(), CheckpointManager()
    names = [
        f"ck/weights/part-{'0' * 16}-0000-00000.parquet",
        f"ck/sub/weights/part-{'0' * 16}-0000-00000.parquet",
        "ck/weights/mine.parquet",
    ]
    for name in names:
        client.create_multipart_upload(Bucket=bucket, Key=name)
    manager.begin(f"s3://{bucket}/ck").abandon()
    found = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert {upload["Key"] for upload in found} == set(names[1:])
    with s3_server.fault("GET", "?uploads", 403, "AccessDenied"):
        manager.begin(f"s3://{bucket}/ck").abandon()


def test_a_manifest_is_put_on_condition_and_a_retry_of_it_counts_once(
    s3_server: S3Server, place: Location
) -> None:
    place.put("manifest", b"first", "absent")
    with pytest.raises(StorageError, match="another save"):
        place.put("manifest", b"second", "absent")
    place.put("manifest", b"first", "absent")  # as when the answer to the first was lost
    _, version = place.read("manifest")
    place.put("manifest", b"second", version)
    with pytest.raises(StorageError, match="another save"):
        place.put("manifest", b"third", version)
    assert place.read("manifest")[0] == b"second"


def test_a_store_without_conditions_is_written_all_the_same(
    s3_server: S3Server, place: Location
) -> None:
    with s3_server.fault("PUT", "/dir/manifest", 501, "NotImplemented", times=1):
        place.put("manifest", b"first", "absent")
    assert place.read("manifest")[0] == b"first"


def every_failure(place: Location) -> list[PSError]:
    """What each way of using a place raises."""

    def write_small() -> None:
        write(place, "x", 1)

    raised = []
    for attempt in (
        lambda: place.read("x"),
        lambda: place.open_input("x").read_at(1, 0),
        lambda: list(place.entries()),
        lambda: place.put("x", b"1"),
        lambda: place.delete(["x"]),
        write_small,
    ):
        with pytest.raises(PSError) as caught:
            attempt()
        raised.append(caught.value)
    for error in raised:
        assert place.path.partition("/")[0] in str(error)
        assert SECRET_KEY not in str(error)
        assert ACCESS_KEY not in str(error)
    return raised


def test_a_file_that_opens_and_then_cannot_be_read_is_named(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    manager, path = CheckpointManager(), f"s3://{bucket}/ck"
    manifest = save_checkpoint(manager, path, count=1)
    place = manager.location(path)
    for status, code, reason in ((403, "AccessDenied", "s3:GetObject"), (400, "Odd", "GetObject")):
        with s3_server.fault("GET", "/ck/embeddings", status, code):
            with pytest.raises(StorageError, match=rf"ck/embeddings/clicks/.*{reason}"):
                contents(place, manifest)
            with pytest.raises(StorageError, match=reason):
                verify(place, manifest)


def test_a_bucket_of_another_region_is_told(s3_server: S3Server, place: Location) -> None:
    write(place, "x", 1)
    with (
        s3_server.fault("GET", "/dir/x", 400, "AuthorizationHeaderMalformed"),
        pytest.raises(StorageError, match="check s3_region"),
    ):
        place.read("x")


def test_a_missing_bucket_is_named(s3_server: S3Server) -> None:
    place = open_location("s3://no-such-bucket/dir", s3_server.credentials)
    raised = every_failure(place)
    assert sum("there is no bucket 'no-such-bucket': create it" in str(e) for e in raised) >= 4
    assert all(isinstance(error, (StorageError, NotFoundError)) for error in raised)


def test_missing_rights_are_named(s3_server: S3Server, place: Location) -> None:
    bucket = place.path.partition("/")[0]
    write(place, "x", 1)
    refused = [
        s3_server.fault(method, f"/{bucket}", 403, "AccessDenied")
        for method in ("GET", "HEAD", "PUT", "POST")
    ]
    with refused[0], refused[1], refused[2], refused[3]:
        raised = every_failure(place)
    assert all(isinstance(error, StorageError) for error in raised)
    assert all("s3:PutObject" in str(error) for error in raised)


def test_a_wrong_endpoint_is_named(place: Location) -> None:
    wrong = {"endpoint_url": "http://127.0.0.1:9", "access_key": ACCESS_KEY}
    place = open_location("s3://bucket/dir", {**wrong, "secret_key": SECRET_KEY})
    raised = every_failure(place)
    assert all(isinstance(error, StorageError) for error in raised)
    assert all("http://127.0.0.1:9" in str(e) and "s3_endpoint_url" in str(e) for e in raised)


def test_credentials_that_are_missing_or_wrong_are_named(
    s3_server: S3Server, place: Location, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        s3_server.fault("GET", "/dir/x", 403, "InvalidAccessKeyId"),
        pytest.raises(StorageError, match=r"InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"),
    ):
        place.read("x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    bare = open_location(place.url, {"endpoint_url": s3_server.endpoint})
    with pytest.raises(StorageError, match=r"no credentials were found: check"):
        bare.read("x")


def test_a_checkpoint_survives_errors_and_slow_answers(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    manager, path = CheckpointManager(), f"s3a://{bucket}/ck"
    with (
        s3_server.fault("PUT", f"/{bucket}/ck/embeddings", 500, "InternalError", times=2),
        s3_server.fault("PUT", f"/{bucket}/ck/manifest", 503, "SlowDown", times=1),
        s3_server.fault("PUT", f"/{bucket}/ck/weights", seconds=1, times=1),
    ):
        save_checkpoint(manager, path)
    place = manager.location(path)
    with s3_server.fault("GET", "/ck/embeddings", 503, "SlowDown", times=1):
        found = contents(place, read_manifest(place))
    assert found.equals(expected().cast(found.schema))


def _read_in_child(values: dict[str, Any], results: Any) -> None:
    results.put(Location.from_dict(values).read("x")[0])


def test_another_process_opens_the_place_by_its_description(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put("x", b"hello")
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(place.to_dict(), results))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert results.get() == b"hello"
