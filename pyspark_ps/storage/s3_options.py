"""How a bucket is reached: from the configuration, Spark's own settings and the environment."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyspark_ps.communication._record import record_from_dict

if TYPE_CHECKING:
    from pyspark_ps.utils.config import PSConfig

_DEFAULT_REGION = "us-east-1"
# Parts of an upload, and of what is read ahead of it; S3 takes 10,000 parts of at least 5 MiB.
PART_BYTES = 8 << 20

_AWS_ENDPOINT = re.compile(r"https?://s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com/?")


@dataclass(frozen=True)
class S3Options:
    """Endpoint, region, credentials and transfer settings of one bucket. Picklable.

    Without credentials both boto3 and pyarrow look for them where the AWS tools do (environment,
    shared files, the machine's role), in each process by itself.

    Attributes:
        endpoint_url: None = AWS.
        path_style: None = virtual-host addressing on AWS, path style on any other endpoint.
        anonymous: requests are not signed.
        multipart_threshold: bytes from which an upload goes in parts.
        max_concurrency: parts under way at once, in one process and location.
    """

    endpoint_url: str | None = None
    region: str = _DEFAULT_REGION
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    path_style: bool | None = None
    anonymous: bool = False
    multipart_threshold: int = 8 << 20
    max_concurrency: int = 10

    @classmethod
    def resolve(
        cls,
        bucket: str,
        config: PSConfig | Mapping[str, Any] | None = None,
        spark_hadoop: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> S3Options:
        """What holds for `bucket`; the first that says something wins.

        1. `config`: a PSConfig (s3_endpoint_url, s3_region unless it is the default,
           s3_multipart_threshold, s3_max_concurrency), or a dict of endpoint_url, region,
           access_key, secret_key, session_token.
        2. `spark_hadoop`: Hadoop settings, `fs.s3a.bucket.<bucket>.X` before `fs.s3a.X`, with or
           without `spark.hadoop.` in front: endpoint, endpoint.region, access.key, secret.key,
           session.token, path.style.access, connection.ssl.enabled and an anonymous
           aws.credentials.provider.
        3. The environment: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION,
           AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN.
        """
        layers = [
            _from_config(config),
            _from_hadoop(bucket, spark_hadoop or {}),
            _from_environment(os.environ if environ is None else environ),
        ]
        values: dict[str, Any] = {}
        for layer in layers:
            # A key of one source never meets the secret of another.
            if values.get("access_key") or values.get("anonymous"):
                for name in ("access_key", "secret_key", "session_token", "anonymous"):
                    layer.pop(name, None)
            for name, value in layer.items():
                values.setdefault(name, value)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold, credentials included: for authenticated channels only."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> S3Options:
        """The inverse of `to_dict`.

        Raises:
            InvalidArgumentError: unknown keys.
        """
        return record_from_dict(cls, values)

    @property
    def secrets(self) -> list[str]:
        """What must never be shown."""
        return [text for text in (self.secret_key, self.session_token, self.access_key) if text]

    @property
    def uses_path_style(self) -> bool:
        """`path_style`, decided."""
        return self.endpoint_url is not None if self.path_style is None else self.path_style

    def arrow_arguments(self) -> dict[str, Any]:
        """Arguments of `pyarrow.fs.S3FileSystem`."""
        scheme, _, host = (self.endpoint_url or "").rpartition("://")
        arguments: dict[str, Any] = {
            "region": self.region,
            "endpoint_override": host or None,
            "scheme": scheme or None,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "session_token": self.session_token,
            "force_virtual_addressing": bool(host) and not self.uses_path_style,
            "connect_timeout": 10.0,
        }
        if self.anonymous:
            arguments["anonymous"] = True
        return {name: value for name, value in arguments.items() if value is not None}

    def client(self) -> Any:
        """A boto3 client; thread-safe."""
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        # Other stores do not all know the checksums that AWS has added to its protocol.
        checksums: Any = "when_required" if self.endpoint_url else "when_supported"
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 5},
            max_pool_connections=max(10, self.max_concurrency + 2),
            s3={"addressing_style": "path" if self.uses_path_style else "auto"},
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            **({"signature_version": UNSIGNED} if self.anonymous else {}),
        )
        session = boto3.session.Session()
        return session.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            aws_session_token=self.session_token,
            config=config,
        )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "")}


def _from_config(config: PSConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return _given(config)
    region = config.s3_region
    return _given(
        {
            "endpoint_url": config.s3_endpoint_url,
            "region": None if region == _DEFAULT_REGION else region,
            "multipart_threshold": config.s3_multipart_threshold,
            "max_concurrency": config.s3_max_concurrency,
        }
    )


def _from_hadoop(bucket: str, settings: Mapping[str, str]) -> dict[str, Any]:
    def value(name: str) -> str | None:
        for key in (f"fs.s3a.bucket.{bucket}.{name}", f"fs.s3a.{name}"):
            for full in (f"spark.hadoop.{key}", key):
                if settings.get(full, "").strip():
                    return settings[full].strip()
        return None

    endpoint = value("endpoint")
    if endpoint and "://" not in endpoint:
        plain = (value("connection.ssl.enabled") or "true").lower() == "false"
        endpoint = f"{'http' if plain else 'https'}://{endpoint}"
    aws = _AWS_ENDPOINT.fullmatch(endpoint or "")
    if aws:
        endpoint = None  # boto3 and pyarrow know where AWS is, by region
    # "false" is Hadoop's default, which Spark hands over as well: it says nothing.
    path_style = (value("path.style.access") or "").lower() == "true"
    provider = value("aws.credentials.provider") or ""
    return _given(
        {
            "endpoint_url": endpoint,
            "region": value("endpoint.region") or (aws and aws["region"]),
            "access_key": value("access.key"),
            "secret_key": value("secret.key"),
            "session_token": value("session.token"),
            "path_style": True if path_style else None,
            "anonymous": True if "AnonymousAWSCredentialsProvider" in provider else None,
        }
    )


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    return _given(
        {
            "endpoint_url": environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL"),
            "region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"),
            "access_key": environ.get("AWS_ACCESS_KEY_ID"),
            "secret_key": environ.get("AWS_SECRET_ACCESS_KEY"),
            "session_token": environ.get("AWS_SESSION_TOKEN"),
        }
    )
