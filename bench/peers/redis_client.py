"""A contestant: pulls and pushes of rows in Redis, as redis-py's documentation advises for bulk.

    redis_client.py UNIX_SOCKET ROWS KEYS DIM

A row is a value of dim float32 under its id's 8 bytes. MGET and MSET of CHUNK keys each go in one
pipeline without a transaction; a pull ends with the rows in one float32 array of NumPy, a push
begins with one. Every row is there before the first pass.
"""

from __future__ import annotations

import sys

import numpy as np
import redis

from bench.peers.passes import serve

CHUNK = 1_000
FEW_KEYS, FEW_PULLS = 16, 200


class Rows:
    """Rows by their ids' bytes."""

    def __init__(self, path: str, dim: int) -> None:
        self._redis = redis.Redis(unix_socket_path=path)
        self._dim = dim

    def pull(self, ids: np.ndarray) -> np.ndarray:
        names = names_of(ids)
        pipeline = self._redis.pipeline(transaction=False)
        for start in range(0, len(names), CHUNK):
            pipeline.mget(names[start : start + CHUNK])
        values = [value for chunk in pipeline.execute() for value in chunk]
        return np.frombuffer(b"".join(values), np.float32).reshape(len(ids), self._dim)

    def push(self, ids: np.ndarray, rows: np.ndarray) -> None:
        names, bytes_of_row = names_of(ids), 4 * self._dim
        memory = rows.tobytes()
        values = [
            memory[start : start + bytes_of_row] for start in range(0, len(memory), bytes_of_row)
        ]
        pipeline = self._redis.pipeline(transaction=False)
        for start in range(0, len(names), CHUNK):
            end = start + CHUNK
            pipeline.mset(dict(zip(names[start:end], values[start:end], strict=True)))
        pipeline.execute()


def names_of(ids: np.ndarray) -> list[bytes]:
    memory = ids.tobytes()
    return [memory[start : start + 8] for start in range(0, len(memory), 8)]


def main() -> None:
    path, rows, keys, dim = sys.argv[1], *map(int, sys.argv[2:5])
    store = Rows(path, dim)
    for first in range(0, rows, keys):
        ids = np.arange(first, min(first + keys, rows), dtype=np.uint64)
        store.push(ids, np.full((len(ids), dim), 0.01, np.float32))
    random = np.random.default_rng(1)
    batches = [random.choice(rows, keys, replace=False).astype(np.uint64) for _ in range(8)]
    changes = np.full((keys, dim), 1e-3, np.float32)
    turns = {"pull": 0, "push": 0}

    def next_ids(what: str) -> np.ndarray:
        turns[what] += 1
        return batches[turns[what] % len(batches)]

    serve(
        {
            "pull": lambda: store.pull(next_ids("pull")),
            "push": lambda: store.push(next_ids("push"), changes),
            "few": lambda: [store.pull(batches[0][:FEW_KEYS]) for _ in range(FEW_PULLS)],
        }
    )


if __name__ == "__main__":
    main()
