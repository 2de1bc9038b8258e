"""Checksums of files: xxh3, 128 bits; `xxh128sum FILE` prints the same digits."""

from __future__ import annotations

from typing import Any

import xxhash

PREFIX = "xxh3_128:"


def checksum(data: Any) -> str:
    """Of some bytes."""
    return f"{PREFIX}{xxhash.xxh3_128_hexdigest(data)}"


class RunningChecksum:
    """Of bytes that come one piece after the other."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def update(self, data: Any) -> None:
        """Adds a piece."""
        self._hash.update(data)

    def text(self) -> str:
        """Of what came so far."""
        return f"{PREFIX}{self._hash.hexdigest()}"
