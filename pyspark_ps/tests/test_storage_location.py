"""Paths and URLs lead to the right place, reached in the right way."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from pyspark_ps.errors import InvalidArgumentError, NotFoundError, StorageError
from pyspark_ps.storage import Location, S3Backend, open_location
from pyspark_ps.storage.s3_options import S3Options
from pyspark_ps.utils.config import PSConfig

HADOOP = {
    "spark.hadoop.fs.s3a.endpoint": "minio:9000",
    "spark.hadoop.fs.s3a.connection.ssl.enabled": "false",
    "spark.hadoop.fs.s3a.access.key": "of-spark",
    "spark.hadoop.fs.s3a.secret.key": "spark-secret",
    "fs.s3a.path.style.access": "true",
    "fs.s3a.endpoint.region": "eu-west-1",
    "fs.s3a.bucket.special.access.key": "of-bucket",
    "fs.s3a.bucket.special.secret.key": "bucket-secret",
}


def test_plain_and_file_paths_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("some dir/x", f"{tmp_path}/some dir/x", f"file://{tmp_path}/some%20dir/x/"):
        place = open_location(url)
        assert place.path == f"{tmp_path}/some dir/x"
        place.put("file", url.encode())
        assert (tmp_path / "some dir/x/file").read_text() == url
        assert place.child("file").read()[0].decode() == url
        assert place.open_input("file").read().decode() == url
        assert place.filesystem.get_file_info(place.path).type.name == "Directory"


def test_s3_urls_name_bucket_and_key() -> None:
    for scheme in ("s3", "s3a", "s3n"):
        place = open_location(f"{scheme}://bucket/a/b/")
        assert (place.path, str(place)) == ("bucket/a/b", f"{scheme}://bucket/a/b")
        assert str(place.child("c/d")) == f"{scheme}://bucket/a/b/c/d"


def options(**environ: str) -> Any:
    def resolve(bucket: str, config: Any = None, hadoop: Any = None) -> S3Options:
        return S3Options.resolve(bucket, config, hadoop, environ)

    return resolve


def test_the_configuration_comes_before_spark_and_spark_before_the_environment() -> None:
    resolve = options(
        AWS_ENDPOINT_URL="http://env",
        AWS_REGION="env-1",
        AWS_ACCESS_KEY_ID="of-env",
        AWS_SECRET_ACCESS_KEY="env-secret",
        AWS_SESSION_TOKEN="env-token",
    )
    config = PSConfig(s3_endpoint_url="http://config", s3_region="config-1", s3_max_concurrency=3)
    both = resolve("b", config, HADOOP)
    assert (both.endpoint_url, both.region) == ("http://config", "config-1")
    assert (both.access_key, both.secret_key, both.max_concurrency) == (
        "of-spark",
        "spark-secret",
        3,
    )
    assert both.session_token is None, "the token of other credentials"
    spark = resolve("b", PSConfig(), HADOOP)
    assert (spark.endpoint_url, spark.region) == ("http://minio:9000", "eu-west-1")
    assert spark.uses_path_style
    assert resolve("special", None, HADOOP).secret_key == "bucket-secret"
    alone = resolve("b", PSConfig(), {})
    assert (alone.endpoint_url, alone.region, alone.session_token) == (
        "http://env",
        "env-1",
        "env-token",
    )
    given = resolve("b", {"endpoint_url": "http://dict", "access_key": "k", "secret_key": "s"})
    assert (given.endpoint_url, given.access_key, given.session_token) == ("http://dict", "k", None)


def test_aws_itself_needs_no_endpoint() -> None:
    hadoop = {"fs.s3a.endpoint": "s3.eu-central-1.amazonaws.com"}
    found = options()("b", None, hadoop)
    assert (found.endpoint_url, found.region) == (None, "eu-central-1")
    assert not found.uses_path_style
    assert options()("b").region == "us-east-1"


def test_defaults_that_hadoop_hands_over_change_nothing() -> None:
    defaults = {
        "fs.s3a.endpoint": "s3.amazonaws.com",
        "fs.s3a.path.style.access": "false",
        "fs.s3a.connection.ssl.enabled": "true",
        "fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
    }
    config = PSConfig(s3_endpoint_url="http://minio:9000")
    found = options()("b", config, defaults)
    assert found == options()("b", config)
    assert found.uses_path_style


def test_anonymous_access_is_taken_over_from_spark() -> None:
    provider = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"
    found = options(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y")(
        "b", None, {"fs.s3a.aws.credentials.provider": provider}
    )
    assert found.anonymous
    assert found.access_key is None
    assert found.arrow_arguments()["anonymous"] is True


def test_a_location_travels_with_its_credentials_and_shows_none() -> None:
    place = open_location("s3a://special/x", PSConfig(), HADOOP)
    for copy in (
        Location.from_dict(json.loads(json.dumps(place.to_dict()))),
        pickle.loads(pickle.dumps(place)),
    ):
        assert copy.to_dict() == place.to_dict()
        assert copy.to_dict()["s3"]["secret_key"] == "bucket-secret"
    for shown in (repr(place), str(place), repr(S3Options.from_dict(place.to_dict()["s3"]))):
        assert "secret" not in shown.replace("secret_key", "")
        assert "of-bucket" not in shown


@pytest.mark.parametrize(
    ("url", "error", "reason"),
    [
        ("", InvalidArgumentError, "path = ''"),
        ("s3://", InvalidArgumentError, "names no bucket"),
        ("s3://key:hidden@bucket/x", InvalidArgumentError, "credentials in a URL"),
        ("file://elsewhere/x", InvalidArgumentError, "file:///path"),
        ("nope://user:hidden@x/y", StorageError, "cannot reach 'nope://"),
    ],
)
def test_what_is_no_place_is_refused(url: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason) as caught:
        open_location(url)
    assert "hidden" not in str(caught.value)


def test_local_failures_name_the_place(tmp_path: Path) -> None:
    place = open_location(tmp_path)
    for attempt in (place.read, place.size, place.open_input):
        with pytest.raises(NotFoundError, match=f"{tmp_path}/nothing"):
            attempt("nothing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file/x"):
        place.open_output("file/x")
    place.delete(["nothing"])
    assert list(place.entries("nothing")) == []


def test_an_aborted_file_is_gone(tmp_path: Path) -> None:
    output = open_location(tmp_path).open_output("x")
    output.write(b"1")
    output.abort()
    assert os.listdir(tmp_path) == []


def test_the_backend_takes_what_a_configuration_says() -> None:
    assert S3Backend(PSConfig(s3_endpoint_url="http://x"))._where() == "http://x"
    assert S3Backend({"endpoint_url": "http://y"})._where() == "http://y"
