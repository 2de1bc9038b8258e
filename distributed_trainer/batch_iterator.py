"""Batches: the public `Batch` and `BatchIterator`, and the trainer's own road from units of work.

The road: `unit_batches` reads a unit of work, maps ids to keys, shuffles and yields `KeyBatch`es:
unique keys per table to pull, and positions in them that the look-ups gather by.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.columns import (
    ColumnPlan,
    Columns,
    check_id_type,
    check_names,
    columns_of,
    dense_values,
    is_list,
    key_functions,
    read_part,
    target_values,
    weight_values,
)
from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig, WeightConfig
from distributed_trainer.data_loader import FileSystems
from distributed_trainer.units import UnitOfWork
from pyspark_ps.errors import InvalidArgumentError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

T = TypeVar("T")

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
    unit: UnitOfWork, config: TrainerConfig, seed: int, *, with_targets: bool = True
) -> Iterator[KeyBatch]:
    """The batches of one unit of work, in an order that depends on `seed` and the data alone.

    Rows are shuffled (`config.shuffle_data`) within windows of at most `SHUFFLE_WINDOW_BATCHES`
    batches, which also bounds memory; only the last batch is short.

    Args:
        seed: `DayPass.unit_seed(unit)`.
        with_targets: False leaves target and weight columns unread (predict); every weight is
            then `default_weight`, and rows keep their order.

    Raises:
        InvalidArgumentError: a column is missing, of a wrong type, or holds what is not allowed;
            names file and column.
        StorageError, DataCorruptionError: the file cannot be read, or is damaged.
    """
    plan = _plan_of(config, with_targets)
    make = _KeyBatchMaker(config)
    shuffled = config.shuffle_data and with_targets
    windows = _windows(unit, plan, config)
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


def _windows(unit: UnitOfWork, plan: ColumnPlan, config: TrainerConfig) -> Iterator[Columns]:
    """Consecutive rows of the unit, a whole number of batches each (but the last)."""
    batches = min(SHUFFLE_WINDOW_BATCHES, SHUFFLE_WINDOW_ROWS_MAX // config.batch_size)
    window_rows = max(1, batches) * config.batch_size
    waiting: list[Columns] = []
    rows = 0
    file_systems = FileSystems(config.ps_config)
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


def batch_weights(weights: NDArray[np.float32], normalize: bool) -> NDArray[np.float32]:
    """Weights of a batch (B,); normalised they add up to B, unless all are zero."""
    total = weights.sum(dtype=np.float64)
    if not normalize or total == 0:
        return weights
    return weights * np.float32(len(weights) / total)


_END = object()


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Runs `items` in a thread of its own, at most `depth` items ahead (0 = no thread).

    Its errors are raised here. Closing the iterator ends the thread, after the item that it is
    at.
    """
    if depth == 0:
        yield from items
        return
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    closed = threading.Event()
    reader = threading.Thread(
        target=_fill, args=(items, ready, closed), name="read-ahead", daemon=True
    )
    reader.start()
    try:
        while True:
            item = ready.get()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        closed.set()
        while reader.is_alive():  # a full queue holds the reader until it is emptied
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.05)
        reader.join()


@dataclass
class _Failure:
    error: BaseException


def _fill(items: Iterable[T], ready: queue.Queue[Any], closed: threading.Event) -> None:
    try:
        for item in items:
            if closed.is_set():
                return
            ready.put(item)
    except BaseException as error:
        ready.put(_Failure(error))
    else:
        ready.put(_END)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


@dataclass
class Batch:
    """One batch of raw data.

    Attributes:
        sparse_features: feature -> raw ids (B,); list features as object arrays of lists.
        dense_features: feature -> float32 (B,).
        targets: float32 (B,) for one target column, (B, T) for several; int32 for multiclass.
        weights: float32 (B,) or None.
        batch_size: B.
    """

    sparse_features: dict[str, NDArray[Any]] = field(default_factory=dict)
    dense_features: dict[str, NDArray[Any]] = field(default_factory=dict)
    targets: NDArray[Any] | None = None
    weights: NDArray[np.float32] | None = None
    batch_size: int = 0

    def get_all_sparse_tokens(self) -> NDArray[Any]:
        """Every id of the batch once, over all sparse features, in order of first occurrence."""
        ids = [token for ids in self.sparse_features.values() for token in _flat(ids)]
        return _distinct(ids)

    def get_sparse_tokens_by_feature(self) -> dict[str, NDArray[Any]]:
        """feature -> its ids of the batch, each once, in order of first occurrence."""
        return {name: _distinct(_flat(ids)) for name, ids in self.sparse_features.items()}

    def get_dense_matrix(self) -> NDArray[np.float32]:
        """float32 (B, D), dense features in sorted name order."""
        if not self.dense_features:
            return np.zeros((self.batch_size, 0), np.float32)
        columns = [self.dense_features[name] for name in sorted(self.dense_features)]
        return np.stack(columns, axis=1).astype(np.float32)


def _flat(ids: NDArray[Any]) -> list[Any]:
    flat: list[Any] = []
    for token in ids.tolist():
        if isinstance(token, (list, tuple, np.ndarray)):
            flat.extend(token)
        else:
            flat.append(token)
    return flat


