"""Contestants of a comparison: processes that do a pass of the work whenever they are told to.

The standard library alone: a peer's environment has nothing of ours. Contestants are told in turn,
so that a noisy machine disturbs all alike; who waits for its turn does nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MARK = "passes: "
ROOT = Path(__file__).parent.parent.parent


def serve(runs: Mapping[str, Callable[[], object]]) -> None:
    """In the contestant's process: does what its parent names, until the parent ends.

    A dict (of plain values) that a run returns is told to the parent.
    """
    print(f"{MARK}ready", flush=True)
    for line in sys.stdin:
        told = runs[line.strip()]()
        print(f"{MARK}done {json.dumps(told if isinstance(told, dict) else {})}", flush=True)


class ContestantFailed(RuntimeError):
    """A contestant ended; the message has its last lines."""


class Contestant:
    """The process that `command` starts; ready when this returns.

    Attributes:
        told: what its last run returned.

    Raises:
        ContestantFailed: it ended before it was ready; later, amid a run.
    """

    def __init__(self, *command: str, **environment: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.told: dict[str, Any] = {}
        self._await("ready")

    def run(self, name: str) -> float:
        """Seconds of one pass."""
        assert self._process.stdin is not None
        began = time.perf_counter()
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        told = self._await("done")
        seconds = time.perf_counter() - began
        self.told = json.loads(told)
        return seconds

    def close(self) -> None:
        """Ends the process: its standard input closes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _await(self, word: str) -> str:
        """What follows the mark and the word on their line."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK + word):
                return line[len(MARK + word) :].strip()
        self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        self.close()
        raise ContestantFailed("; ".join(lines[-3:]) or "it ended and said nothing")


def in_turns(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """{name: seconds of each round}, after a round that warms all up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            took = run()
            if number:
                seconds[name].append(took)
    return seconds
