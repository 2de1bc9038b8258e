"""Where a server is, and how to talk to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyspark_ps.communication._record import record_from_dict


class Secret(str):
    """A text that never prints itself: `str`, `repr` and `format` give `***`.

    It is a `str`, so that it travels wherever plain values do (pickle, dicts, JSON).
    """

    __slots__ = ()

    def reveal(self) -> str:
        """The text as a plain `str`."""
        return str.__str__(self)

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "'***'"

    def __format__(self, format_spec: str) -> str:
        return format("***", format_spec)


@dataclass
class ServerInfo:
    """One server of a cluster, as the driver announces it. Picklable.

    Attributes:
        server_id: 0 .. num_servers - 1.
        host, port: its TCP address.
        status: "running", "stopped", "lost" or "unknown".
        shard_range: lowest and highest partition that it holds.
        metadata: "coordinator" ("host:port"), "secret" (a `Secret`; prints as ***),
            "tls_fingerprint" (SHA-256 of the certificate that clients must be shown, hexadecimal;
            "" = no TLS), "incarnation" (hex), "unix_socket" (path or ""), "metrics_port" (of its
            Prometheus endpoint, or None).
    """

    server_id: int
    host: str
    port: int
    status: str = "unknown"
    shard_range: tuple[int, int] = (0, 0)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shard_range = (int(self.shard_range[0]), int(self.shard_range[1]))
        secret = self.metadata.get("secret")
        if isinstance(secret, str) and not isinstance(secret, Secret):
            self.metadata = {**self.metadata, "secret": Secret(secret)}

    @property
    def address(self) -> str:
        """ "host:port"; IPv6 addresses in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict that `from_dict` (and PSWorkerClient) takes; the secret is in it."""
        return {
            "server_id": self.server_id,
            "host": self.host,
            "port": self.port,
            "status": self.status,
            "shard_range": list(self.shard_range),
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ServerInfo:
        """The inverse of `to_dict`.

        Raises:
            InvalidArgumentError: unknown or missing keys.
        """
        return record_from_dict(cls, values)
