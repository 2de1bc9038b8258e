"""What the processes of one job prove themselves by: the secret, and the certificate for TLS."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark_ps import _core
from pyspark_ps.errors import ConfigurationError
from pyspark_ps.utils.config import PSConfig
from pyspark_ps.utils.logging import get_logger

if TYPE_CHECKING:
    from pyspark import SparkContext

_logger = get_logger(__name__)

SECRET_BYTES = 32
SECRET_BYTES_MIN = 16
SECRET_FILE_BYTES_MAX = 4_096
# A chain of certificates; it travels in one line with all else that a server is told.
PEM_FILE_BYTES_MAX = 65_536

# Settings by which Spark encrypts its own traffic (not its files).
ENCRYPTING_SETTINGS = (
    "spark.network.crypto.enabled",
    "spark.authenticate.enableSaslEncryption",
    "spark.ssl.rpc.enabled",
    "spark.ssl.enabled",
)


@dataclass(frozen=True)
class Credentials:
    """Of one job. Picklable; prints nothing of it.

    Attributes:
        secret: proved by both sides of every connection.
        certificate: PEM, with the chain behind it; shown to clients. "" = no TLS.
        key: PEM, of the certificate; "" where nobody serves.
    """

    secret: bytes = field(repr=False)
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)

    @property
    def fingerprint(self) -> str:
        """By which clients know the certificate (SHA-256, hexadecimal); "" = no TLS."""
        return _core.certificate_fingerprint(self.certificate) if self.certificate else ""

    def to_dict(self) -> dict[str, str]:
        """What `from_dict` takes; JSON can hold it."""
        return {"secret": self.secret.hex(), "certificate": self.certificate, "key": self.key}

    @classmethod
    def from_dict(cls, values: Mapping[str, str]) -> Credentials:
        """The inverse of `to_dict`."""
        return cls(bytes.fromhex(values["secret"]), values["certificate"], values["key"])


def new_credentials(config: PSConfig, tls: bool) -> Credentials:
    """A fresh secret; with `tls` the configured certificate, else one made for the job.

    Raises:
        ConfigurationError: a file that cannot serve, named.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    if not tls:
        return Credentials(secret)
    if not config.tls_cert_file:
        return Credentials(secret, *_core.make_certificate())
    return Credentials(secret, _read_certificate(config), _read_key(config))


def configured_credentials(config: PSConfig, tls: bool, serves: bool) -> Credentials:
    """Of servers that are started by hand: `secret_file`, and with `tls` the configured
    certificate, with its key where the process `serves`.

    Raises:
        ConfigurationError: a file that cannot serve, named.
    """
    secret = read_secret(config)
    if not tls:
        return Credentials(secret)
    if serves and not config.tls_key_file:
        raise config.problem("tls_key_file", "the PEM file of tls_cert_file's key, on servers")
    certificate = _read_certificate(config)
    return Credentials(secret, certificate, _read_key(config) if serves else "")


def uses_tls(spark_context: SparkContext | None, config: PSConfig) -> bool:
    """Whether the cluster's TCP connections are encrypted.

    Raises:
        ConfigurationError: they would have to be, but servers that are started by hand have no
            certificate.
    """
    if config.tls != "auto":
        return config.tls == "on"
    if config.tls_cert_file:
        return True
    setting = _encrypting_setting(spark_context)
    if setting and config.placement == "external":
        raise config.problem(
            "tls_cert_file",
            f"the PEM file of the servers' certificate, as {setting} is true; tls='off' goes on "
            "without encryption",
        )
    return setting is not None


def read_secret(config: PSConfig) -> bytes:
    """The secret in `config.secret_file`, white space around it left out.

    Raises:
        ConfigurationError: the file cannot be read, or holds no secret of at least 16 bytes.
    """
    secret = _read_file(config, "secret_file", SECRET_FILE_BYTES_MAX, is_private=True).strip()
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigurationError(
            f"PSConfig.secret_file = {config.secret_file!r} holds {len(secret)} bytes: allowed are "
            f"{SECRET_BYTES_MIN} to {SECRET_FILE_BYTES_MAX} (e.g. of 'openssl rand -hex 32')"
        )
    return secret


def _encrypting_setting(spark_context: SparkContext | None) -> str | None:
    if spark_context is None:
        return None
    conf = spark_context.getConf()
    on = (s for s in ENCRYPTING_SETTINGS if str(conf.get(s, "false")).lower() == "true")
    return next(on, None)


def _read_certificate(config: PSConfig) -> str:
    certificate = _read_pem(config, "tls_cert_file", is_private=False)
    _naming(config, "tls_cert_file", lambda: _core.certificate_fingerprint(certificate))
    return certificate


def _read_key(config: PSConfig) -> str:
    certificate = _read_certificate(config)
    key = _read_pem(config, "tls_key_file", is_private=True)
    _naming(config, "tls_key_file", lambda: _core.check_certificate_key(certificate, key))
    return key


def _naming(config: PSConfig, field_name: str, check: Callable[[], Any]) -> None:
    """Errors of `check` name the field and its file."""
    try:
        check()
    except ConfigurationError as error:
        shown = getattr(config, field_name)
        raise ConfigurationError(f"PSConfig.{field_name} = {shown!r}: {error}") from None


def _read_pem(config: PSConfig, field_name: str, is_private: bool) -> str:
    # What is not text is no PEM either; the check that follows says so.
    content = _read_file(config, field_name, PEM_FILE_BYTES_MAX, is_private)
    return content.decode("ascii", errors="replace")


def _read_file(config: PSConfig, field_name: str, bytes_max: int, is_private: bool) -> bytes:
    shown = str(getattr(config, field_name))
    path = Path(shown).expanduser()
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigurationError(f"PSConfig.{field_name}: {error}") from error
    if len(content) > bytes_max:
        raise ConfigurationError(
            f"PSConfig.{field_name} = {shown!r} holds more than {bytes_max} bytes, the most allowed"
        )
    if is_private and mode & 0o077:
        _logger.warning("%s %s can be read by others (mode %o): chmod 600", field_name, path, mode)
    return content
