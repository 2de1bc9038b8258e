"""A server that is started by hand, or by a service manager, and that outlives drivers.

Server 0 also runs the coordinator. All servers and all drivers read the same configuration, a
`PSConfig` as JSON with placement "external". See docs/external-servers.md.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark_ps.errors import ConfigurationError, PSError
from pyspark_ps.utils.config import PSConfig

if TYPE_CHECKING:
    from pyspark_ps import _core

DESCRIPTION = """\
One parameter server of a cluster that is started by hand and outlives drivers. Start one process
for each of the configuration's server_addresses, all within 30 seconds; server 0 also runs the
coordinator. It ends on SIGTERM or Ctrl-C (server 0: and all others with it), and when server 0 has
gone.
"""
EPILOG = """\
cluster.json, the same file for servers and drivers (a PSConfig as JSON):

  {"placement": "external",
   "server_addresses": ["10.0.0.5:50000", "10.0.0.6:50000"],
   "secret_file": "/etc/pyspark-ps/secret",
   "embedding_dim": 16}

The secret:    openssl rand -hex 32 > /etc/pyspark-ps/secret; chmod 600 /etc/pyspark-ps/secret
On 10.0.0.5:   python -m pyspark_ps.server --config cluster.json --server-id 0
On 10.0.0.6:   python -m pyspark_ps.server --config cluster.json --server-id 1
In a driver:   PSMainClient(spark_context, PSConfig.from_json(open("cluster.json").read()))

Without arguments the command is for PSMainClient.start_servers(), which tells it the rest.
"""
POLL_SECONDS = 0.25
GRACE_SECONDS = 10.0
END_MARGIN_SECONDS = 5.0
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_logger = logging.getLogger("pyspark_ps.server")


def main(arguments: Sequence[str]) -> int:
    """Runs one server until it is told to end; the exit code of the process."""
    asked = _parse(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=asked.log_level.upper(), format="%(levelname)s %(message)s"
    )
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda caught, _frame: signals.append(caught))
    try:
        return _run(asked, signals)
    except ConfigurationError as error:
        _logger.error("%s: %s", asked.config, error)
        return EXIT_USAGE
    except PSError as error:
        _logger.error("server %d: %s", asked.server_id, error)
        return EXIT_FAILED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pyspark_ps.server",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the cluster's PSConfig as JSON"
    )
    parser.add_argument(
        "--server-id",
        type=int,
        required=True,
        metavar="N",
        help="which of server_addresses this one is, from 0",
    )
    parser.add_argument(
        "--coordinator-port",
        type=int,
        metavar="PORT",
        help="of the coordinator beside server 0, the same for all servers (default: the port of "
        "server 0 less one)",
    )
    parser.add_argument(
        "--bind",
        metavar="HOST",
        help="address to listen on; '' = all interfaces (default: PSConfig.server_host, else the "
        "host in server_addresses)",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="least severe messages on standard error (default: info)",
    )
    return parser.parse_args(arguments)


def _run(asked: argparse.Namespace, signals: list[int]) -> int:
    from pyspark_ps.placement.credentials import configured_credentials, uses_tls
    from pyspark_ps.placement.external import split_address
    from pyspark_ps.placement.launch import make_socket_folder, remove_socket_folder
    from pyspark_ps.placement.plan import server_options, start_coordinator
    from pyspark_ps.server.checkpoint_jobs import CheckpointJobs
    from pyspark_ps.server.host import end_jobs, start_server

    config = _read_config(asked.config)
    addresses = [split_address(address) for address in config.server_addresses]
    if not 0 <= asked.server_id < len(addresses):
        raise ConfigurationError(
            f"--server-id {asked.server_id}: there are {len(addresses)} server_addresses, numbered "
            "from 0"
        )
    config.num_servers = len(addresses)
    credentials = configured_credentials(config, uses_tls(None, config), serves=True)
    host, port = addresses[asked.server_id]
    bind = (config.server_host or host) if asked.bind is None else asked.bind
    coordinator_port = asked.coordinator_port or addresses[0][1] - 1
    coordinator: _core.Coordinator | None = None
    if asked.server_id == 0:
        coordinator = start_coordinator(
            config, credentials, (bind, host), coordinator_port, ports_tried_max=1
        )
    folder = make_socket_folder() if config.transport != "tcp" else ""
    first_host = f"[{addresses[0][0]}]" if ":" in addresses[0][0] else addresses[0][0]
    options = {
        **server_options(
            config, asked.server_id, f"{first_host}:{coordinator_port}", (bind, host), port
        ),
        "ports_tried_max": 1,
        "unix_dir": folder,
        "log_level": asked.log_level,
    }
    try:
        server, _ = start_server(options, credentials)
        _logger.info("server %d listens on %s:%d", asked.server_id, host, server.port)
        jobs = CheckpointJobs(server.checkpoints(), asked.server_id)
        reason = _wait(server, signals)
        if coordinator is not None:
            _end_all(coordinator)
        server.stop(GRACE_SECONDS)
        _logger.info("server %d ends: %s", asked.server_id, reason)
        # A service manager starts it again, unless it was told to end.
        exit_code = EXIT_OK if signals else EXIT_FAILED
        end_jobs(jobs, folder, exit_code)
        return exit_code
    finally:
        if coordinator is not None:
            coordinator.close()
        remove_socket_folder(folder)


def _read_config(path: Path) -> PSConfig:
    try:
        config = PSConfig.from_json(path.read_text())
    except OSError as error:
        raise ConfigurationError(str(error)) from error
    config.validate()
    if config.placement != "external":
        raise config.problem("placement", "'external' for servers that are started by hand")
    return config


def _wait(server: _core.Server, signals: list[int]) -> str:
    while True:
        reason = server.wait_ended(POLL_SECONDS)
        if reason is not None:
            return reason
        if signals:
            return f"signal {signal.Signals(signals[0]).name}"


def _end_all(coordinator: _core.Coordinator) -> None:
    try:
        coordinator.stop_servers(GRACE_SECONDS, GRACE_SECONDS + END_MARGIN_SECONDS)
    except PSError as error:
        _logger.warning("not all servers ended when asked to: %s", error)
