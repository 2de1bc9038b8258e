"""Where the files of a day are looked for."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from distributed_trainer.config import TrainerConfig
from distributed_trainer.day_files import DayFiles
from pyspark_ps.errors import ConfigurationError, NotFoundError, StorageError


def _files(template: str, date_format: str = "%Y-%m-%d") -> DayFiles:
    config = TrainerConfig(s3_data_path_template=template, date_format=date_format, batch_size=2)
    config.validate()
    return DayFiles(config)


@pytest.mark.parametrize(
    ("date_format", "path"),
    [
        ("%Y-%m-%d", "/data/dt=2024-03-01/x/2024-03-01/"),
        ("%Y%m%d", "/data/dt=20240301/x/20240301/"),
        ("%Y/%m/%d", "/data/dt=2024/03/01/x/2024/03/01/"),
    ],
)
def test_a_date_stands_in_the_path_as_the_format_says(date_format: str, path: str) -> None:
    assert _files("/data/dt={date}/x/{date}/", date_format).path_of("2024-03-01") == path


def test_a_day_without_rows_has_no_units_and_is_nothing_to_look_at(
    tmp_path: Path, write_parquet: Any
) -> None:
    write_parquet("dt=2024-03-01/empty.parquet", {"x": []})
    write_parquet("dt=2024-03-02/a.parquet", {"x": [1.0, 2.0, 3.0]})
    files = _files(f"{tmp_path}/dt={{date}}")
    files.check_template()
    assert files.units_of("2024-03-01") == []
    assert files.units_of("2024-03-03") == []
    (unit,) = files.units_to_look_at(datetime.date(2024, 3, 2))
    assert unit.num_rows == 3
    assert files.units_to_look_at("2024-03-02") == [unit]
    assert files.units_to_look_at(f"{tmp_path}/dt=2024-03-02") == [unit]
    with pytest.raises(NotFoundError, match="2024-03-01"):
        files.units_to_look_at("2024-03-01")


def test_training_from_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="s3_data_path_template"):
        _files("").check_template()
    with pytest.raises(StorageError, match="nowhere"):
        _files(f"{tmp_path}/nowhere/dt={{date}}").check_template()
