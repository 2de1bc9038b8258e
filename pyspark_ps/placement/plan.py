"""From a configuration to a cluster: who runs where, and what each process is told."""

from __future__ import annotations

import json
import logging
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyspark_ps import _core
from pyspark_ps.client.options import FRAME_BYTES_MAX
from pyspark_ps.placement import executors
from pyspark_ps.placement.cluster import Cluster, Placement
from pyspark_ps.placement.credentials import (
    Credentials,
    configured_credentials,
    new_credentials,
    uses_tls,
)
from pyspark_ps.placement.definitions import optimizer_definition, table_definition
from pyspark_ps.placement.external import ExternalCluster
from pyspark_ps.placement.launch import LaunchSpec
from pyspark_ps.placement.local import LocalPlacement
from pyspark_ps.utils.config import PSConfig
from pyspark_ps.utils.sharding import PARTITION_COUNT

if TYPE_CHECKING:
    from pyspark import SparkContext

LOOPBACK = "127.0.0.1"


def resolve_placement(spark_context: SparkContext | None, config: PSConfig) -> str:
    """ "local", "executors" or "external".

    Raises:
        ConfigurationError: executors without a SparkContext.
    """
    if config.placement == "auto":
        on_driver = spark_context is None or executors.is_local(spark_context)
        return "local" if on_driver else "executors"
    if config.placement == "executors" and spark_context is None:
        raise config.problem("placement", "'local' or 'auto' without a SparkContext")
    return config.placement


def make_cluster(
    spark_context: SparkContext | None,
    config: PSConfig,
    beside_driver: Callable[[list[LaunchSpec]], Placement] = LocalPlacement,
) -> tuple[Cluster | ExternalCluster, Credentials]:
    """A cluster that has not been started yet, and what its processes prove themselves by. Its
    coordinator listens already, unless that is another process's ("external").

    `beside_driver` makes the placement of servers that run on the driver's host.

    Raises:
        ConfigurationError: a file of the configuration that cannot be used, named.
    """
    tls = uses_tls(spark_context, config)
    placement_name = resolve_placement(spark_context, config)
    if placement_name == "external":
        credentials = configured_credentials(config, tls, serves=False)
        return ExternalCluster(config, credentials), credentials
    credentials = new_credentials(config, tls)
    if placement_name == "local":
        coordinator = start_coordinator(config, credentials, _local_addresses(config), port_base=0)
        specs = _launch_specs(config, credentials, coordinator.address, _local_addresses(config))
        placement = beside_driver(specs)
    else:
        assert spark_context is not None
        conf = spark_context.getConf()
        driver = (
            str(conf.get("spark.driver.bindAddress", "") or ""),
            str(conf.get("spark.driver.host", "") or socket.getfqdn()),
        )
        # The port is predictable, as the servers' are: drivers behind a firewall open a range.
        coordinator = start_coordinator(config, credentials, driver, config.server_port_base)
        host = config.server_host or ""
        specs = _launch_specs(config, credentials, coordinator.address, (host, host))
        placement = executors.ExecutorPlacement(
            spark_context, specs, secrets.token_hex(4), lambda: _lost_servers(coordinator), config
        )
    return Cluster(coordinator, placement, config.num_servers), credentials


def start_coordinator(
    config: PSConfig,
    credentials: Credentials,
    addresses: tuple[str, str],
    port_base: int,
    **more_options: Any,
) -> _core.Coordinator:
    """A coordinator that listens.

    Args:
        addresses: (bind, announced).
        port_base: first port to try; 0 = ephemeral.
        more_options: of the core's `CoordinatorOptions`.
    """
    bind_host, advertised_host = addresses
    weight_params = config.get_optimizer_config(config.weight_optimizer)
    options = {
        "bind_host": bind_host,
        "advertised_host": advertised_host,
        "port_base": port_base,
        "server_count": config.num_servers,
        "virtual_nodes": config.virtual_nodes_per_server,
        "partition_count": PARTITION_COUNT,
        "weight_replicas": min(config.weight_replicas, config.num_servers),
        "seed": config.seed,
        "weight_optimizer": optimizer_definition(config.weight_optimizer, weight_params),
        "tables": [table_definition(name, table) for name, table in config.all_tables().items()],
        "timeout_seconds": config.timeout_seconds,
        "driver_silence_seconds": config.driver_silence_seconds,
        **more_options,
    }
    of_job = (credentials.secret, credentials.certificate, credentials.key)
    return _core.Coordinator(json.dumps(options), *of_job)


def server_options(
    config: PSConfig, server_id: int, coordinator: str, addresses: tuple[str, str], port_base: int
) -> dict[str, Any]:
    """The core's `ServerOptions` of one server, but for its credentials."""
    bind_host, advertised_host = addresses
    options = {
        "server_id": server_id,
        "bind_host": bind_host,
        "advertised_host": advertised_host,
        "port_base": port_base,
        "shard_threads": config.num_worker_threads,
        "rows_max": config.max_embeddings_per_shard,
        "message_bytes_max": min(config.max_message_size, FRAME_BYTES_MAX),
        "compression": config.compression_algorithm if config.compression else "none",
        "coordinator": coordinator,
        "driver_silence_seconds": config.driver_silence_seconds,
        "unix_dir": "",
    }
    if config.metrics_port is not None:
        options["metrics_port"] = _port_base(config.metrics_port, server_id)
    return options


def _launch_specs(
    config: PSConfig, credentials: Credentials, coordinator: str, addresses: tuple[str, str]
) -> list[LaunchSpec]:
    level = logging.getLogger("pyspark_ps.server").getEffectiveLevel()
    return [
        LaunchSpec(
            server_id=server_id,
            options=server_options(
                config,
                server_id,
                coordinator,
                addresses,
                _port_base(config.server_port_base, server_id),
            ),
            credentials=credentials,
            use_unix_socket=config.transport != "tcp",
            log_level=level,
        )
        for server_id in range(config.num_servers)
    ]


def _port_base(base: int, server_id: int) -> int:
    """Where server `server_id` begins to look for a free port."""
    return base + server_id if 0 < base <= 65_535 - server_id else base


def _local_addresses(config: PSConfig) -> tuple[str, str]:
    """(bind, announced) address of processes beside the driver."""
    host = config.server_host or LOOPBACK
    return host, socket.getfqdn() if host in ("0.0.0.0", "::") else host


def _lost_servers(coordinator: _core.Coordinator) -> set[int]:
    records = json.loads(coordinator.servers())
    return {int(record["server_id"]) for record in records if record["state"] == "lost"}
