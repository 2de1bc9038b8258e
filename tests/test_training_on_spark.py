"""Days of training as Spark jobs: servers and workers on executors, or workers in local[N]."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from distributed_trainer import DistributedTrainer, TrainingError
from pyspark_ps import ConfigurationError, PSConfig
from tests.test_training_over_servers import _build, _config, _write_day

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def spark(master: str) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master(master)
        .appName("test_training_on_spark")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    try:
        yield session
    finally:
        session.stop()


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("days")
    for day in (1, 2):
        _write_day(folder, f"2024-03-0{day}", rows=1800, seed=day)
    _write_day(folder, "2024-03-03")
    broken = folder / "dt=2024-03-03" / "part-2.parquet"
    pq.write_table(pq.read_table(broken).drop_columns(["item"]), broken)
    return folder


def _train(session: Any, days: Path, **changes: Any) -> dict[str, Any]:
    config = _config(days, num_workers=2, batch_size=30, **changes)
    with DistributedTrainer(session, config) as trainer:
        trainer.set_model_builder(_build)
        summary = trainer.train_date_range(
            "2024-03-01", "2024-03-02", validate_before_training=True
        )
        with pytest.raises(TrainingError) as failure:
            trainer.train_single_day("2024-03-03")
        first_line = str(failure.value).splitlines()[0]
        assert "2024-03-03" in first_line
        assert "item" in first_line
        assert "part-2.parquet" in first_line
        predictions = trainer.predict("2024-03-02")["prediction"]
        servers = trainer.get_server_info()
        model = trainer.get_model()
    assert predictions.shape == (1800,)
    assert np.isfinite(predictions).all()
    assert model.get_weights()[0].shape == (9, 8)
    summary["servers"] = servers
    return summary


def _check(summary: dict[str, Any]) -> None:
    first, second = summary["daily_results"]
    assert summary["total_samples"] == 3600
    assert first["samples"] == second["samples"] == 1800
    assert second["validation"]["auc"] > 0.7  # learned on the first day, never saw the second
    assert second["table_rows"] == {"user": 40, "item": 30}


def test_local_master_with_a_session(days: Path) -> None:
    with spark("local[2]") as session:
        _check(_train(session, days))


def test_servers_and_workers_side_by_side_on_executors(days: Path) -> None:
    with spark("local-cluster[2,2,1024]") as session:
        summary = _train(session, days)
        _check(summary)
        assert len(summary["servers"]) == 2
        too_many = PSConfig(num_servers=4, server_port_base=0, num_worker_threads=1)
        with DistributedTrainer(session, _config(days, ps_config=too_many)) as trainer:
            trainer.set_model_builder(_build)
            with pytest.raises(ConfigurationError, match="4 task slots and 4 servers"):
                trainer.train_single_day("2024-03-01")
