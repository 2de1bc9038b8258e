"""Interpreters that start with TensorFlow in a tenth of the time: forks of one that has it.

The import costs five seconds of a processor; a test of what a training does need not pay for it in
its own process, in each of its workers and in Spark's. `Template.python` is an executable that
takes Python's arguments and runs them in a fork; only the import has been done. A worker of a
trainer without Spark is a child of its driver as well (`popen_of`). The README's examples, and a
driver that is killed, are tested with interpreters as users start them.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.warm_client import MESSAGE_BYTES_MAX, ask

PR_SET_CHILD_SUBREAPER = 36
OF_ITS_OWN = "PS_TEST_OWN_TEMPLATE"  # in the environment of a fork that is to have a template
CHILD = "PS_TEST_CHILD_OF_ASKER"  # ... that is to be a child of whose template this is


class Template:
    """The interpreter that others are forks of; started with the first of them."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="warm"))
        self._control: socket.socket | None = None
        self._wait: Callable[[], Any] = lambda: None

    @property
    def python(self) -> str:
        """Path of an executable that stands for `python`."""
        if self._control is None:
            listener = self._listen()
            self._control, theirs = socket.socketpair()
            command = [sys.executable, "-m", "tests.warm_python"]
            fds = (theirs.fileno(), listener.fileno())
            with theirs, listener:
                arguments = [*command, *map(str, fds)]
                self._wait = subprocess.Popen(arguments, pass_fds=fds).wait
        return str(self._folder / "python")

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self._folder / "socket"))
        listener.listen()
        client = Path(__file__).with_name("warm_client.py")
        shell = f'#!/bin/sh\nexec "{sys.executable}" -IS "{client}" "{self._folder}/socket" "$@"\n'
        python = self._folder / "python"
        python.write_text(shell)
        python.chmod(0o755)
        return listener

    @classmethod
    def forked(cls) -> Template:
        """One that is a fork of this process, which must not have used TensorFlow yet."""
        template = cls()
        listener = template._listen()
        template._control, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            template._control.close()
            become(*serve(theirs, listener))
            sys.exit()
        theirs.close()
        listener.close()
        template._wait = partial(os.waitpid, pid, 0)
        return template

    def fork(self, argv: list[str], env: dict[str, str], fds: dict[int, int]) -> int:
        """The process id of a new child of this process."""
        assert self.python
        with adopting_orphans():
            connection = ask(str(self._folder / "socket"), argv, {**env, CHILD: "1"}, fds)
            with connection:
                return int(connection.recv(64))

    def close(self) -> None:
        if self._control is not None:
            self._control.close()  # the template sees the end and goes
            self._wait()
        shutil.rmtree(self._folder, ignore_errors=True)


own: Template | None = None  # of a process that was asked for with OF_ITS_OWN


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
    """A Popen of `[sys.executable, ...]` that makes forks of the template."""

    class WarmPopen(subprocess.Popen[bytes]):
        def _execute_child(self, args: list[str], *others: Any) -> None:  # type: ignore[override]
            (pipe,) = others[3]  # pass_fds
            env, stdin, stderr = others[5], others[9], others[14]
            self.pid = template.fork(args[1:], env, {0: stdin, 2: stderr, pipe: pipe})
            self._child_created = True
            os.close(stdin)
            os.close(stderr)

    return WarmPopen


Request = tuple[dict[str, Any], list[int]]


def serve(control: socket.socket, listener: socket.socket) -> Request:
    """The template's life: a fork for each request. Returns in the forks, with their request."""
    askers: dict[int, tuple[socket.socket, int]] = {}  # pidfd -> who asked, process id
    while True:
        poller = select.poll()
        poller.register(control, select.POLLIN)
        poller.register(listener, select.POLLIN)
        for pidfd, (asker, _) in askers.items():
            poller.register(pidfd, select.POLLIN)
            poller.register(asker, select.POLLIN)  # it says no more: this is its end
        ready = {fd for fd, _ in poller.poll()}
        if control.fileno() in ready:
            for _, pid in askers.values():
                os.kill(pid, 9)
            shutil.rmtree(os.path.dirname(listener.getsockname()), ignore_errors=True)
            os._exit(0)
        for pidfd, (asker, pid) in list(askers.items()):
            if pidfd in ready:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                answer(asker, code)
                del askers[pidfd]
                os.close(pidfd)
                asker.close()
            elif asker.fileno() in ready:
                os.kill(pid, 9)
        if listener.fileno() not in ready:
            continue
        asker, _ = listener.accept()
        message, fds, _, _ = socket.recv_fds(asker, MESSAGE_BYTES_MAX, 8)
        if not message:  # it has gone again
            asker.close()
            continue
        request = json.loads(message)
        pid = fork_child(asker) if request["env"].pop(CHILD, "") else os.fork()
        if pid == 0:
            for other in (control, listener, asker, *(other for other, _ in askers.values())):
                other.close()
            for pidfd in askers:
                os.close(pidfd)
            return request, fds
        for fd in fds:
            os.close(fd)
        if pid > 0:
            answer(asker, pid)
            askers[os.pidfd_open(pid)] = asker, pid
        else:
            asker.close()


def answer(asker: socket.socket, number: int) -> None:
    with suppress(OSError):  # if it has gone, the poll sees its end
        asker.send(b"%d" % number)


def fork_child(asker: socket.socket) -> int:
    """A fork that an ancestor has adopted by the time it is told of. 0 in the fork, -1 here."""
    told, tell = os.pipe()
    middle = os.fork()
    if middle == 0:
        pid = os.fork()
        if pid == 0:
            os.close(told)
            os.close(tell)
            return 0
        os.write(tell, b"%d" % pid)
        os._exit(0)
    os.waitpid(middle, 0)
    answer(asker, int(os.read(told, 64)))
    os.close(told)
    os.close(tell)
    return -1


def become(request: dict[str, Any], fds: list[int]) -> None:
    """Runs what `python ARGV...` runs, in the asker's environment, with its file descriptors."""
    aside = [os.dup2(fd, 1000 + index, False) for index, fd in enumerate(fds)]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(aside, request["fds"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    global own
    if os.environ.pop(OF_ITS_OWN, ""):
        own = Template.forked()
    run_python(request["argv"])


def run_python(argv: list[str]) -> None:
    """`python ARGV...` with the options that are in use here: -u, then -c or -m."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["", *paths, *(path for path in sys.path[1:] if path not in paths)]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    options = iter(argv)
    for option in options:
        if option == "-u":
            sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        elif option == "-c":
            code = next(options)
            sys.argv = ["-c", *options]
            exec(compile(code, "<string>", "exec"), main.__dict__)
        elif option == "-m":
            module = next(options)
            sys.argv = [module, *options]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            raise SystemExit(f"{option}: not an option of a warm interpreter")


if __name__ == "__main__":
    import keras  # noqa: F401
    import pyspark.worker  # noqa: F401
    import tensorflow  # noqa: F401

    import distributed_trainer.worker  # noqa: F401
    from tests import warm_python

    gc.collect()
    gc.freeze()  # forks do not look through TensorFlow's objects again, nor copy their pages
    warm_python.become(
        *warm_python.serve(*(socket.socket(fileno=int(number)) for number in sys.argv[1:]))
    )
