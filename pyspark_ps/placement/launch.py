"""What a server process is told, and the process itself as whoever starts it sees it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyspark_ps.placement.credentials import Credentials

LAST_WORDS_LINES = 20
TERM_SECONDS = 5.0
# A Unix socket's path has at most 107 bytes; the socket's own name is added to the folder's.
SOCKET_FOLDER_CHARS_MAX = 70


@dataclass(frozen=True)
class LaunchSpec:
    """One server to start. Picklable; the credentials are kept out of `repr`.

    Attributes:
        server_id: 0 .. num_servers - 1.
        options: `ServerOptions` of the core, without the credentials; JSON can hold it.
        credentials: of the job.
        use_unix_socket: the server also listens on a Unix socket in a private folder.
        log_level: least severe messages that the server writes (of `logging`).
    """

    server_id: int
    options: dict[str, Any]
    credentials: Credentials = field(repr=False)
    use_unix_socket: bool = True
    log_level: int = logging.INFO

    def with_options(self, **changes: Any) -> LaunchSpec:
        """A copy with other values in some options."""
        return dataclasses.replace(self, options={**self.options, **changes})

    def to_line(self) -> bytes:
        """What `python -m pyspark_ps.server` reads from its standard input."""
        launch = {
            "options": self.options,
            "credentials": self.credentials.to_dict(),
            "log_level": self.log_level,
        }
        return json.dumps(launch).encode() + b"\n"


class ServerProcess:
    """A child process `python -m pyspark_ps.server`.

    Its standard input stays open as long as this process lives: the child ends when it closes, so
    it ends with this process, however that ends. Secret and key go that way too, never through
    arguments or the environment, which other users of the host may read.

    Args:
        spec: what to start.
        on_line: gets each line that the child writes to its standard error.
    """

    def __init__(self, spec: LaunchSpec, on_line: Callable[[str], None]) -> None:
        self.server_id = spec.server_id
        self._on_line = on_line
        self._last_lines: collections.deque[str] = collections.deque(maxlen=LAST_WORDS_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyspark_ps.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_child_environment(),
            start_new_session=True,  # a terminal's Ctrl-C and hang-up are the driver's business
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead already; poll() tells
            self._process.stdin.write(spec.to_line())
            self._process.stdin.flush()
        self._reader = threading.Thread(
            target=self._relay, name=f"ps-server-{spec.server_id}-log", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code (negative: the signal that killed it); None while it runs."""
        return self._process.poll()

    def wait(self, timeout_seconds: float) -> bool:
        """Whether the process has ended, waiting for it at most so long."""
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def describe_end(self) -> str:
        """How the process ended, with the last lines that it wrote."""
        self._reader.join(timeout=1.0)
        words = "\n  ".join(self._last_lines)
        said = f"; its last lines:\n  {words}" if words else "; it wrote nothing"
        return f"process {self.pid} ended with exit code {self.poll()}{said}"

    def end(self, wait_seconds: float = 0.0) -> None:
        """Waits for the process to end by itself, then asks it to (SIGTERM), then kills it."""
        if not self.wait(wait_seconds):
            self._process.terminate()
            if not self.wait(TERM_SECONDS):
                self._process.kill()
                self._process.wait()
        self._reader.join(timeout=1.0)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _relay(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for raw in lines:
                line = raw.decode(errors="replace").rstrip()
                self._last_lines.append(line)
                self._on_line(line)


def make_socket_folder() -> str:
    """A new folder for Unix sockets, readable by this user alone; "" where no path is short enough.

    The system's temporary folder when its path is short, else /tmp.
    """
    for parent in (tempfile.gettempdir(), "/tmp"):
        if len(parent) <= SOCKET_FOLDER_CHARS_MAX - len("/ps-12345678"):
            with contextlib.suppress(OSError):
                return tempfile.mkdtemp(prefix="ps-", dir=parent)
    return ""


def remove_socket_folder(folder: str) -> None:
    """Removes what `make_socket_folder` made; whoever comes second finds nothing to do."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def level_of(line: str) -> int:
    """The `logging` level of a line that a server wrote ("ERROR ...", "... [error] ...")."""
    first = line.split(" ", 1)[0]
    for level in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.DEBUG):
        name = logging.getLevelName(level)
        if first == name or f"[{name.lower()}]" in line:
            return level
    return logging.INFO


def _child_environment() -> dict[str, str]:
    """This process's environment, in which the child finds the same `pyspark_ps`."""
    package_parent = str(Path(__file__).resolve().parents[2])
    path = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    # PYTHONSAFEPATH: `-m` must not put the user's working directory before the library.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
