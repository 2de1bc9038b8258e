"""A day's data in S3: found, read, and refused in words. An S3 server of the tests' own."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig
from distributed_trainer.data_loader import S3ParquetDataLoader
from distributed_trainer.day_files import DayFiles
from distributed_trainer.key_batch import unit_batches
from distributed_trainer.task import DayPass, WorkerTask
from distributed_trainer.units import units_of_work
from distributed_trainer.worker import WorkerTrainer
from pyspark_ps import PSConfig
from pyspark_ps.errors import StorageError
from pyspark_ps.tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A bucket with two files of a day, hidden ones beside them, and another day's."""
    name = s3.make_bucket(f"bucket-{secrets.token_hex(6)}")
    for key, first in {
        "clicks/dt=2024-03-01/part-0.parquet": 0,
        "clicks/dt=2024-03-01/hour=1/part-1.parquet": 100,
        "clicks/dt=2024-03-01/_temporary/part-9.parquet": 900,
        "clicks/dt=2024-03-01/.part-8.parquet": 800,
        "clicks/dt=2024-03-02/part-0.parquet": 200,
    }.items():
        file = io.BytesIO()
        columns = {"id": list(range(first, first + 100)), "y": [1.0] * 100, "unused": ["x"] * 100}
        pq.write_table(pa.table(columns), file, row_group_size=50)
        s3.client().put_object(Bucket=name, Key=key, Body=file.getvalue())
    return name


@pytest.fixture
def config(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> TrainerConfig:
    """As a user has it: endpoint in the configuration, credentials in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    return TrainerConfig(
        feature_config=FeatureConfig(["id"]),
        target_config=TargetConfig(["y"]),
        batch_size=32,
        s3_data_path_template=f"s3://{bucket}/clicks/dt={{date}}/",
        ps_config=PSConfig(s3_endpoint_url=s3.endpoint),
    )


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_a_day_is_found_recursively_and_read(config: TrainerConfig, scheme: str) -> None:
    template = config.s3_data_path_template.replace("s3://", f"{scheme}://")
    config = replace(config, s3_data_path_template=template)
    files = DayFiles(config)
    files.check_template()
    units = files.units_of("2024-03-01")
    assert [part.path.rpartition("dt=")[2] for unit in units for part in unit.parts] == [
        "2024-03-01/hour=1/part-1.parquet",
        "2024-03-01/part-0.parquet",
    ]
    assert all(part.path.startswith(f"{scheme}://") for unit in units for part in unit.parts)
    batches = unit_batches(units, config, lambda unit: 1)
    keys = [key for _, _, batch in batches for key in batch.keys["id"]]
    assert sorted(keys) == list(range(200))


def test_a_dict_of_credentials_reaches_it_too(s3: S3Server, bucket: str) -> None:
    loader = S3ParquetDataLoader(s3.credentials)
    (info,) = loader.discover_partitions(f"s3://{bucket}/clicks/dt=2024-03-02")
    assert (info.num_rows, info.metadata["row_groups"][0][0]) == (100, 50)
    (unit,) = units_of_work([info], 10)
    assert unit.num_rows == 100


def test_sparks_own_settings_reach_it_where_the_configuration_is_silent(
    s3: S3Server, bucket: str
) -> None:
    hadoop = {
        "fs.s3a.endpoint": s3.endpoint,
        "fs.s3a.access.key": ACCESS_KEY,
        "fs.s3a.secret.key": SECRET_KEY,
    }
    loader = S3ParquetDataLoader(PSConfig(), hadoop)
    (unit,) = units_of_work(loader.discover_partitions(f"s3a://{bucket}/clicks/dt=2024-03-02"), 32)
    config = TrainerConfig(feature_config=FeatureConfig(["id"]), target_config=TargetConfig(["y"]))
    worker = WorkerTrainer(0, config, [], lambda: None, spark_hadoop=hadoop)
    (numbered,) = worker._batches(WorkerTask(0, DayPass("run", 1, 0, "2024-03-02"), (unit,)))
    assert numbered.batch.num_rows == 100


def test_a_missing_day_is_no_data_and_a_missing_place_an_error(config: TrainerConfig) -> None:
    files = DayFiles(config)
    assert files.units_of("2024-03-03") == []
    for template in ("s3://no-such-bucket-here/dt={date}", config.s3_data_path_template + "{date}"):
        wrong = template.replace("clicks/", "clocks/")
        with pytest.raises(StorageError, match=r"no-such-bucket-here|clocks"):
            DayFiles(replace(config, s3_data_path_template=wrong)).check_template()


def test_a_refused_permission_is_an_error_that_names_the_place(
    config: TrainerConfig, s3: S3Server, bucket: str
) -> None:
    files = DayFiles(config)
    (unit,) = files.units_of("2024-03-02")
    kept: Any = None
    with s3.fault("GET", f"/{bucket}", 403, "AccessDenied"):
        with pytest.raises(StorageError, match="clicks"):
            files.units_of("2024-03-01")
        with pytest.raises(StorageError, match=r"part-0\.parquet") as kept:
            list(unit_batches([unit], config, lambda unit: 1))
    assert SECRET_KEY not in str(kept.value)
