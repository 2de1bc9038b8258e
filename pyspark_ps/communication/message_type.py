"""The kinds of frames on the wire."""

from __future__ import annotations

from enum import IntEnum


class MessageType(IntEnum):
    """Type byte of a frame (docs/wire.md). The numbers are part of the protocol."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    PULL = 16
    PULL_REPLY = 17
    PUSH = 18
    PUSH_REPLY = 19
    CONTROL = 32
    CONTROL_REPLY = 33
    ERROR = 48
