"""Training workers that start in a fifth of the time: forks of an interpreter with TensorFlow.

Of the five seconds that a worker takes to start, four are the import of TensorFlow; a test of what
workers do need not pay for it each time. Such a worker runs the same module with the same
arguments, environment and pipes, and is a child of the driver; only the import has been done. The
tests of examples, and of a driver that is killed, start workers as the product does.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
MESSAGE_BYTES_MAX = 1 << 20


class Template:
    """The interpreter that workers are forks of; started with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def fork(self, argv: list[str], env: dict[str, str], pipe: int, stderr: int) -> int:
        """The process id of a new child of this process."""
        if self._socket is None:
            self._start()
        assert self._socket is not None
        message = json.dumps({"argv": argv, "env": env}).encode()
        with adopting_orphans():
            socket.send_fds(self._socket, [message], [pipe, stderr])
            return int(self._socket.recv(64))

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES_MAX)
        with theirs:
            command = [sys.executable, "-m", "tests.warm_workers", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))

    def close(self) -> None:
        if self._process is not None and self._socket is not None:
            self._socket.close()  # the template sees the end and goes
            self._process.wait()


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Children whose parent ends meanwhile become children of this process."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def popen_of(template: Template) -> type[subprocess.Popen[bytes]]:
    """A Popen that makes forks of the template instead of fresh interpreters."""

    class WarmPopen(subprocess.Popen[bytes]):
        def _execute_child(self, args: list[str], *others: Any) -> None:  # type: ignore[override]
            (pipe,) = others[3]  # pass_fds
            env, stdin, stderr = others[5], others[9], others[14]
            self.pid = template.fork(args[3:], env, pipe, stderr)
            self._child_created = True
            os.close(stdin)
            os.close(stderr)

    return WarmPopen


def serve(requests: socket.socket) -> None:
    """The template's life: a fork for each request. Returns in the forks."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    import distributed_trainer.worker  # noqa: F401

    while True:
        message, fds, _, _ = socket.recv_fds(requests, MESSAGE_BYTES_MAX, 2)
        if not message:
            os._exit(0)
        told, tell = os.pipe()
        middle = os.fork()
        if middle == 0:  # ends at once, so that the fork becomes a child of the driver
            pid = os.fork()
            if pid == 0:
                for fd in (told, tell):
                    os.close(fd)
                requests.close()
                become_worker(json.loads(message), *fds)
                return
            os.write(tell, b"%d" % pid)
            os._exit(0)
        os.waitpid(middle, 0)
        pid_text = os.read(told, 64)
        for fd in (told, tell, *fds):
            os.close(fd)
        requests.send(pid_text)


def become_worker(request: dict[str, Any], pipe: int, stderr: int) -> None:
    """Takes the environment, the pipe (under its number in the driver) and the standard error."""
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.dup2(stderr, 2)
    os.close(stderr)
    sys.argv = ["worker", str(pipe)]
    runpy.run_module("distributed_trainer.pools.processes", run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
