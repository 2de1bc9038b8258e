"""Faults of storage in a process, for tests: Python imports this at start when it is on the path.

`PS_TEST_FAULT` names a file. While that file exists its text says what happens: "kill 5" ends the
process, "full 5" raises "no space left", at the fifth use of the storage since the file was there.
Each opening, write, close, read, listing and removal is a use.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

_uses = itertools.count(1)
_lock = threading.Lock()


def _faulty(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with open(os.environ["PS_TEST_FAULT"]) as file:
                what, at = file.read().split()
        except OSError:
            return method(*args, **kwargs)
        with _lock:
            reached = next(_uses) == int(at)
        if reached and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if reached and what == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return method(*args, **kwargs)

    return call


def _install() -> None:
    from pyspark_ps.storage import backend

    uses = "size open_input open_output read put entries delete remove_empty_folders"
    for name in uses.split():
        setattr(backend.LocalBackend, name, _faulty(getattr(backend.LocalBackend, name)))
    for name in ("write", "close"):
        setattr(backend._LocalOutput, name, _faulty(getattr(backend._LocalOutput, name)))


if "PS_TEST_FAULT" in os.environ:
    _install()
