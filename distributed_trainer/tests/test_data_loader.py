"""Finding files, dividing them into units of work, and dates."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from distributed_trainer.data_loader import (
    PartitionInfo,
    S3ParquetDataLoader,
    format_date_path,
    parse_date_range,
)
from distributed_trainer.units import (
    UNIT_BATCHES_CUT,
    UNIT_BATCHES_MIN,
    distribute_units,
    units_of_work,
)
from pyspark_ps.errors import (
    ConfigurationError,
    DataCorruptionError,
    InvalidArgumentError,
    StorageError,
)

LOADER = S3ParquetDataLoader()


def _file(path: str, *groups: int, size: int | None = None) -> PartitionInfo:
    rows = sum(groups)
    metadata = {"row_groups": [[group, group * 8] for group in groups]}
    return PartitionInfo(path, rows * 8 if size is None else size, rows, metadata)


def test_files_are_found_recursively_and_hidden_ones_left_out(
    write_parquet: Any, tmp_path: Path
) -> None:
    columns = {"a": [1, 2, 3]}
    names = ["day/b.parquet", "day/hour=1/a.parquet", "day/a.parquet"]
    for name in names:
        write_parquet(name, columns, row_group_size=2)
    for name in (
        "day/_SUCCESS.parquet",
        "day/.x.parquet",
        "day/_tmp/c.parquet",
        "day/.h/c.parquet",
    ):
        write_parquet(name, columns)
    (tmp_path / "day" / "notes.txt").write_text("no data")
    found = LOADER.discover_partitions(str(tmp_path / "day"))
    assert [part.path for part in found] == sorted(str(tmp_path / name) for name in names)
    assert all(part.num_rows == 3 for part in found)
    assert [rows for rows, _ in found[0].metadata["row_groups"]] == [2, 1]
    assert found[0].size_bytes == Path(found[0].path).stat().st_size
    by_pattern = LOADER.discover_partitions(str(tmp_path / "day"), "b*.parquet")
    assert [Path(part.path).name for part in by_pattern] == ["b.parquet"]


def test_a_folder_above_may_be_hidden(write_parquet: Any, tmp_path: Path) -> None:
    write_parquet("_data/a.parquet", {"a": [1]})
    assert len(LOADER.discover_partitions(str(tmp_path / "_data"))) == 1


def test_one_file_and_a_file_url_are_places_too(write_parquet: Any) -> None:
    path = write_parquet("a.parquet", {"a": [1]})
    assert [part.path for part in LOADER.discover_partitions(path)] == [path]
    assert [part.path for part in LOADER.discover_partitions(f"file://{path}")] == [path]


def test_a_missing_folder_has_no_files(tmp_path: Path) -> None:
    assert LOADER.discover_partitions(str(tmp_path / "nothing")) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"this is no Parquet file")
    with pytest.raises(DataCorruptionError, match=r"bad\.parquet"):
        LOADER.discover_partitions(str(tmp_path))


def test_a_place_that_cannot_exist_is_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match="path"):
        LOADER.discover_partitions("")
    with pytest.raises(StorageError, match="nosuch"):
        LOADER.discover_partitions("nosuch://place")
    with pytest.raises(ConfigurationError, match="'region'"):
        S3ParquetDataLoader({"regoin": "x"})


def test_the_folder_before_the_date_must_exist(tmp_path: Path) -> None:
    LOADER.check_template(f"{tmp_path}/dt={{date}}/")
    with pytest.raises(StorageError, match="data"):
        LOADER.check_template(f"{tmp_path}/data/dt={{date}}/")


def test_size_balance_is_within_one_file_of_even() -> None:
    sizes = [70, 10, 10, 20, 30, 40, 5]
    parts = [_file(f"{i}", 1, size=size) for i, size in enumerate(sizes)]
    shares = LOADER.distribute_partitions(parts, 3)
    loads = [sum(sizes[int(path)] for path in paths) for paths in shares.values()]
    assert sorted(path for paths in shares.values() for path in paths) == [str(i) for i in range(7)]
    assert max(loads) == 70


def test_count_balance_gives_equal_numbers_of_files_and_near_rows() -> None:
    rows = [100, 90, 10, 20, 50, 40]
    parts = [_file(f"{i}", count) for i, count in enumerate(rows)]
    shares = LOADER.distribute_partitions(parts, 2, "count_balanced")
    assert [len(paths) for paths in shares.values()] == [3, 3]
    loads = [sum(rows[int(path)] for path in paths) for paths in shares.values()]
    assert abs(loads[0] - loads[1]) <= 30


def test_round_robin_goes_in_order_and_every_worker_is_present() -> None:
    parts = [_file(name, 1) for name in "cab"]
    assert LOADER.distribute_partitions(parts, 2, "round_robin") == {0: ["a", "c"], 1: ["b"]}
    assert LOADER.distribute_partitions(parts[:1], 3, "round_robin") == {0: ["c"], 1: [], 2: []}
    assert LOADER.distribute_partitions([], 2) == {0: [], 1: []}


def test_bad_distributions_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="num_workers"):
        LOADER.distribute_partitions([], 0)
    with pytest.raises(InvalidArgumentError, match="count_balanced"):
        LOADER.distribute_partitions([], 1, "random")


def test_small_files_are_joined_into_one_unit() -> None:
    files = [_file(f"{i:02}", 100) for i in range(12)]
    units = units_of_work(files, batch_size=64)
    assert [unit.num_rows for unit in units] == [1100, 100]
    assert units[0].num_rows >= UNIT_BATCHES_MIN * 64
    assert [part.path for part in units[0].parts] == [f"{i:02}" for i in range(11)]


def test_a_large_file_is_cut_between_row_groups() -> None:
    groups = [3_000] * 9 + [500]
    (small, *pieces) = sorted(
        units_of_work([_file("big", *groups), _file("small", 10)], batch_size=64),
        key=lambda unit: unit.num_rows,
    )
    assert small.num_rows == 10
    covered = [group for unit in pieces for group in unit.parts[0].row_groups or ()]
    assert sorted(covered) == list(range(10))
    *others, last = sorted(pieces, key=lambda unit: unit.parts[0].row_groups or ())
    assert all(unit.num_rows >= UNIT_BATCHES_CUT * 64 for unit in others)
    assert last.num_rows >= UNIT_BATCHES_MIN * 64
    assert sum(unit.num_rows for unit in pieces) == sum(groups)


def test_units_do_not_depend_on_the_order_of_discovery_and_have_ids_of_their_own() -> None:
    files = [_file(f"{i}", 5_000, 5_000) for i in range(5)] + [_file("empty")]
    units = units_of_work(files, 64)
    assert units == units_of_work(files[::-1], 64)
    assert len({unit.id for unit in units}) == len(units)
    assert {unit.id for unit in units}.isdisjoint(unit.id for unit in units_of_work(files, 128))
    assert "empty" not in {part.path for unit in units for part in unit.parts}


def test_units_are_balanced_by_rows_whatever_the_number_of_workers() -> None:
    units = units_of_work([_file(f"{i}", 2_000 + 100 * i) for i in range(9)], 64)
    for workers in (1, 2, 4, 20):
        shares = distribute_units(units, workers)
        assert len(shares) == workers
        assert sorted(unit.id for share in shares for unit in share) == sorted(
            unit.id for unit in units
        )
    loads = [sum(unit.num_rows for unit in share) for share in distribute_units(units, 2)]
    assert max(loads) <= min(loads) + 2_800


def test_a_range_of_dates_includes_both_ends() -> None:
    expected = ["2024-02-28", "2024-02-29", "2024-03-01"]
    assert parse_date_range("2024-02-28", "2024-03-01") == expected
    assert parse_date_range(datetime.date(2024, 2, 28), "2024-03-01") == expected
    assert parse_date_range(datetime.datetime(2024, 2, 28, 9), "2024-03-01") == expected
    assert parse_date_range("20240301", "20240301", "%Y%m%d") == ["20240301"]


def test_no_range_and_no_date_are_refused() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        parse_date_range("2024-03-02", "2024-03-01")
    with pytest.raises(ValueError, match="2024-13-01"):
        parse_date_range("2024-13-01", "2024-03-01")


def test_the_date_is_filled_in_everywhere() -> None:
    assert format_date_path("/d/{date}/x-{date}", "2024-03-01") == "/d/2024-03-01/x-2024-03-01"
    assert format_date_path("dt={date}", datetime.date(2024, 3, 1)) == "dt=2024-03-01"
