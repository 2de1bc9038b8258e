"""The process around one C++ server.

It reads its launch specification (one line of JSON, the job's secret and key in it) from standard
input, serves, and ends when

- the coordinator asks for it, or nothing is heard from the coordinator any more,
- standard input closes, which means that whoever started this process has ended,
- SIGTERM arrives.

The log goes to standard error. C++ threads never take the GIL: Python waits here, and does the
storage's part of checkpoints (`checkpoint_jobs.py`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socketserver
import sys
from typing import TYPE_CHECKING, Any

from pyspark_ps.errors import PSError

if TYPE_CHECKING:
    from pyspark_ps import _core
    from pyspark_ps.placement.credentials import Credentials
    from pyspark_ps.server.checkpoint_jobs import CheckpointJobs

LAUNCH_LINE_BYTES_MAX = 1 << 20
# How late a signal or a closed standard input is noticed.
POLL_SECONDS = 0.25
TERM_GRACE_SECONDS = 5.0
JOB_END_SECONDS = 2.0

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

_logger = logging.getLogger("pyspark_ps.server")


def main() -> int:
    """Runs one server until it ends; the exit code of the process."""
    if len(sys.argv) > 1:
        from pyspark_ps.server import by_hand

        return by_hand.main(sys.argv[1:])
    if sys.stdin is None or sys.stdin.isatty():
        print(
            "without arguments this command is for PSMainClient.start_servers(); to start a server "
            "by hand: python -m pyspark_ps.server --help",
            file=sys.stderr,
        )
        return EXIT_USAGE
    terminated = _catch_signals()
    try:
        options, credentials, log_level = _read_launch()
    except ValueError as error:
        print(f"no launch specification on standard input: {error}", file=sys.stderr)
        return EXIT_USAGE
    logging.basicConfig(stream=sys.stderr, level=log_level, format="%(levelname)s %(message)s")
    try:
        return _serve({**options, "log_level": core_level(log_level)}, credentials, terminated)
    except PSError as error:
        _logger.error("server %s: %s", options.get("server_id"), error)
        return EXIT_FAILED
    finally:
        _remove_socket_folder(str(options.get("unix_dir", "")))


def _read_launch() -> tuple[dict[str, Any], Credentials, int]:
    from pyspark_ps.placement.credentials import Credentials

    line = sys.stdin.buffer.readline(LAUNCH_LINE_BYTES_MAX)
    if not line.endswith(b"\n"):
        raise ValueError("it ended early")
    launch = json.loads(line)
    credentials = Credentials.from_dict(launch["credentials"])
    return launch["options"], credentials, int(launch["log_level"])


def _catch_signals() -> list[int]:
    """A list that gets the number of a signal that asks for the end."""
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: terminated.append(number))
    # Ctrl-C is the driver's: it decides what becomes of its servers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return terminated


def _serve(options: dict[str, Any], credentials: Credentials, terminated: list[int]) -> int:
    from pyspark_ps.server.checkpoint_jobs import CheckpointJobs

    server, _ = start_server(options, credentials)
    name = f"server {options['server_id']}"
    _logger.info("%s listens on %s:%d", name, options["advertised_host"], server.port)
    jobs = CheckpointJobs(server.checkpoints(), int(options["server_id"]))
    while True:
        reason = server.wait_ended(POLL_SECONDS)
        if reason is not None:
            break
        if terminated:
            reason = f"signal {signal.Signals(terminated[0]).name}"
            server.stop(TERM_GRACE_SECONDS)
            break
        if _stdin_closed():
            reason = "the process that started it has ended"
            server.stop(0.0)
            break
    _logger.info("%s ends: %s", name, reason)
    end_jobs(jobs, str(options.get("unix_dir", "")), EXIT_OK)
    return EXIT_OK


def end_jobs(jobs: CheckpointJobs, socket_folder: str, exit_code: int) -> None:
    """Ends the jobs of a server that has ended; ends the process when they do not let themselves be
    ended: a storage that does not answer must not keep it."""
    if not jobs.end(JOB_END_SECONDS):
        _remove_socket_folder(socket_folder)
        logging.shutdown()
        os._exit(exit_code)


def core_level(level: int) -> str:
    """A level of `logging` as the core names it."""
    names = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning"}
    names[logging.ERROR] = "error"
    return next((name for known, name in names.items() if level <= known), "off")


def start_server(
    options: dict[str, Any], credentials: Credentials
) -> tuple[_core.Server, socketserver.BaseServer | None]:
    """The C++ server, and its Prometheus endpoint when `options` have a metrics_port.

    Raises:
        PSError: a port that cannot be had, a coordinator that cannot be reached.
    """
    from pyspark_ps import _core

    of_job = (credentials.secret, credentials.certificate, credentials.key)
    port = options.get("metrics_port")
    if port is None:
        return _core.Server(json.dumps(options), *of_job), None
    from pyspark_ps.server.metrics import serve_metrics

    # The endpoint comes first: the coordinator is told its port when the server registers.
    started: list[_core.Server] = []
    port, endpoint = serve_metrics(
        options["bind_host"], port, lambda: started[0].stats() if started else None
    )
    started.append(_core.Server(json.dumps({**options, "metrics_port": port}), *of_job))
    _logger.info("server %s: metrics on port %d", options["server_id"], port)
    return started[0], endpoint


def _stdin_closed() -> bool:
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and not os.read(0, 4096)


def _remove_socket_folder(folder: str) -> None:
    """The last server of a folder removes it; it is not empty for the others."""
    if folder:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
