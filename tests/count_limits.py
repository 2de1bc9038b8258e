"""The limits of tests/test_counts.py: some 10 % above what was counted when each was written.

A count above its limit means that something on the hot path got dearer. Where that is the price of
something wanted, raise the limit and say here what it buys; where a change made it cheaper, lower
it, so that the speed stays.
"""

from __future__ import annotations

# Instructions of callgrind for one row of dim 16, compiled for AVX2, in a table of 20,000 rows.
INSTRUCTIONS_PER_ROW = {
    # 126: hash, probe of one group of the index, prefetches, a copy of 64 bytes.
    "gather": 139,
    # 175: the same probe, then Adagrad on 16 floats (two vectors of AVX2) and the row's header.
    "apply": 178,
}

COUNTS = {
    # 26.7: a header of 16 bytes, and index and slab space that holds no row (at 500,000 rows).
    "memory": {"bytes_per_row_beyond_values_and_state": 29.5},
    # Client and server together, one server of two shard threads, a Unix socket, rows of dim 64.
    "requests": {
        # 35 and 36: frames, tasks for two shards, a reply part of each, and the client's call.
        "allocations_of_pull_of_16_keys": 40,
        "allocations_of_push_of_16_keys": 41,
        # 120 and 130: the same, and nine frames of 256 KiB with their memory; of a push, also where
        # the rows of eight of them were found, a shard each.
        "allocations_of_pull_of_8192_keys": 133,
        "allocations_of_push_of_8192_keys": 143,
        # 0.085: keys and their positions; rows lie in memory that the connection has once. A push:
        # 0.114, with the addresses of its rows.
        "allocated_bytes_per_row_byte_of_pull_of_8192_keys": 0.094,
        "allocated_bytes_per_row_byte_of_push_of_8192_keys": 0.125,
        # 0.032: keys, their positions and frame heads; rows only ever pass the gather or the
        # optimizer and the client's copy, none of which calls memcpy.
        "copied_bytes_per_row_byte_of_pull_of_8192_keys": 0.036,
        "copied_bytes_per_row_byte_of_push_of_8192_keys": 0.036,
    },
}

# New NumPy memory while a call of the Python client runs, in sizes of the rows that it moves.
PYTHON_COPIES = {
    # The array that is returned; the reply is written into it where the socket is read.
    "pull": 1,
    # Keys and gradients are sent from where the caller has them.
    "push": 0,
}
# Beyond those copies: keys that are made distinct, small objects. In shares of the rows' size.
PYTHON_COPIES_SLACK = 0.1
