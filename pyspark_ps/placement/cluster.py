"""A running cluster: the coordinator in this process, and the servers that a placement started."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

from pyspark_ps import _core
from pyspark_ps.errors import PSError, PSTimeoutError
from pyspark_ps.utils.logging import get_logger

_logger = get_logger(__name__)

START_POLL_SECONDS = 0.2
# What ending takes beyond the grace that was asked for: noticing, joining threads, exiting.
END_MARGIN_SECONDS = 5.0


class Placement(Protocol):
    """Runs the servers of one cluster."""

    def start(self) -> None:
        """Starts all servers; does not wait for them."""

    def failures(self) -> dict[int, str]:
        """Servers whose process has ended -> how."""

    def describe_missing(self, missing: Sequence[int]) -> str:
        """Why servers that did not fail may not have registered, and what to do."""

    def end(self, wait_seconds: float) -> None:
        """Waits so long for servers to end by themselves, then ends them by force. Idempotent."""


class Cluster:
    """The coordinator and the servers; ended once.

    Args:
        coordinator: already listening.
        placement: not started yet.
        server_count: servers to wait for.
    """

    # Of its servers after `end`.
    final_status = "stopped"

    def __init__(
        self, coordinator: _core.Coordinator, placement: Placement, server_count: int
    ) -> None:
        self.coordinator = coordinator
        self._placement = placement
        self._server_count = server_count
        self._owner_pid = os.getpid()
        self._ended = False
        self.coordinator_address = coordinator.address

    def start(self, timeout_seconds: float) -> None:
        """Starts the servers and waits until all serve; ends everything when that fails.

        Raises:
            PSError: a server ended before it served (its last words are in the message).
            PSTimeoutError: not all servers registered in time.
        """
        try:
            self._placement.start()
            self._wait_running(time.monotonic() + timeout_seconds, timeout_seconds)
        except BaseException:
            self.end(grace_seconds=0.0)
            raise

    def servers(self) -> list[dict[str, Any]]:
        """Record of each server as the coordinator knows it, by id."""
        records: list[dict[str, Any]] = json.loads(self.coordinator.servers())
        return sorted(records, key=lambda record: int(record["server_id"]))

    def definition(self) -> dict[str, Any]:
        """Tables, dense tensors and the partition map."""
        definition: dict[str, Any] = json.loads(self.coordinator.definition())
        return definition

    def end(self, grace_seconds: float) -> None:
        """Asks the servers to end, ends them by force after the grace, and stops listening.

        Does nothing in a process that was forked from the one that started the cluster.
        """
        if self._ended or os.getpid() != self._owner_pid:
            return
        self._ended = True
        try:
            self.coordinator.stop_servers(grace_seconds, grace_seconds + END_MARGIN_SECONDS)
        except PSError as error:
            _logger.warning("not all servers ended when asked to: %s", error)
        try:
            self._placement.end(END_MARGIN_SECONDS)
        finally:
            self.coordinator.close()

    def _wait_running(self, deadline: float, timeout_seconds: float) -> None:
        while True:
            try:
                self.coordinator.wait_running(START_POLL_SECONDS)
                return
            except PSTimeoutError:
                pass
            for server, how in self._placement.failures().items():
                raise PSError(f"server {server} ended before it served: {how}")
            if time.monotonic() >= deadline:
                running = {r["server_id"] for r in self.servers() if r["state"] == "running"}
                missing = sorted(set(range(self._server_count)) - running)
                raise PSTimeoutError(
                    f"{len(missing)} of {self._server_count} servers did not start within "
                    f"{timeout_seconds:g} s (servers {missing}): "
                    f"{self._placement.describe_missing(missing)}"
                )
