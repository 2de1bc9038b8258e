"""What changed from one checkpoint to another: rows, dense tensors, definitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_ps.errors import InvalidArgumentError
from pyspark_ps.storage.format import Manifest, TableRecord
from pyspark_ps.storage.location import Location
from pyspark_ps.storage.reader import read_embeddings, read_weights

ROWS_AT_ONCE = 200_000  # of each side, compared in memory


@dataclass(frozen=True)
class Checkpoint:
    """One side."""

    location: Location
    manifest: Manifest


@dataclass
class TableDifference:
    """Rows of one table, counted.

    Attributes:
        definition: fields of the definition that differ: name -> [old, new].
        comparable: False where the width of rows differs; then all rows are removed and added.
        changed: rows on both sides of which anything differs (values, count, last day, states).
        values_changed: of these, those whose values differ.
    """

    name: str
    definition: dict[str, list[Any]] = field(default_factory=dict)
    comparable: bool = True
    added: int = 0
    removed: int = 0
    changed: int = 0
    values_changed: int = 0
    unchanged: int = 0

    @property
    def is_equal(self) -> bool:
        """Nothing differs."""
        return not (self.definition or self.added or self.removed or self.changed)


@dataclass
class TensorDifference:
    """One dense tensor. `kind`: "added", "removed", "shape" or "changed"."""

    name: str
    kind: str
    max_change: float = 0.0


def compare_tables(
    old: Checkpoint, new: Checkpoint, on_rows: Callable[[int], None] = lambda _: None
) -> list[TableDifference]:
    """Every table of both, by name; streamed, a few partitions of each side in memory.

    Raises:
        NotFoundError, DataCorruptionError, StorageError: a file is missing, damaged, unreadable.
    """
    names = {table.name for side in (old, new) for table in side.manifest.tables}
    return [_compare_table(old, new, name, on_rows) for name in sorted(names)]


def _compare_table(
    old: Checkpoint, new: Checkpoint, name: str, on_rows: Callable[[int], None]
) -> TableDifference:
    before, after = old.manifest.table(name), new.manifest.table(name)
    found = TableDifference(name)
    if before is None or after is None:
        found.added = after.rows if after else 0
        found.removed = before.rows if before else 0
        found.definition = {"table": [before is not None, after is not None]}
        return found
    found.definition = _definition_changes(before, after)
    if before.dim != after.dim:
        found.comparable, found.added, found.removed = False, after.rows, before.rows
        return found
    states = before.state_columns == after.state_columns
    for ours, theirs in _partition_ranges(old.manifest, new.manifest, max(before.rows, after.rows)):
        left = _rows(old, name, ours, states)
        right = _rows(new, name, theirs, states)
        _count(left, right, found)
        on_rows(left.num_rows + right.num_rows)
    return found


def _definition_changes(before: TableRecord, after: TableRecord) -> dict[str, list[Any]]:
    changes = {}
    for spec in dataclasses.fields(TableRecord):
        old, new = getattr(before, spec.name), getattr(after, spec.name)
        if spec.name != "rows" and old != new:
            changes[spec.name] = [old, new]
    return changes


def _partition_ranges(old: Manifest, new: Manifest, rows: int) -> Iterator[tuple[range, range]]:
    """Ranges that hold the same keys on both sides: with more partitions, each splits in place."""
    counts = (old.partition_count, new.partition_count)
    coarse = min(counts)
    if any(count % coarse for count in counts):
        raise InvalidArgumentError(
            f"checkpoints of {counts[0]} and {counts[1]} partitions cannot be compared"
        )
    step = max(1, coarse * ROWS_AT_ONCE // max(1, rows))
    for begin in range(0, coarse, step):
        end = min(begin + step, coarse)
        ours, theirs = (
            range(begin * (count // coarse), end * (count // coarse)) for count in counts
        )
        yield ours, theirs


def _rows(side: Checkpoint, table: str, partitions: range, states: bool) -> pa.Table:
    reader = read_embeddings(side.location, side.manifest, table, partitions, states=states)
    rows = reader.read_all().drop_columns(["partition"])
    return rows.sort_by("key").combine_chunks()


def _count(left: pa.Table, right: pa.Table, found: TableDifference) -> None:
    both, ours, theirs = np.intersect1d(
        left.column("key").to_numpy(),
        right.column("key").to_numpy(),
        assume_unique=True,
        return_indices=True,
    )
    found.removed += left.num_rows - len(both)
    found.added += right.num_rows - len(both)
    left, right = left.take(ours), right.take(theirs)
    differs = np.zeros(len(both), bool)
    for name in left.column_names:
        if name == "key":
            continue
        column_differs = _differs(left.column(name), right.column(name))
        differs |= column_differs
        if name == "vector":
            found.values_changed += int(column_differs.sum())
    found.changed += int(differs.sum())
    found.unchanged += int((~differs).sum())


def _differs(left: pa.ChunkedArray, right: pa.ChunkedArray) -> Any:
    """Where two columns of one type differ, bit for bit."""
    if pa.types.is_fixed_size_list(left.type):
        width = left.type.list_size
        pair = [
            pc.list_flatten(side).to_numpy().view(np.uint32).reshape(-1, width)
            for side in (left, right)
        ]
        return (pair[0] != pair[1]).any(axis=1)
    return pc.not_equal(left, right).to_numpy()


def compare_tensors(old: Checkpoint, new: Checkpoint) -> tuple[list[TensorDifference], int]:
    """Dense tensors that differ, by name, and how many are equal. Both models lie in memory.

    A side that was saved without its model counts as one without tensors.
    """
    before, after = _tensors(old), _tensors(new)
    found: list[TensorDifference] = []
    equal = 0
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            found.append(TensorDifference(name, "removed"))
        elif name not in before:
            found.append(TensorDifference(name, "added"))
        elif before[name].shape != after[name].shape:
            found.append(TensorDifference(name, "shape"))
        elif before[name].tobytes() != after[name].tobytes():
            change = float(np.max(np.abs(after[name] - before[name])))
            found.append(TensorDifference(name, "changed", change))
        else:
            equal += 1
    return found, equal


def _tensors(side: Checkpoint) -> dict[str, Any]:
    if not side.manifest.has_model:
        return {}
    tensors: dict[str, Any] = {}
    for batch in read_weights(side.location, side.manifest):
        for chunk in range(batch.num_rows):
            name, shape = batch["name"][chunk].as_py(), batch["shape"][chunk].as_py()
            offset, values = batch["offset"][chunk].as_py(), batch["values"][chunk].values
            flat = tensors.setdefault(name, np.zeros(shape, np.float32)).reshape(-1)
            flat[offset : offset + len(values)] = values.to_numpy()
    return tensors
