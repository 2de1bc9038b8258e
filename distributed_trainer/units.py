"""Units of work: what one push stream covers, read and shuffled together.

A day's files are divided by their sizes and row groups alone, so that a unit means the same rows
whoever trains it: small files are joined, large ones are cut between row groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from distributed_trainer.data_loader import PartitionInfo, balance

UNIT_BATCHES_MIN = 16  # smaller files are joined up to this many batches
UNIT_BATCHES_CUT = 64  # larger files are cut, by row groups, into pieces of at least this many
UNIT_BYTES_CUT = 256 << 20  # or of at least this many bytes


@dataclass(frozen=True)
class FilePart:
    """Row groups of one file, in order. `row_groups` None = all of them."""

    path: str
    size_bytes: int
    num_rows: int
    row_groups: tuple[int, ...] | None = None


@dataclass(frozen=True)
class UnitOfWork:
    """What one push stream covers: parts of files that are read and shuffled together.

    `id` is unique within the day and says what the unit covers, so another division has other ids.
    """

    id: str
    parts: tuple[FilePart, ...]
    size_bytes: int
    num_rows: int


def units_of_work(partitions: Sequence[PartitionInfo], batch_size: int) -> list[UnitOfWork]:
    """Divides a day's files: small files are joined, large ones are cut by row groups.

    Depends on the files and the batch size alone, not on the number of workers. Units and their
    rows stand in the files' order, files sorted by path.
    """
    units: list[UnitOfWork] = []
    rows_min = UNIT_BATCHES_MIN * batch_size
    joined: list[FilePart] = []
    for partition in sorted(partitions, key=lambda part: part.path):
        if partition.num_rows == 0:
            continue
        pieces = _pieces(partition, batch_size)
        if len(pieces) > 1:
            if joined:  # units stay in the files' order
                units.append(_unit(joined))
                joined = []
            units.extend(_unit([piece]) for piece in pieces)
            continue
        joined.extend(pieces)
        if _is_enough(joined, rows_min):
            units.append(_unit(joined))
            joined = []
    if joined:
        units.append(_unit(joined))
    return units


def _is_enough(parts: Sequence[FilePart], rows_min: int) -> bool:
    return (
        sum(part.num_rows for part in parts) >= rows_min
        or sum(part.size_bytes for part in parts) >= UNIT_BYTES_CUT
    )


def _pieces(partition: PartitionInfo, batch_size: int) -> list[FilePart]:
    groups = partition.metadata.get("row_groups", [])
    pieces: list[FilePart] = []
    first = 0
    rows = size = 0
    for index, (group_rows, group_bytes) in enumerate(groups):
        rows, size = rows + group_rows, size + group_bytes
        if rows >= UNIT_BATCHES_CUT * batch_size or size >= UNIT_BYTES_CUT:
            pieces.append(FilePart(partition.path, size, rows, tuple(range(first, index + 1))))
            first, rows, size = index + 1, 0, 0
    if rows and pieces and rows < UNIT_BATCHES_MIN * batch_size:
        last = pieces.pop()
        pieces.append(
            FilePart(
                partition.path,
                last.size_bytes + size,
                last.num_rows + rows,
                (*(last.row_groups or ()), *range(first, len(groups))),
            )
        )
    elif rows:
        pieces.append(FilePart(partition.path, size, rows, tuple(range(first, len(groups)))))
    if len(pieces) <= 1:
        return [FilePart(partition.path, partition.size_bytes, partition.num_rows)]
    return pieces


def _unit(parts: Sequence[FilePart]) -> UnitOfWork:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(f"{part.path}\x1f{part.row_groups}\x1f{part.num_rows}\x1e".encode())
    return UnitOfWork(
        digest.hexdigest(),
        tuple(parts),
        sum(part.size_bytes for part in parts),
        sum(part.num_rows for part in parts),
    )


def distribute_units(units: Sequence[UnitOfWork], num_workers: int) -> list[list[UnitOfWork]]:
    """Balances units over workers by rows; index = worker id, units in their own order."""
    shares = balance([(unit.num_rows,) for unit in units], num_workers)
    return [[units[index] for index in share] for share in shares]
