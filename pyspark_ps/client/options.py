"""From what the driver announces to what the core's client takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pyspark_ps.communication import Secret, ServerInfo
from pyspark_ps.errors import ConfigurationError, InvalidArgumentError
from pyspark_ps.utils.config import PSConfig

# Largest payload of a frame (limits::kFramePayloadBytesMax).
FRAME_BYTES_MAX = 256 << 20


def checked_config(config: PSConfig | Mapping[str, Any], taker: str) -> PSConfig:
    """A copy of the configuration, or of what its `to_dict()` gave.

    Raises:
        ConfigurationError: neither of the two, or a field is not valid; `taker` is the class that
            was to be made with it.
    """
    if isinstance(config, Mapping):
        config = PSConfig.from_dict(dict(config))
    if not isinstance(config, PSConfig):
        raise ConfigurationError(f"{taker} takes a PSConfig or its dict, not {config!r}")
    config.validate()
    return PSConfig.from_dict(config.to_dict())


def checked_servers(server_info: Any) -> list[ServerInfo]:
    """The servers by id.

    Raises:
        InvalidArgumentError: not a list of ServerInfo (or of their dicts), none, or ids that are
            not 0 .. n-1.
    """
    if isinstance(server_info, (ServerInfo, Mapping, str)) or not isinstance(server_info, Iterable):
        raise InvalidArgumentError(
            f"server_info is the list of get_server_info(), not {type(server_info).__name__}"
        )
    infos = []
    for item in server_info:
        info = ServerInfo.from_dict(item) if isinstance(item, Mapping) else item
        if not isinstance(info, ServerInfo):
            raise InvalidArgumentError(f"server_info holds {type(info).__name__}, not ServerInfo")
        infos.append(info)
    infos.sort(key=lambda info: info.server_id)
    ids = [info.server_id for info in infos]
    if not ids or ids != list(range(len(ids))):
        raise InvalidArgumentError(
            f"server_info has the servers {ids}; all of a running cluster are needed, 0 .. n-1 "
            "(it is empty before start_servers())"
        )
    return infos


def client_options(infos: list[ServerInfo], config: PSConfig) -> tuple[str, bytes]:
    """Options as JSON, and the secret apart from them. TLS or not is the servers' word.

    Raises:
        InvalidArgumentError: the job's secret is missing.
        ConfigurationError: tls="on", and the servers are without.
    """
    secret = infos[0].metadata.get("secret")
    if not isinstance(secret, Secret):
        raise InvalidArgumentError(
            "server_info lacks the job's secret (metadata['secret']); take it from "
            "PSMainClient.get_server_info()"
        )
    coordinator = str(infos[0].metadata.get("coordinator", ""))
    fingerprint = str(infos[0].metadata.get("tls_fingerprint", ""))
    if config.tls == "on" and not fingerprint:
        raise ConfigurationError(
            "PSConfig.tls = 'on', but the servers were started without TLS (server_info has no "
            "metadata['tls_fingerprint']); it is their driver's configuration that decides"
        )
    servers = [_address(info) for info in infos]
    options = core_options(servers, coordinator, fingerprint, config)
    try:
        return json.dumps(options), bytes.fromhex(secret.reveal())
    except ValueError:
        raise InvalidArgumentError("metadata['secret'] of server_info is not hexadecimal") from None


def core_options(
    servers: list[dict[str, Any]], coordinator: str, tls_fingerprint: str, config: PSConfig
) -> dict[str, Any]:
    """Options of the core's client, but for the secret. tls_fingerprint "" = no TLS."""
    return {
        "servers": servers,
        "coordinator": coordinator,
        "tls_fingerprint": tls_fingerprint,
        "timeout_seconds": float(config.timeout_seconds),
        "driver_silence_seconds": float(config.driver_silence_seconds),
        "batch_size": int(config.batch_size),
        "max_message_size": min(int(config.max_message_size), FRAME_BYTES_MAX),
        "transport": config.transport,
        "compression": config.compression_algorithm if config.compression else "none",
    }


def _address(info: ServerInfo) -> dict[str, Any]:
    return {
        "server_id": int(info.server_id),
        "host": str(info.host),
        "port": int(info.port),
        "unix_path": str(info.metadata.get("unix_socket", "")),
        "incarnation": int(str(info.metadata.get("incarnation", "0")), 16),
    }
