"""From units of work to batches of keys: order, boundaries, positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from distributed_trainer import key_batch
from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig, WeightConfig
from distributed_trainer.data_loader import S3ParquetDataLoader
from distributed_trainer.key_batch import KeyBatch, table_batches, unit_batches
from distributed_trainer.units import UnitOfWork, units_of_work

CONFIG = TrainerConfig(
    feature_config=FeatureConfig(["id"], ["x"], {"id": 4}),
    target_config=TargetConfig(["y"]),
    batch_size=10,
)


@pytest.fixture
def unit(write_parquet: Any, tmp_path: Any) -> UnitOfWork:
    """105 rows in three files; x is the row's number, id its remainder by 7."""
    for index, (first, last) in enumerate(((0, 40), (40, 41), (41, 105))):
        rows = range(first, last)
        columns = {"id": [r % 7 for r in rows], "x": [float(r) for r in rows], "y": [0] * len(rows)}
        write_parquet(f"{index}.parquet", columns, row_group_size=16)
    (only,) = units_of_work(S3ParquetDataLoader().discover_partitions(str(tmp_path)), 10)
    return only


def _batches(
    unit: UnitOfWork, config: TrainerConfig, seed: int, with_targets: bool = True
) -> Iterator[KeyBatch]:
    found = unit_batches([unit], config, lambda unit: seed, with_targets=with_targets)
    return (batch for _, _, batch in found)


def _order(batches: Iterator[KeyBatch]) -> list[list[float]]:
    return [batch.dense[:, 0].tolist() for batch in batches]


def test_every_row_comes_once_and_only_the_last_batch_is_short(unit: UnitOfWork) -> None:
    order = _order(_batches(unit, CONFIG, seed=1))
    assert [len(batch) for batch in order] == [10] * 10 + [5]
    assert sorted(row for batch in order for row in batch) == list(range(105))


def test_the_order_depends_on_the_seed_alone(unit: UnitOfWork) -> None:
    first = _order(_batches(unit, CONFIG, seed=1))
    assert first == _order(_batches(unit, CONFIG, seed=1))
    assert first != _order(_batches(unit, CONFIG, seed=2))
    plain = _order(_batches(unit, replace(CONFIG, shuffle_data=False), seed=1))
    assert [row for batch in plain for row in batch] == list(range(105))


def test_prediction_keeps_the_order_of_the_files_and_needs_no_targets(unit: UnitOfWork) -> None:
    config = replace(CONFIG, target_config=TargetConfig(["no such column"]))
    batches = list(_batches(unit, config, seed=1, with_targets=False))
    assert [row for batch in _order(iter(batches)) for row in batch] == list(range(105))
    assert all(batch.targets is None for batch in batches)


def test_windows_bound_what_is_held_and_do_not_change_the_boundaries(
    unit: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_batch, "SHUFFLE_WINDOW_ROWS", 30)
    monkeypatch.setattr(key_batch, "SHUFFLE_WINDOW_BATCHES_MIN", 1)
    order = _order(_batches(unit, CONFIG, seed=1))
    assert [len(batch) for batch in order] == [10] * 10 + [5]
    for window in range(4):
        rows = sorted(row for batch in order[3 * window : 3 * window + 3] for row in batch)
        assert rows == list(range(30 * window, min(30 * window + 30, 105)))


def test_units_follow_each_other_and_each_counts_its_batches_from_0(unit: UnitOfWork) -> None:
    other = replace(unit, id="other", parts=unit.parts[:2])
    seeds = {unit.id: 1, "other": 2}
    found = list(unit_batches([unit, other], CONFIG, lambda unit: seeds[unit.id]))
    assert [(u.id, index) for u, index, _ in found[:12]] == [
        *((unit.id, index) for index in range(11)),
        ("other", 0),
    ]
    alone = _order(_batches(other, CONFIG, seed=2))
    assert _order(batch for u, _, batch in found if u is other) == alone


def test_keys_are_unique_and_positions_lead_back_to_each_rows_id(unit: UnitOfWork) -> None:
    for batch in _batches(unit, CONFIG, seed=3):
        keys = batch.keys["id"]
        assert len(set(keys.tolist())) == len(keys)
        found = keys[batch.positions["id"]]
        assert found.tolist() == [int(row) % 7 for row in batch.dense[:, 0]]


SHARED = replace(
    CONFIG,
    feature_config=FeatureConfig(
        ["a", "b", "c", "d", "e"],
        [],
        {"a": 4, "b": 4, "c": 4, "d": 2, "e": 4},
        shared_tables={"a": "z", "c": "z", "e": "z"},
    ),
)


def _shared_batch() -> tuple[dict[str, list[Any]], KeyBatch]:
    columns: dict[str, list[Any]] = {
        "a": [1, 2, 1],
        "b": [1, 9, 9],
        "c": [2, 5, 1],
        "d": [7, 7, 8],
        "e": [[5, 6, 5], [], [1]],
        "y": [0, 1, 0],
    }
    return columns, next(iter(table_batches(pa.table(columns), SHARED)))


def test_features_of_one_table_share_one_set_of_keys() -> None:
    columns, batch = _shared_batch()
    assert list(batch.keys) == ["b", "d", "z"]
    assert sorted(batch.keys["z"].tolist()) == [1, 2, 5, 6]
    for name, table in {"a": "z", "b": "b", "c": "z", "d": "d"}.items():
        assert batch.keys[table][batch.positions[name]].tolist() == columns[name]


def test_lists_give_positions_and_the_offsets_of_each_sample() -> None:
    _, batch = _shared_batch()
    assert batch.keys["z"][batch.positions["e"]].tolist() == [5, 6, 5, 1]
    assert batch.offsets["e"].tolist() == [0, 3, 3, 4]
    assert list(batch.offsets) == ["e"]


def test_normalized_weights_add_up_to_the_rows_of_each_batch() -> None:
    table = pa.table({"id": range(15), "x": [0.0] * 15, "y": [0] * 15, "w": range(15)})
    config = replace(CONFIG, weight_config=WeightConfig("w", normalize_weights=True))
    batches = list(table_batches(table, config))
    assert [batch.weight_sum for batch in batches] == pytest.approx([10, 5])
    assert batches[0].weights[3] / batches[0].weights[1] == pytest.approx(3)
    zero = table.set_column(3, "w", pa.array([0] * 15))
    assert next(iter(table_batches(zero, config))).weight_sum == 0


# ---- reading ahead
