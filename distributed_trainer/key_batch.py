"""The trainer's own batches: unique keys per table to pull, and each feature's positions in them.

`unit_batches` reads units of work, maps ids to keys, shuffles and cuts them into batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.columns import (
    ColumnPlan,
    Columns,
    batch_weights,
    columns_of,
    key_functions,
    read_part,
)
from distributed_trainer.config import TrainerConfig
from distributed_trainer.data_loader import FileSystems
from distributed_trainer.read_ahead import read_ahead
from distributed_trainer.units import UnitOfWork

if TYPE_CHECKING:
    import pyarrow as pa

SHUFFLE_WINDOW_ROWS = 65_536  # rows are shuffled within windows of about so many, ...
SHUFFLE_WINDOW_BATCHES_MIN = 16  # ... of larger batches so many batches; this bounds memory
WINDOWS_AHEAD = 1  # windows read while the batches of another are made


@dataclass
class KeyBatch:
    """One batch, ready to pull for.

    Attributes:
        keys: table -> uint64 (U,), ascending, each once; every table of the configuration, in
            sorted order. This is what to pull and whose gradients to push; that it ascends spares
            the client the search for repeated keys.
        positions: sparse feature -> int32 (B,), of list features (N,): where among its table's keys
            each id stands.
        offsets: list feature -> int64 (B + 1,): sample i has positions[offsets[i]:offsets[i + 1]].
        dense: float32 (B, D), features in sorted order.
        targets: float32 (B, T), or int32 (B,) for multiclass; None where not asked for.
        weights: float32 (B,), normalised where the configuration says so.
        num_rows: B.
        weight_sum: sum of `weights`.
    """

    keys: dict[str, NDArray[np.uint64]]
    positions: dict[str, NDArray[np.int32]]
    offsets: dict[str, NDArray[np.int64]]
    dense: NDArray[np.float32]
    targets: NDArray[Any] | None
    weights: NDArray[np.float32]
    num_rows: int
    weight_sum: float


def unit_batches(
    units: Iterable[UnitOfWork],
    config: TrainerConfig,
    seed_of: Callable[[UnitOfWork], int],
    *,
    with_targets: bool = True,
    file_systems: FileSystems | None = None,
) -> Generator[tuple[UnitOfWork, int, KeyBatch], None, None]:
    """The batches of units of work: (unit, index of the batch in its unit, batch).

    What a unit yields depends on its seed and its data alone. Rows are shuffled
    (`config.shuffle_data`) within windows, which are read ahead in a thread of their own; only the
    last batch of a unit is short.

    Args:
        seed_of: `DayPass.unit_seed`.
        with_targets: False leaves target and weight columns unread (predict); every weight is
            then `default_weight`, and rows keep their order.
        file_systems: how the files are reached; None = as `config.ps_config` says.

    Raises:
        InvalidArgumentError: a column is missing, of a wrong type, or holds what is not allowed;
            names file and column.
        StorageError, DataCorruptionError: the file cannot be read, or is damaged.
    """
    plan = _plan_of(config, with_targets)
    make = _KeyBatchMaker(config)
    shuffled = config.shuffle_data and with_targets
    systems = file_systems or FileSystems(config.ps_config)
    windows = (
        (unit, number, window)
        for unit in units
        for number, window in enumerate(_windows(unit, plan, config.batch_size, systems))
    )
    index = 0
    with contextlib.closing(read_ahead(windows, WINDOWS_AHEAD)) as ahead:
        for unit, number, window in ahead:
            index = index if number else 0
            order = np.arange(window.num_rows)
            if shuffled:
                seed = (seed_of(unit), number)
                order = np.random.default_rng(seed).permutation(window.num_rows)
            for first in range(0, window.num_rows, config.batch_size):
                yield unit, index, make(window.take(order[first : first + config.batch_size]))
                index += 1


def _plan_of(config: TrainerConfig, with_targets: bool) -> ColumnPlan:
    return ColumnPlan.of(
        config.feature_config,
        config.target_config,
        config.weight_config,
        with_targets=with_targets,
    )


def _windows(
    unit: UnitOfWork, plan: ColumnPlan, batch_size: int, file_systems: FileSystems
) -> Iterator[Columns]:
    """Consecutive rows of the unit, a whole number of batches each (but the last)."""
    batches = max(SHUFFLE_WINDOW_BATCHES_MIN, SHUFFLE_WINDOW_ROWS // batch_size)
    window_rows = batches * batch_size
    waiting: list[Columns] = []
    rows = 0
    for part in unit.parts:
        for columns in read_part(part, plan, file_systems):
            waiting.append(columns)
            rows += columns.num_rows
            while rows >= window_rows:
                joined = Columns.concat(waiting)
                yield joined.slice(0, window_rows)
                waiting = [joined.slice(window_rows, rows)]
                rows -= window_rows
    if rows:
        yield Columns.concat(waiting)


def table_batches(
    data: pa.Table, config: TrainerConfig, *, source: str = "table", with_targets: bool = True
) -> Iterator[KeyBatch]:
    """Batches of an Arrow table in memory, in its own order; errors as `unit_batches`."""
    columns = columns_of(data, _plan_of(config, with_targets), source)
    make = _KeyBatchMaker(config)
    for first in range(0, columns.num_rows, config.batch_size):
        yield make(columns.slice(first, min(first + config.batch_size, columns.num_rows)))


class _KeyBatchMaker:
    """Makes a KeyBatch of a batch's columns: unique keys per table, positions per feature."""

    def __init__(self, config: TrainerConfig) -> None:
        features = config.feature_config
        self._normalize = config.weight_config.normalize_weights
        self._unique = key_functions()[1]
        names = sorted(features.sparse_features)
        self._features_of = {
            table: [name for name in names if features.get_table(name) == table]
            for table in features.get_tables()
        }

    def __call__(self, columns: Columns) -> KeyBatch:
        weights = batch_weights(columns.weights, self._normalize)
        batch = KeyBatch(
            keys={},
            positions={},
            offsets={name: offsets for name, (_, offsets) in columns.lists.items()},
            dense=columns.dense,
            targets=columns.targets,
            weights=weights,
            num_rows=columns.num_rows,
            weight_sum=float(weights.sum(dtype=np.float64)),
        )
        for table, names in self._features_of.items():
            parts = [columns.ids(name) for name in names]
            joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
            batch.keys[table], positions = self._unique(joined)
            first = 0
            for name, part in zip(names, parts, strict=True):
                batch.positions[name] = positions[first : first + len(part)]
                first += len(part)
        return batch
