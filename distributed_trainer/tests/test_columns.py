"""Columns to keys and numbers: types, nulls, and errors that name file and column."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distributed_trainer import columns as columns_module
from distributed_trainer.columns import ColumnPlan, Columns, columns_of, read_part
from distributed_trainer.config import FeatureConfig, TargetConfig, WeightConfig
from distributed_trainer.data_loader import FileSystems
from distributed_trainer.units import FilePart
from pyspark_ps.errors import DataCorruptionError, InvalidArgumentError, StorageError


def _plan(**options: Any) -> ColumnPlan:
    return ColumnPlan.of(
        options.get("features", FeatureConfig(["id"], ["x"])),
        options.get("target", TargetConfig(["y"])),
        options.get("weight", WeightConfig()),
    )


def _table(**columns: Any) -> pa.Table:
    return pa.table({"id": [1, 2], "x": [0.5, 1.5], "y": [0, 1]} | columns)


def _keys(values: Any, **options: Any) -> list[int]:
    columns = columns_of(_table(id=values), _plan(**options), "f")
    return [int(key) for key in columns.keys["id"]]


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64()], ids=str
)
def test_integers_of_any_width_are_their_64_bits(kind: pa.DataType) -> None:
    assert _keys(pa.array([3, 7], kind)) == [3, 7]


def test_large_and_negative_ids_never_pass_through_float() -> None:
    assert _keys(pa.array([2**53 + 1, -1])) == [2**53 + 1, 2**64 - 1]
    with_null = pa.array([2**53 + 1, None])
    assert _keys(with_null)[0] == 2**53 + 1


@pytest.mark.parametrize(
    ("values", "same"),
    [
        (pa.array(["a", "b"], pa.large_string()), pa.array(["a", "b"])),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["a", "b"])),
        (pa.array([b"a", b"b"]), pa.array(["a", "b"])),
        (pa.array([True, False]), pa.array([1, 0])),
        (pa.array([5, 5]).dictionary_encode(), pa.array([5, 5])),
    ],
    ids=["large strings", "dictionary", "bytes", "booleans", "dictionary of integers"],
)
def test_the_same_id_in_another_type_is_the_same_key(values: pa.Array, same: pa.Array) -> None:
    assert _keys(values) == _keys(same)


def test_null_is_one_key_of_its_own_whatever_the_type() -> None:
    keys = {
        _keys(values)[1]
        for values in (
            pa.array(["a", None]),
            pa.array([7, None]),
            pa.array([True, None]),
            pa.array(["a", None]).dictionary_encode(),
        )
    }
    assert len(keys) == 1
    assert len(set(_keys(pa.nulls(2)))) == 1


def test_chunked_dictionaries_with_different_dictionaries_agree() -> None:
    chunks = [pa.array([value]).dictionary_encode() for value in ("p", "q")]
    assert _keys(pa.chunked_array(chunks)) == _keys(pa.array(["p", "q"]))


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)],
    ids=["list", "large list", "fixed list"],
)
def test_lists_become_keys_and_offsets(kind: pa.DataType) -> None:
    values = pa.array([[1, 2], None], kind)
    keys, offsets = columns_of(_table(id=values), _plan(), "f").lists["id"]
    assert keys.tolist() == [1, 2]
    assert offsets.tolist() == [0, 2, 2]


def test_lists_may_be_empty_sliced_and_hold_the_null_id() -> None:
    null_key = int(columns_module.key_functions()[0](pa.array([None], pa.int64()))[0])
    table = _table(id=pa.array([[], [4, None]], pa.list_(pa.int64())))
    keys, offsets = columns_of(table, _plan(), "f").lists["id"]
    assert keys.tolist() == [4, null_key]
    assert offsets.tolist() == [0, 0, 2]
    keys, offsets = columns_of(table.slice(1), _plan(), "f").lists["id"]
    assert (keys.tolist(), offsets.tolist()) == ([4, null_key], [0, 2])


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (pa.array([1.0, 2.0]), "int64"),
        (pa.array([decimal.Decimal("1.0")] * 2), "int64"),
        (pa.array([datetime.date(2024, 1, 1)] * 2), "to a string"),
        (pa.array([{"a": 1}] * 2), "split it into columns"),
        (pa.array([[[1]], [[2]]]), "list of ids"),
        (pa.array([[1.5], []]), "int64"),
    ],
    ids=["float", "decimal", "date", "struct", "nested list", "list of floats"],
)
def test_what_is_no_id_is_refused_with_what_to_cast(values: pa.Array, advice: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cast it") as caught:
        columns_of(_table(id=values), _plan(), "day/f.parquet")
    assert "day/f.parquet" in str(caught.value)
    assert "'id'" in str(caught.value)
    assert advice in str(caught.value)


def test_a_missing_column_is_named_with_its_file(write_parquet: Any) -> None:
    path = write_parquet("f.parquet", {"idd": [1], "x": [1.0], "y": [1]})
    with pytest.raises(InvalidArgumentError, match=r"f\.parquet.*'id'; did you mean 'idd'"):
        list(read_part(FilePart(path, 1, 1), _plan(), FileSystems()))


def test_only_the_needed_columns_are_read(write_parquet: Any) -> None:
    path = write_parquet("f.parquet", {**_table().to_pydict(), "other": [{"a": 1}, {"a": 2}]})
    (columns,) = read_part(FilePart(path, 1, 2), _plan(), FileSystems())
    assert list(columns.keys) == ["id"]
    assert columns.num_rows == 2


def test_row_groups_of_a_part_are_read_and_no_others(write_parquet: Any) -> None:
    table = {"id": range(10), "x": [0.0] * 10, "y": [0] * 10}
    path = write_parquet("f.parquet", table, row_group_size=2)
    columns = Columns.concat(list(read_part(FilePart(path, 1, 4, (1, 4)), _plan(), FileSystems())))
    assert columns.keys["id"].tolist() == [2, 3, 8, 9]


def test_a_file_that_is_gone_or_damaged_is_named(write_parquet: Any, tmp_path: Any) -> None:
    with pytest.raises(StorageError, match=r"gone\.parquet"):
        list(read_part(FilePart(str(tmp_path / "gone.parquet"), 1, 1), _plan(), FileSystems()))
    path = write_parquet("f.parquet", _table(), compression="none")
    data = bytearray((tmp_path / "f.parquet").read_bytes())
    data[4:40] = b"\xff" * 36
    (tmp_path / "f.parquet").write_bytes(data)
    with pytest.raises(DataCorruptionError, match=r"f\.parquet"):
        list(read_part(FilePart(path, 1, 2), _plan(), FileSystems()))


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 1e300], ids=str)
def test_a_bad_dense_value_is_refused_or_filled(value: float | None) -> None:
    table = _table(x=pa.array([0.5, value], pa.float64()))
    with pytest.raises(InvalidArgumentError, match=r"g: dense column 'x' .*dense_fill"):
        columns_of(table, _plan(), "g")
    filled = columns_of(table, _plan(features=FeatureConfig(["id"], ["x"], dense_fill=-2.0)), "g")
    assert filled.dense.tolist() == [[0.5], [-2.0]]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 0], pa.int8()),
        pa.array([True, False]),
        pa.array([1.0, 0.0], pa.float16()),
        pa.array([1.0, 0.0], pa.float32()),
        pa.array([decimal.Decimal("1"), decimal.Decimal("0")]),
        pa.chunked_array([[1], [0]]),
    ],
    ids=["int8", "bool", "float16", "float32", "decimal", "chunked"],
)
def test_dense_numbers_of_any_type_are_float32(values: pa.Array) -> None:
    columns = columns_of(_table(x=values), _plan(), "f")
    assert columns.dense.dtype == np.float32
    assert columns.dense.tolist() == [[1.0], [0.0]]


def test_dense_features_stand_in_sorted_order() -> None:
    table = _table(b=[1, 2], a=[3, 4])
    columns = columns_of(table, _plan(features=FeatureConfig(["id"], ["b", "a"])), "f")
    assert columns.dense.tolist() == [[3, 1], [4, 2]]


def test_text_is_no_number() -> None:
    for name, role in (("x", "dense"), ("y", "target")):
        with pytest.raises(InvalidArgumentError, match=f"{role} column '{name}'.*string"):
            columns_of(_table(**{name: ["1", "2"]}), _plan(), "f")


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_row_without_target_is_an_error(value: float | None) -> None:
    with pytest.raises(InvalidArgumentError, match="f: target column 'y' holds 1"):
        columns_of(_table(y=pa.array([1.0, value])), _plan(), "f")


@pytest.mark.parametrize(
    ("target", "values"),
    [
        (TargetConfig(["y"]), [0, 2]),
        (TargetConfig(["y"], "multiclass", 3), [0, 3]),
        (TargetConfig(["y"], "multiclass", 3), [0, 1.5]),
        (TargetConfig(["y"], "multi_label"), [-1, 0]),
    ],
)
def test_targets_outside_of_the_tasks_range_are_refused(
    target: TargetConfig, values: list[float]
) -> None:
    with pytest.raises(InvalidArgumentError, match="allows"):
        columns_of(_table(y=values), _plan(target=target), "f")


def test_targets_have_the_tasks_shape() -> None:
    one = columns_of(_table(), _plan(), "f").targets
    assert one is not None
    assert (one.dtype, one.tolist()) == (np.float32, [[0], [1]])
    plan = _plan(target=TargetConfig(["y"], "multiclass", 2))
    classes = columns_of(_table(), plan, "f").targets
    assert classes is not None
    assert (classes.dtype, classes.tolist()) == (np.int32, [0, 1])


def test_a_null_weight_counts_as_the_default() -> None:
    plan = _plan(weight=WeightConfig("w", default_weight=0.25))
    table = _table(w=pa.array([None, 3.0]))
    assert columns_of(table, plan, "f").weights.tolist() == [0.25, 3.0]
    plan = _plan(weight=WeightConfig(default_weight=0.5))
    assert columns_of(_table(), plan, "f").weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_bad_weight_is_an_error(value: float) -> None:
    with pytest.raises(InvalidArgumentError, match="f: weight column 'w'"):
        columns_of(_table(w=[1.0, value]), _plan(weight=WeightConfig("w")), "f")


@pytest.fixture
def mixed() -> Callable[[Any], Columns]:
    return lambda ids: columns_of(_table(id=ids), _plan(), "f")


def test_taking_and_slicing_keep_lists_with_their_rows(mixed: Callable[[Any], Columns]) -> None:
    columns = mixed(pa.array([[1, 2, 3], [4]]))
    taken = columns.take(np.array([1, 0, 1]))
    assert taken.lists["id"][0].tolist() == [4, 1, 2, 3, 4]
    assert taken.lists["id"][1].tolist() == [0, 1, 4, 5]
    assert taken.dense[:, 0].tolist() == [1.5, 0.5, 1.5]
    part = taken.slice(1, 3)
    assert part.lists["id"][0].tolist() == [1, 2, 3, 4]
    assert part.lists["id"][1].tolist() == [0, 3, 4]


def test_a_feature_may_be_plain_in_one_file_and_a_list_in_the_next(
    mixed: Callable[[Any], Columns],
) -> None:
    joined = Columns.concat([mixed(pa.array([8, 9])), mixed(pa.array([[], [1, 2]]))])
    assert joined.lists["id"][0].tolist() == [8, 9, 1, 2]
    assert joined.lists["id"][1].tolist() == [0, 1, 2, 2, 4]
    assert not joined.keys
