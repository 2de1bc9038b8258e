"""Barriers: meeting points of workers, where the driver does something while all of them wait.

    driver                                  workers
    barriers.create("epoch", 4)
    barriers.wait("epoch")                  worker.enter_barrier("epoch")
    ...                                     (blocked)
    barriers.release("epoch")               (go on)

The coordinator keeps them: nothing is asked for repeatedly, each wait is one request whose answer
is held back. A member is known by its `client_id`: entering again in the same round (a task that is
run again) joins the same wait. A member whose process dies ends the round for the others with
PSConnectionError within 10 s. After a release the name stands for the next round.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark_ps import _core
from pyspark_ps.client.initial_weights import is_number
from pyspark_ps.client.options import checked_config, checked_servers, client_options
from pyspark_ps.communication import ServerInfo
from pyspark_ps.errors import InvalidArgumentError, PSTimeoutError
from pyspark_ps.utils.config import PSConfig


class BarrierCoordinator:
    """The driver's side of barriers; `PSMainClient` has the same calls.

    Thread-safe. A context manager; `close` ends the waits of other threads with ClosedError.

    Args:
        server_info: of `PSMainClient.get_server_info()`; `ServerInfo` or their dicts.
        config: the cluster's, or its dict.

    Raises:
        ConfigurationError: a field of `config` is not valid.
        InvalidArgumentError: `server_info` is not that of a running cluster.
    """

    def __init__(
        self,
        server_info: Sequence[ServerInfo | Mapping[str, Any]],
        config: PSConfig | Mapping[str, Any],
    ) -> None:
        options = client_options(
            checked_servers(server_info), checked_config(config, "BarrierCoordinator")
        )
        self._core = _core.Client(*options)

    def __enter__(self) -> BarrierCoordinator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and all waits. May be called again."""
        self._core.close()

    def create(self, name: str, num_workers: int) -> None:
        """Makes a barrier for so many workers; the same again does nothing.

        Raises:
            InvalidArgumentError: it exists with another number, or a wrong name or number.
        """
        if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
            raise InvalidArgumentError(
                f"create_barrier: num_workers = {num_workers!r}: allowed is an integer >= 1"
            )
        request = {"op": "create_barrier", "name": checked_name(name), "num_workers": num_workers}
        self._core.control_coordinator(json.dumps(request))

    def wait(self, name: str, timeout_seconds: float = 300) -> bool:
        """Waits until all workers are in.

        Returns:
            True when they are, False on time-out.

        Raises:
            NotFoundError: there is no such barrier.
            PSConnectionError: a member died (told once), or the coordinator has gone.
        """
        if not is_number(timeout_seconds) or timeout_seconds < 0:
            raise InvalidArgumentError(
                f"wait_barrier: timeout_seconds = {timeout_seconds!r}: allowed is a number >= 0"
            )
        request = {
            "op": "wait_barrier",
            "name": checked_name(name),
            "timeout_seconds": float(timeout_seconds),
        }
        try:
            self._core.wait_at_coordinator(json.dumps(request), float(timeout_seconds))
        except PSTimeoutError:
            return False
        return True

    def release(self, name: str) -> None:
        """Lets those inside go, whether all are in or not.

        Raises:
            NotFoundError: there is no such barrier.
        """
        request = {"op": "release_barrier", "name": checked_name(name)}
        self._core.control_coordinator(json.dumps(request))


def enter(core: _core.Client, name: str, member: str, timeout_seconds: float) -> None:
    """The worker's side; see `PSWorkerClient.enter_barrier`."""
    if not is_number(timeout_seconds) or timeout_seconds <= 0:
        raise InvalidArgumentError(
            f"enter_barrier: timeout_seconds = {timeout_seconds!r}: allowed is a number > 0"
        )
    request = {
        "op": "enter_barrier",
        "name": checked_name(name),
        "member": member,
        # One call, however often its connection is made anew.
        "attempt": secrets.token_hex(8),
        "timeout_seconds": float(timeout_seconds),
    }
    core.wait_at_coordinator(json.dumps(request), float(timeout_seconds))


def checked_name(name: Any) -> str:
    """A barrier's name.

    Raises:
        InvalidArgumentError: not a non-empty string.
    """
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"a barrier's name is a non-empty string, not {name!r}")
    return name
