"""Which server holds which key."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyspark_ps import _core
from pyspark_ps.errors import InvalidArgumentError
from pyspark_ps.keys import keys_of
from pyspark_ps.utils.config import DEFAULT_TABLE

# Partitions of a cluster, fixed for its life; a power of two.
PARTITION_COUNT = 4_096


class ConsistentHashRing:
    """Placement of ids, as a cluster of `num_servers` places those of the table "default".

    The ring gives partitions to servers (no server more than 1.05 times its share); an id's
    partition follows from its hash. Adding a server moves about 1/num_servers of the partitions.

    Args:
        num_servers: 1 to 4,096.
        virtual_nodes: points per server on the ring.
    """

    def __init__(self, num_servers: int, virtual_nodes: int = 150) -> None:
        for name, value in (("num_servers", num_servers), ("virtual_nodes", virtual_nodes)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise InvalidArgumentError(
                    f"ConsistentHashRing: {name} = {value!r}: allowed is an integer >= 1"
                )
        self.num_servers = int(num_servers)
        self.virtual_nodes = int(virtual_nodes)
        self._owners = _core.partition_owners(self.num_servers, self.virtual_nodes, PARTITION_COUNT)

    def get_server(self, key: Hashable) -> int:
        """The server of one id (an integer, a string, bytes or None)."""
        return int(self._servers_of([key])[0])

    def get_servers_batch(self, keys: Sequence[Any] | NDArray[Any]) -> dict[int, list[Any]]:
        """server -> those of `keys` that it holds, in input order; every server is present."""
        placed: dict[int, list[Any]] = {server: [] for server in range(self.num_servers)}
        for key, server in zip(keys, self._servers_of(keys), strict=True):
            placed[int(server)].append(key)
        return placed

    def get_server_for_weight(self, name: str) -> int:
        """The server of a dense tensor (of its first MiB, when it is larger)."""
        first_chunk = np.zeros(1, dtype=np.uint64)
        return int(self._owners[_partitions(name, first_chunk)][0])

    def _servers_of(self, keys: Sequence[Any] | NDArray[Any]) -> NDArray[np.uint32]:
        return self._owners[_partitions(DEFAULT_TABLE, keys_of(keys))]


def _partitions(name: str, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Partition of each key of the table or tensor `name`: the top bits of its hash."""
    salt = np.uint64(_core.hash_bytes(name.encode()))
    shift = np.uint64(64 - (PARTITION_COUNT.bit_length() - 1))
    return (_mix64(keys ^ salt) >> shift).astype(np.intp)


def _mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix64 of src/ps/base/hash.h: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
