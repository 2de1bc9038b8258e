"""Batches: the public `Batch` and `BatchIterator`, and the trainer's own road from units of work.

The road: `unit_batches` reads a unit of work, maps ids to keys, shuffles and yields `KeyBatch`es:
unique keys per table to pull, and positions in them that the compiled step gathers by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig, WeightConfig
from distributed_trainer.data_loader import UnitOfWork

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

T = TypeVar("T")


@dataclass
class KeyBatch:
    """One batch, ready to pull for.

    Attributes:
        keys: table -> uint64 (U,), unique, in first-occurrence order; every table of the
            configuration, in sorted order. This is what to pull and whose gradients to push.
        positions: dim -> int32 (B, features of that dim that are no lists, in sorted order): row
            numbers in the rows of that dim's tables laid one behind the other (sorted by name).
        lists: list feature -> (int32 (N,) row numbers as above, int32 (N,) sample of each).
        dense: float32 (B, D), features in sorted order.
        targets: float32 (B, T), or int32 (B,) for multiclass; None where not asked for.
        weights: float32 (B,), normalised where the configuration says so.
        num_rows: B.
        weight_sum: sum of `weights`.
    """

    keys: dict[str, NDArray[np.uint64]]
    positions: dict[int, NDArray[np.int32]]
    lists: dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]]
    dense: NDArray[np.float32]
    targets: NDArray[Any] | None
    weights: NDArray[np.float32]
    num_rows: int
    weight_sum: float


def unit_batches(
    unit: UnitOfWork, config: TrainerConfig, seed: int, *, with_targets: bool = True
) -> Iterator[KeyBatch]:
    """The batches of one unit of work, in an order that depends on `seed` and the data alone.

    Rows are shuffled (`config.shuffle_data`) within windows of at most `SHUFFLE_WINDOW_BATCHES`
    batches, which also bounds memory; only the last batch is short.

    Args:
        seed: `DayPass.unit_seed(unit)`.
        with_targets: False leaves target columns unread (predict).

    Raises:
        InvalidArgumentError: a column is missing, of a wrong type, or holds what is not allowed;
            names file and column.
        StorageError, DataCorruptionError: the file cannot be read, or is damaged.
    """
    raise NotImplementedError


def table_batches(
    data: pa.Table, config: TrainerConfig, *, source: str = "table", with_targets: bool = True
) -> Iterator[KeyBatch]:
    """Batches of an Arrow table in memory, in its own order."""
    raise NotImplementedError


def read_ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """Runs `items` in a thread of its own, at most `depth` items ahead (0 = no thread).

    Its errors are raised here. Closing the iterator ends the thread.
    """
    raise NotImplementedError


@dataclass
class Batch:
    """One batch of raw data.

    Attributes:
        sparse_features: feature -> raw ids (B,); list features as object arrays of lists.
        dense_features: feature -> float32 (B,).
        targets: float32 (B, T), or int32 (B,) for multiclass.
        weights: float32 (B,) or None.
    """

    sparse_features: dict[str, NDArray[Any]] = field(default_factory=dict)
    dense_features: dict[str, NDArray[Any]] = field(default_factory=dict)
    targets: NDArray[Any] | None = None
    weights: NDArray[np.float32] | None = None
    batch_size: int = 0


class BatchIterator:
    """Iterates over data in memory, batch by batch."""

    def __init__(
        self,
        data: pd.DataFrame | pa.Table | Iterable[pa.RecordBatch],
        feature_config: FeatureConfig,
        target_config: TargetConfig,
        weight_config: WeightConfig,
        batch_size: int = 1024,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        raise NotImplementedError
