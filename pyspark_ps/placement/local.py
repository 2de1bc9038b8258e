"""Servers as children of the driver."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pyspark_ps.placement.launch import (
    LaunchSpec,
    ServerProcess,
    level_of,
    make_socket_folder,
    remove_socket_folder,
)
from pyspark_ps.utils.logging import get_logger

_logger = get_logger("pyspark_ps.server")


class LocalPlacement:
    """One child process per server. See `Placement` for the methods."""

    def __init__(self, specs: Sequence[LaunchSpec]) -> None:
        self._specs = list(specs)
        self._processes: list[ServerProcess] = []
        self._socket_folder = ""

    def start(self) -> None:
        if any(spec.use_unix_socket for spec in self._specs):
            self._socket_folder = make_socket_folder()
        for spec in self._specs:
            folder = self._socket_folder if spec.use_unix_socket else ""
            process = ServerProcess(spec.with_options(unix_dir=folder), _log)
            self._processes.append(process)

    def failures(self) -> dict[int, str]:
        return {
            process.server_id: process.describe_end()
            for process in self._processes
            if process.poll() is not None
        }

    def describe_missing(self, missing: Sequence[int]) -> str:
        pids = [process.pid for process in self._processes if process.server_id in missing]
        return f"processes {pids} run, but have not registered with the driver"

    def end(self, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        for process in self._processes:
            process.end(max(0.0, deadline - time.monotonic()))
        remove_socket_folder(self._socket_folder)
        self._processes = []


def _log(line: str) -> None:
    _logger.log(level_of(line), "%s", line)
