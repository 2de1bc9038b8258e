"""Jobs that run on all servers at once, as their driver follows them."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyspark_ps import _core, errors
from pyspark_ps.errors import PSError

POLL_SECONDS_MIN = 0.01
POLL_SECONDS_MAX = 0.1
# How long servers may take to drop a job after another one has failed.
CANCEL_SECONDS = 30.0

Progress = Callable[[Mapping[str, int]], None]


def run_on_all(
    client: _core.Client, tasks: Sequence[Mapping[str, Any]], progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Gives server i `tasks[i]` and waits for all of them.

    Args:
        progress: gets the servers' numbers, added up, now and then.

    Returns:
        The results, by server.

    Raises:
        PSError: the first failure, of its own class, naming the server; the other servers have
            dropped their part by then.
        PSConnectionError: a server that does not answer any more.
    """
    name = secrets.token_hex(8)
    try:
        for server, task in enumerate(tasks):
            _call(client, server, {"op": "checkpoint_start", "job": name, "task": task})
        return _wait(client, name, len(tasks), progress)
    except BaseException:
        _cancel(client, name, len(tasks))
        raise


def _call(client: _core.Client, server: int, request: Mapping[str, Any]) -> dict[str, Any]:
    reply: dict[str, Any] = json.loads(client.control_server(server, json.dumps(request)))
    return reply


def _wait(
    client: _core.Client, name: str, servers: int, progress: Progress | None
) -> list[dict[str, Any]]:
    statuses: list[dict[str, Any]] = [{}] * servers
    pause = POLL_SECONDS_MIN
    while True:
        for server in range(servers):
            if "result" not in statuses[server]:
                status = _call(client, server, {"op": "checkpoint_status", "job": name})
                _raise_failure(server, status)
                statuses[server] = status
        if progress is not None:
            progress(_sum(status["progress"] for status in statuses))
        if all("result" in status for status in statuses):
            return [status["result"] for status in statuses]
        time.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS_MAX)


def _raise_failure(server: int, status: Mapping[str, Any]) -> None:
    if status["state"] == "failed":
        error = status["error"]
        kind = getattr(errors, str(error["class"]), PSError)
        raise kind(f"server {server}: {error['message']}")
    if status["state"] == "cancelled":
        raise PSError(f"server {server} has dropped the job")


def _cancel(client: _core.Client, name: str, servers: int) -> None:
    """Tells every server that can still be reached, and waits until none works on the job."""
    deadline = time.monotonic() + CANCEL_SECONDS
    for server in range(servers):
        with contextlib.suppress(PSError):  # it is gone, or never got the job
            _call(client, server, {"op": "checkpoint_cancel", "job": name})
            state = "running"
            while state == "running" and time.monotonic() < deadline:
                state = _call(client, server, {"op": "checkpoint_status", "job": name})["state"]
                time.sleep(POLL_SECONDS_MIN)


def _sum(parts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + int(value)
    return total
