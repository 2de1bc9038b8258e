"""What stands where `python` would: the template of `tests.warm_python` is asked for a fork.

Run as `python -IS warm_client.py SOCKET ARGUMENTS...`: without anything but the standard library,
it has started in a hundredth of a second.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

MESSAGE_BYTES_MAX = 1 << 20


def ask(path: str, argv: list[str], env: dict[str, str], fds: dict[int, int]) -> socket.socket:
    """Asks for a fork that runs `python ARGV...`. Its process id, then its exit code are answered.

    Args:
        fds: the fork's file descriptor -> ours, which it gets.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES_MAX)
    connection.connect(path)
    request = {"argv": argv, "env": env, "cwd": os.getcwd(), "fds": list(fds)}
    socket.send_fds(connection, [json.dumps(request).encode()], list(fds.values()))
    return connection


def main() -> None:
    connection = ask(sys.argv[1], sys.argv[2:], dict(os.environ), {fd: fd for fd in range(3)})
    pid = int(connection.recv(64))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: os.kill(pid, received))
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):  # who reads from the fork must see its end
        os.dup2(nothing, fd)
    code = int(connection.recv(64) or -signal.SIGKILL)
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
