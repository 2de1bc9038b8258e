"""Fixtures of the storage tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyspark_ps.tests.s3_server import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 for the whole run; each test makes a bucket of its own (`bucket`)."""
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> str:
    """An empty bucket."""
    import secrets

    return s3_server.make_bucket(f"bucket-{secrets.token_hex(6)}")
