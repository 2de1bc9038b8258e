"""What tests of processes look at: who runs, and until when to wait."""

from __future__ import annotations

import time
from collections.abc import Callable

from pyspark_ps import PSMainClient


def pids_of(main: PSMainClient) -> list[int]:
    """Process ids of the servers, by server id."""
    running = main._running
    assert running is not None
    return [int(record["pid"]) for record in running.cluster.servers()]


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended (a zombie has)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Waits for a condition; False when it did not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
