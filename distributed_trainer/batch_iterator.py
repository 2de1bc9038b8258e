"""Batches of data in memory, as users see them: raw ids, dense columns, targets, weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.columns import (
    ColumnPlan,
    batch_weights,
    check_id_type,
    check_names,
    dense_values,
    is_list,
    target_values,
    weight_values,
)
from distributed_trainer.config import FeatureConfig, TargetConfig, WeightConfig
from pyspark_ps.errors import InvalidArgumentError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


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
