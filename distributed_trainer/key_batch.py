"""The trainer's own batches: unique keys per table to pull, and each feature's positions in them.

`unit_batches` reads a unit of work, maps ids to keys, shuffles and cuts it into batches.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from distributed_trainer.units import UnitOfWork

if TYPE_CHECKING:
    import pyarrow as pa

SHUFFLE_WINDOW_BATCHES = 128  # rows are shuffled within this many batches ...
SHUFFLE_WINDOW_ROWS_MAX = 1 << 20  # ... and at most this many rows, which bounds memory


@dataclass
class KeyBatch:
    """One batch, ready to pull for.

    Attributes:
        keys: table -> uint64 (U,), unique, in first-occurrence order; every table of the
            configuration, in sorted order. This is what to pull and whose gradients to push.
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
    unit: UnitOfWork,
    config: TrainerConfig,
    seed: int,
    *,
    with_targets: bool = True,
    file_systems: FileSystems | None = None,
) -> Iterator[KeyBatch]:
    """The batches of one unit of work, in an order that depends on `seed` and the data alone.

    Rows are shuffled (`config.shuffle_data`) within windows of at most `SHUFFLE_WINDOW_BATCHES`
    batches, which also bounds memory; only the last batch is short.

    Args:
        seed: `DayPass.unit_seed(unit)`.
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
    windows = _windows(unit, plan, config, file_systems or FileSystems(config.ps_config))
    for number, window in enumerate(windows):
        order = np.arange(window.num_rows)
        if shuffled:
            order = np.random.default_rng((seed, number)).permutation(window.num_rows)
        for first in range(0, window.num_rows, config.batch_size):
            yield make(window.take(order[first : first + config.batch_size]))


def _plan_of(config: TrainerConfig, with_targets: bool) -> ColumnPlan:
    return ColumnPlan.of(
        config.feature_config,
        config.target_config,
        config.weight_config,
        with_targets=with_targets,
    )


def _windows(
    unit: UnitOfWork, plan: ColumnPlan, config: TrainerConfig, file_systems: FileSystems
) -> Iterator[Columns]:
    """Consecutive rows of the unit, a whole number of batches each (but the last)."""
    batches = min(SHUFFLE_WINDOW_BATCHES, SHUFFLE_WINDOW_ROWS_MAX // config.batch_size)
    window_rows = max(1, batches) * config.batch_size
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