def _distinct(ids: list[Any]) -> NDArray[Any]:
    # 1 == True in Python, yet they came from columns of different types: the type tells them apart
    kept = list({(type(token), token): token for token in ids}.values())
    kinds = {type(token) for token in kept}
    if kinds == {int} and all(-(2**63) <= token < 2**63 for token in kept):
        return np.array(kept, np.int64)
    array = np.empty(len(kept), object)
    array[:] = kept
    return array


class BatchIterator:
    """Iterates over data in memory, batch by batch; the last one may be short.

    Each iteration starts anew. With a `seed` every one has the same order.

    Args:
        data: a DataFrame, an Arrow table, or record batches of one schema.
        shuffle: rows in random order.

    Attributes:
        num_samples, num_batches: of one iteration; `len` is num_batches.

    Raises:
        ConfigurationError: an invalid configuration.
        InvalidArgumentError: a missing column, a wrong type, a value that is not allowed.
    """

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
        for config in (feature_config, target_config, weight_config):
            config.validate()
        if batch_size < 1:
            raise InvalidArgumentError(f"batch_size = {batch_size!r}: allowed is >= 1")
        plan = ColumnPlan.of(feature_config, target_config, weight_config)
        columns = _raw_columns(data, plan)
        self._sparse = {name: _raw_ids(columns[name], name) for name in plan.sparse}
        source = "data"
        arrow = {name: _to_arrow(columns[name]) for name in plan.names if name not in plan.sparse}
        for name in {*plan.dense, *plan.targets, plan.weight} & set(plan.sparse) - {None}:
            arrow[str(name)] = _to_arrow(columns[str(name)])
        self._dense = {
            name: dense_values(arrow[name], plan.dense_fill, name, source) for name in plan.dense
        }
        self._targets = None
        if plan.targets:
            targets = target_values([arrow[name] for name in plan.targets], plan, source)
            one = targets.ndim == 2 and targets.shape[1] == 1
            self._targets = targets[:, 0] if one else targets
        self.num_samples = len(next(iter(columns.values()))) if columns else 0
        weight_column = None if plan.weight is None else arrow[plan.weight]
        self._weights = weight_values(weight_column, self.num_samples, plan, source)
        self._normalize = weight_config.normalize_weights
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self.num_batches = -(-self.num_samples // batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(self.num_samples)
        if self._shuffle:
            order = np.random.default_rng(self._seed).permutation(self.num_samples)
        for first in range(0, self.num_samples, self._batch_size):
            rows = order[first : first + self._batch_size]
            yield Batch(
                sparse_features={name: ids[rows] for name, ids in self._sparse.items()},
                dense_features={name: values[rows] for name, values in self._dense.items()},
                targets=None if self._targets is None else self._targets[rows],
                weights=batch_weights(self._weights[rows], self._normalize),
                batch_size=len(rows),
            )


def _raw_columns(data: Any, plan: ColumnPlan) -> dict[str, Any]:
    """name -> pandas Series or Arrow column, of what the plan names."""
    import pyarrow as pa

    if isinstance(data, pa.RecordBatch):
        data = [data]
    if hasattr(data, "iloc"):  # a DataFrame, whose columns may be named by anything
        names = [str(name) for name in data.columns]
        columns = [data.iloc[:, index] for index in range(len(names))]
    else:
        if not isinstance(data, pa.Table):
            batches = list(data)
            if not batches:
                raise InvalidArgumentError("data = []: allowed is at least one record batch")
            data = pa.Table.from_batches(batches)
        names, columns = data.schema.names, data.columns
    check_names(names, plan.names, "data")
    found = dict(zip(names, columns, strict=True))
    return {name: found[name] for name in plan.names}


def _to_arrow(column: Any) -> Any:
    import pyarrow as pa

    if isinstance(column, (pa.Array, pa.ChunkedArray)):
        return column
    try:
        return pa.array(column, from_pandas=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidArgumentError(f"data: column {column.name!r}: {error}") from error


def _raw_ids(column: Any, name: str) -> NDArray[Any]:
    """Ids as they are: never through float, nulls as None in an object array."""
    import pyarrow as pa

    if not isinstance(column, (pa.Array, pa.ChunkedArray)):
        kind = column.dtype
        if kind.kind == "O" and isinstance(kind, np.dtype):
            ids: NDArray[Any] = np.empty(len(column), object)
            ids[:] = column.to_list()
            return ids
        if kind.kind in "iub" and not column.isna().any():
            return np.asarray(column.to_numpy())
        column = pa.array(column, from_pandas=False)
    kind = column.type
    if is_list(kind):
        check_id_type(kind.value_type, name, "data")
    else:
        check_id_type(kind, name, "data")
        plain = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        if plain and not column.null_count:
            zero_copy = {} if isinstance(column, pa.ChunkedArray) else {"zero_copy_only": False}
            return np.asarray(column.to_numpy(**zero_copy))
    ids = np.empty(len(column), object)
    ids[:] = column.to_pylist()
    return ids
