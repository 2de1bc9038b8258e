"""From Parquet columns to typed arrays: ids become uint64 keys, numbers become float32.

Only the columns that a configuration names are read. Nothing passes through float on its way to a
key. Errors name the file, the column, what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.config import FeatureConfig, TargetConfig, WeightConfig
from distributed_trainer.data_loader import FileSystems, parquet_errors
from distributed_trainer.units import FilePart
from pyspark_ps.errors import InvalidArgumentError
from pyspark_ps.utils.validation import nearest_name

if TYPE_CHECKING:
    import pyarrow as pa

READ_ROWS = 65_536  # rows decoded at once

KeysOf = Callable[[Any], NDArray[np.uint64]]
Unique = Callable[[NDArray[np.uint64]], tuple[NDArray[np.uint64], NDArray[np.int32]]]


def key_functions() -> tuple[KeysOf, Unique]:
    """(keys_of, unique) of the native module, loaded when first used."""
    from pyspark_ps import keys_of
    from pyspark_ps._core import unique

    return keys_of, unique


@dataclass(frozen=True)
class ColumnPlan:
    """Which columns are read, and as what. All names in the order the arrays have.

    Attributes:
        sparse, dense: feature names, sorted (the order of the model's input).
        targets: as configured; empty = not read.
    """

    sparse: tuple[str, ...]
    dense: tuple[str, ...]
    targets: tuple[str, ...]
    weight: str | None
    dense_fill: float | None
    default_weight: float
    num_classes: int | None
    task_type: str

    @staticmethod
    def of(
        feature_config: FeatureConfig,
        target_config: TargetConfig,
        weight_config: WeightConfig,
        *,
        with_targets: bool = True,
    ) -> ColumnPlan:
        """The plan of a configuration."""
        return ColumnPlan(
            sparse=tuple(sorted(feature_config.sparse_features)),
            dense=tuple(sorted(feature_config.dense_features)),
            targets=tuple(target_config.target_columns) if with_targets else (),
            weight=weight_config.weight_column if with_targets else None,
            dense_fill=feature_config.dense_fill,
            default_weight=weight_config.default_weight,
            num_classes=target_config.num_classes,
            task_type=target_config.task_type,
        )

    @property
    def names(self) -> list[str]:
        """Every column to read, once."""
        extra = (self.weight,) if self.weight is not None else ()
        return list(dict.fromkeys((*self.sparse, *self.dense, *self.targets, *extra)))


@dataclass
class Columns:
    """Rows of one source, column by column.

    Attributes:
        keys: sparse feature -> uint64 (N,).
        lists: list feature -> (uint64 keys (M,), int64 offsets (N + 1,)).
        dense: float32 (N, D).
        targets: float32 (N, T), int32 (N,) for multiclass, None when not read.
        weights: float32 (N,).
    """

    num_rows: int
    keys: dict[str, NDArray[np.uint64]] = field(default_factory=dict)
    lists: dict[str, tuple[NDArray[np.uint64], NDArray[np.int64]]] = field(default_factory=dict)
    dense: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    targets: NDArray[Any] | None = None
    weights: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def take(self, rows: NDArray[np.int64]) -> Columns:
        """The named rows, in that order."""
        return Columns(
            num_rows=len(rows),
            keys={name: keys[rows] for name, keys in self.keys.items()},
            lists={name: _take_lists(*lists, rows) for name, lists in self.lists.items()},
            dense=self.dense[rows],
            targets=None if self.targets is None else self.targets[rows],
            weights=self.weights[rows],
        )

    def slice(self, first: int, last: int) -> Columns:
        """Rows first to last - 1, as views."""
        return Columns(
            num_rows=last - first,
            keys={name: keys[first:last] for name, keys in self.keys.items()},
            lists={
                name: (
                    keys[offsets[first] : offsets[last]],
                    offsets[first : last + 1] - offsets[first],
                )
                for name, (keys, offsets) in self.lists.items()
            },
            dense=self.dense[first:last],
            targets=None if self.targets is None else self.targets[first:last],
            weights=self.weights[first:last],
        )

    @staticmethod
    def concat(parts: Sequence[Columns]) -> Columns:
        """All rows of the parts. A feature that holds lists in one holds lists in the result."""
        if len(parts) == 1:
            return parts[0]
        list_names = {name for part in parts for name in part.lists}
        names = [*parts[0].keys, *parts[0].lists]
        targets = [part.targets for part in parts if part.targets is not None]
        return Columns(
            num_rows=sum(part.num_rows for part in parts),
            keys={
                name: np.concatenate([part.keys[name] for part in parts])
                for name in names
                if name not in list_names
            },
            lists={
                name: _concat_lists([part.as_lists(name) for part in parts])
                for name in names
                if name in list_names
            },
            dense=np.concatenate([part.dense for part in parts]),
            targets=np.concatenate(targets) if targets else None,
            weights=np.concatenate([part.weights for part in parts]),
        )

    def ids(self, name: str) -> NDArray[np.uint64]:
        """A feature's keys, of lists one behind the other."""
        return self.keys[name] if name in self.keys else self.lists[name][0]

    def as_lists(self, name: str) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """A feature's (keys, offsets); a plain one as lists of one."""
        if name in self.lists:
            return self.lists[name]
        return self.keys[name], np.arange(self.num_rows + 1, dtype=np.int64)


def _take_lists(
    keys: NDArray[np.uint64], offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    taken = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=taken[1:])
    index = np.repeat(starts - taken[:-1], lengths) + np.arange(taken[-1])
    return keys[index], taken


def _concat_lists(
    parts: Sequence[tuple[NDArray[np.uint64], NDArray[np.int64]]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    offsets = [np.zeros(1, np.int64)]
    base = 0
    for keys, part_offsets in parts:
        offsets.append(part_offsets[1:] + base)
        base += len(keys)
    return np.concatenate([keys for keys, _ in parts]), np.concatenate(offsets)


def read_part(part: FilePart, plan: ColumnPlan, file_systems: FileSystems) -> Iterator[Columns]:
    """Reads part of a file, `READ_ROWS` rows at a time.

    Raises:
        InvalidArgumentError: a column is missing, of a wrong type, or holds what is not allowed.
        StorageError, DataCorruptionError: the file cannot be read, or is damaged.
    """
    for batch in read_record_batches(part, plan.names, file_systems):
        yield columns_of(batch, plan, part.path)


def read_record_batches(
    part: FilePart, names: list[str], file_systems: FileSystems
) -> Iterator[pa.RecordBatch]:
    """The named columns of part of a file; errors as `read_part`."""
    import pyarrow.parquet as pq

    filesystem, path = file_systems.of(part.path)
    with parquet_errors(part.path):
        file = pq.ParquetFile(filesystem.open_input_file(path), pre_buffer=True)
    with file:
        check_names(file.schema_arrow.names, names, part.path)
        batches = file.iter_batches(batch_size=READ_ROWS, row_groups=part.row_groups, columns=names)
        while True:
            with parquet_errors(part.path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def check_names(found: Sequence[str], wanted: Sequence[str], source: str) -> None:
    """Refuses data that lack a column, or have two of its name."""
    for name in wanted:
        if name not in found:
            told = f"there is no column {name!r}{nearest_name(name, found)}"
        elif found.count(name) > 1:
            told = f"there is more than one column {name!r}: give them names of their own"
        else:
            continue
        raise InvalidArgumentError(f"{source}: {told}")


def columns_of(data: pa.RecordBatch | pa.Table, plan: ColumnPlan, source: str) -> Columns:
    """Typed arrays of Arrow data.

    Args:
        source: where the data come from, for errors (a path).

    Raises:
        InvalidArgumentError: as `read_part`.
    """
    keys_of, _ = key_functions()
    check_names(data.schema.names, plan.names, source)
    result = Columns(num_rows=data.num_rows)
    for name in plan.sparse:
        column = _combined(data.column(name))
        if is_list(column.type):
            check_id_type(column.type.value_type, name, source)
            result.lists[name] = _list_keys(column, keys_of)
        else:
            check_id_type(column.type, name, source)
            result.keys[name] = keys_of(column)
    result.dense = np.empty((data.num_rows, len(plan.dense)), np.float32)
    for index, name in enumerate(plan.dense):
        result.dense[:, index] = dense_values(data.column(name), plan.dense_fill, name, source)
    if plan.targets:
        result.targets = target_values([data.column(name) for name in plan.targets], plan, source)
    weight_column = None if plan.weight is None else data.column(plan.weight)
    result.weights = weight_values(weight_column, data.num_rows, plan, source)
    return result


def _combined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    if not isinstance(column, pa.ChunkedArray):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):  # some types cannot be combined into one array
        combined = pa.concat_arrays(combined.chunks) if combined.num_chunks else combined
    return combined


def is_list(kind: pa.DataType) -> bool:
    """Whether a column's values are lists."""
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def check_id_type(kind: pa.DataType, name: str, source: str) -> None:
    """Refuses types that are no ids, saying what to cast."""
    import pyarrow as pa

    types = pa.types
    value = kind.value_type if types.is_dictionary(kind) else kind
    allowed = (
        types.is_integer,
        types.is_boolean,
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
        types.is_fixed_size_binary,
        types.is_null,
    )
    if any(is_kind(value) for is_kind in allowed):
        return
    cast = "to an integer or a string"
    if types.is_floating(value) or types.is_decimal(value):
        cast = "to int64 (whole numbers) or to a string"
    elif types.is_temporal(value):
        cast = "to a string, or to the integer that it counts"
    elif types.is_nested(value):
        cast = "to a list of ids, or split it into columns"
    raise InvalidArgumentError(
        f"{source}: sparse column {name!r} has the type {kind}; ids are integers, booleans, "
        f"strings, binary, dictionaries of these or lists of these: cast it {cast}"
    )


def _list_keys(column: pa.Array, keys_of: KeysOf) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(column) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return keys_of(column.flatten()), offsets


def _numbers(
    column: pa.Array | pa.ChunkedArray, name: str, role: str, source: str
) -> tuple[NDArray[np.float64] | NDArray[np.float32], NDArray[np.bool_] | None]:
    """(values with 0 where null, where null or None); float32 stays float32."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    types = pa.types
    numeric = (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    )
    if not numeric:
        raise InvalidArgumentError(
            f"{source}: {role} column {name!r} has the type {kind}; it must be numeric or boolean:"
            " cast it to a number"
        )
    missing = None
    if column.null_count:
        missing = _to_numpy(pc.is_null(column))
    target = pa.float32() if types.is_float32(kind) else pa.float64()
    if types.is_float16(kind):
        target = pa.float32()
    if not kind.equals(target):
        if types.is_boolean(kind):
            column = pc.cast(column, pa.uint8())
        column = pc.cast(column, target, safe=False)
    if missing is not None:
        column = pc.fill_null(column, 0.0)
    return _to_numpy(column), missing


def _to_numpy(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        return np.asarray(column.to_numpy())
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _describe_bad(bad: NDArray[np.bool_], missing: NDArray[np.bool_] | None) -> str:
    nulls = 0 if missing is None else int(missing.sum())
    others = int(bad.sum()) - nulls
    parts = []
    if nulls:
        parts.append(f"{nulls} null")
    if others:
        parts.append(f"{others} NaN or infinite")
    return " and ".join(parts)


def dense_values(
    column: pa.Array | pa.ChunkedArray, fill: float | None, name: str, source: str
) -> NDArray[np.float32]:
    """float32 (N,); null, NaN and infinite values become `fill`, or an error where it is None."""
    numbers, missing = _numbers(column, name, "dense", source)
    with np.errstate(over="ignore"):
        values = numbers.astype(np.float32)
    bad = ~np.isfinite(values)
    if missing is not None:
        bad |= missing
    if bad.any():
        if fill is None:
            raise InvalidArgumentError(
                f"{source}: dense column {name!r} holds {_describe_bad(bad, missing)} values in "
                f"{len(values)} rows; set FeatureConfig.dense_fill to replace them, or clean them"
            )
        values[bad] = fill
    return values


def target_values(
    columns: Sequence[pa.Array | pa.ChunkedArray], plan: ColumnPlan, source: str
) -> NDArray[Any]:
    """float32 (N, T), or int32 (N,) class numbers for multiclass."""
    matrix = np.empty((len(columns[0]), len(columns)), np.float64)
    for index, (name, column) in enumerate(zip(plan.targets, columns, strict=True)):
        values, missing = _numbers(column, name, "target", source)
        bad = ~np.isfinite(values.astype(np.float32, copy=False))
        if missing is not None:
            bad |= missing
        if bad.any():
            raise InvalidArgumentError(
                f"{source}: target column {name!r} holds {_describe_bad(bad, missing)} values in "
                f"{len(values)} rows; every row needs a target: drop or label these rows"
            )
        _check_target_range(values, name, plan, source)
        matrix[:, index] = values
    if plan.task_type == "multiclass":
        return matrix[:, 0].astype(np.int32)
    return matrix.astype(np.float32)


def _check_target_range(values: NDArray[Any], name: str, plan: ColumnPlan, source: str) -> None:
    if plan.task_type == "multiclass":
        assert plan.num_classes is not None
        bad = (values < 0) | (values >= plan.num_classes) | (values != np.floor(values))
        allowed = f"integers in 0 to {plan.num_classes - 1} (num_classes = {plan.num_classes})"
    elif plan.task_type == "regression":
        return
    else:
        bad = (values < 0) | (values > 1)
        allowed = "0 to 1"
    if bad.any():
        raise InvalidArgumentError(
            f"{source}: target column {name!r} holds {values[bad][0]:g}; task_type "
            f"{plan.task_type!r} allows {allowed}"
        )


def weight_values(
    column: pa.Array | pa.ChunkedArray | None, num_rows: int, plan: ColumnPlan, source: str
) -> NDArray[np.float32]:
    """float32 (N,); null (and no column) = the default weight."""
    if column is None:
        return np.full(num_rows, plan.default_weight, np.float32)
    name = plan.weight or ""
    numbers, missing = _numbers(column, name, "weight", source)
    with np.errstate(over="ignore"):
        values = numbers.astype(np.float32)
    if missing is not None:
        values[missing] = plan.default_weight
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        raise InvalidArgumentError(
            f"{source}: weight column {name!r} holds {values[bad][0]:g} ({int(bad.sum())} such "
            f"rows); weights are finite and >= 0"
        )
    return values


def batch_weights(weights: NDArray[np.float32], normalize: bool) -> NDArray[np.float32]:
    """Weights of a batch (B,); normalised they add up to B, unless all are zero."""
    total = weights.sum(dtype=np.float64)
    if not normalize or total == 0:
        return weights
    return weights * np.float32(len(weights) / total)
