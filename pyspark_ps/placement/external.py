"""Servers that were started by hand: a driver connects to them and leaves them running.

The coordinator lives in the process of server 0. See docs/external-servers.md.
"""

from __future__ import annotations

import json
from typing import Any

from pyspark_ps import _core
from pyspark_ps.client.options import core_options
from pyspark_ps.errors import ConfigurationError, InvalidArgumentError, PSConnectionError
from pyspark_ps.placement.credentials import Credentials
from pyspark_ps.placement.definitions import optimizer_definition, table_definition
from pyspark_ps.utils.config import PSConfig
from pyspark_ps.utils.logging import get_logger
from pyspark_ps.utils.sharding import PARTITION_COUNT

_logger = get_logger(__name__)


class ExternalCluster:
    """The part of `Cluster` that a driver needs of servers that it did not start.

    Args:
        config: with `server_addresses`.
        credentials: of the servers; the key is not needed.
    """

    final_status = "unknown"

    def __init__(self, config: PSConfig, credentials: Credentials) -> None:
        self._config = config
        self._credentials = credentials
        self._client: _core.Client | None = None
        self._records: list[dict[str, Any]] = []
        self.coordinator_address = ""

    def start(self, timeout_seconds: float) -> None:
        """Connects, and declares the configuration's tables where they do not exist yet.

        Raises:
            PSConnectionError: a server that cannot be reached, or is lost.
            AuthenticationError: the servers know another secret.
            ConfigurationError: the servers run with another configuration, e.g. without TLS.
        """
        config = self._config.replace(
            timeout_seconds=min(self._config.timeout_seconds, timeout_seconds)
        )
        hosts = [split_address(address) for address in config.server_addresses]
        servers = [
            {"server_id": server_id, "host": host, "port": port}
            for server_id, (host, port) in enumerate(hosts)
        ]
        secret, fingerprint = self._credentials.secret, self._credentials.fingerprint
        options = core_options(servers, "", fingerprint, config)
        first = _core.Client(json.dumps(options), secret)
        try:
            described = json.loads(first.control_server(0, json.dumps({"op": "describe"})))
        finally:
            first.close()
        self.coordinator_address = str(described["coordinator"])
        options = core_options(servers, self.coordinator_address, fingerprint, config)
        self._client = _core.Client(json.dumps(options), secret)
        try:
            self._records = self._ask()
            self._check_running()
            self._check_definition(described["definition"])
            self._declare_tables()
        except BaseException:
            self.end(0.0)
            raise

    def servers(self) -> list[dict[str, Any]]:
        """Record of each server, by id. When the coordinator has gone, all are lost."""
        try:
            self._records = self._ask()
        except PSConnectionError as error:
            _logger.warning("the coordinator of the external servers does not answer: %s", error)
            self._records = [{**record, "state": "lost"} for record in self._records]
        return self._records

    def definition(self) -> dict[str, Any]:
        """Tables, dense tensors and the partition map."""
        client = self._connected()
        client.refresh()
        definition: dict[str, Any] = json.loads(client.definition())
        return definition

    def end(self, grace_seconds: float) -> None:
        """Disconnects; the servers stay."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> _core.Client:
        assert self._client is not None
        return self._client

    def _ask(self) -> list[dict[str, Any]]:
        reply = self._connected().control_coordinator(json.dumps({"op": "servers"}))
        records: list[dict[str, Any]] = json.loads(reply)["servers"]
        return sorted(records, key=lambda record: int(record["server_id"]))

    def _check_running(self) -> None:
        states = {int(record["server_id"]): str(record["state"]) for record in self._records}
        missing = [
            f"{server} ({states.get(server, 'not registered')})"
            for server in range(len(self._config.server_addresses))
            if states.get(server) != "running"
        ]
        if missing:
            raise PSConnectionError(
                f"of {len(self._config.server_addresses)} external servers, these do not serve: "
                f"{', '.join(missing)}; the coordinator is at {self.coordinator_address}. After "
                "the loss of a server all of them have to be started again"
            )

    def _check_definition(self, running: dict[str, Any]) -> None:
        config = self._config
        params = config.get_optimizer_config(config.weight_optimizer)
        owners = _core.partition_owners(
            len(config.server_addresses), config.virtual_nodes_per_server, PARTITION_COUNT
        )
        compared: dict[str, tuple[Any, Any]] = {
            "seed": (config.seed, running["seed"]),
            "weight_optimizer": (
                optimizer_definition(config.weight_optimizer, params),
                running["weight_optimizer"],
            ),
            "weight_replicas": (
                min(config.weight_replicas, len(config.server_addresses)),
                running["weight_replicas"],
            ),
            "virtual_nodes_per_server": (owners.tolist(), running["map"]["owner"]),
        }
        for field, (wanted, found) in compared.items():
            if wanted != found:
                detail = "" if field.startswith("virtual") else f" ({found!r}, not {wanted!r})"
                raise ConfigurationError(
                    f"PSConfig.{field} = {getattr(config, field)!r}: the external servers run with "
                    f"another value{detail}; give drivers the configuration that the servers were "
                    "started with"
                )

    def _declare_tables(self) -> None:
        for name, table in self._config.all_tables().items():
            request = {"op": "create_table", "table": table_definition(name, table)}
            try:
                self._connected().control_coordinator(json.dumps(request))
            except InvalidArgumentError as error:
                raise ConfigurationError(
                    f"table {name!r} of the configuration is not the one of the external servers: "
                    f"{error}"
                ) from error


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port"; an IPv6 host stands in brackets.

    Raises:
        ConfigurationError: it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= 65_535:
        raise ConfigurationError(
            f"PSConfig.server_addresses: {address!r}: allowed is 'host:port' with a port of 1 to "
            "65535"
        )
    return host.strip("[]"), int(port)
