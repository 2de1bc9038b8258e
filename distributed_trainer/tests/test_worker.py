"""What a worker does without servers and without TensorFlow."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig
from distributed_trainer.metrics import MetricState
from distributed_trainer.pipeline import NumberedBatch
from distributed_trainer.task import DayPass, TaskReport, WorkerTask
from distributed_trainer.units import units_of_work
from distributed_trainer.worker import STAGES, WorkerTrainer, WorkerTrainingResult
from pyspark_ps.errors import ConfigurationError, InvalidArgumentError, NotFoundError

CONFIG = TrainerConfig(
    feature_config=FeatureConfig(["id"]),
    target_config=TargetConfig(["y"]),
    batch_size=4,
    log_every_n_batches=2,
)
DAY = DayPass("run", 1, 0, "2024-03-01")


def _worker(config: TrainerConfig = CONFIG) -> WorkerTrainer:
    return WorkerTrainer(3, config, [], lambda: None)


def _numbered(worker: WorkerTrainer, write_parquet: Any) -> list[NumberedBatch]:
    path = write_parquet("a.parquet", {"id": list(range(14)), "y": [0.0, 1.0] * 7})
    units = units_of_work(worker._files_of([path]), CONFIG.batch_size)
    return list(worker._batches(WorkerTask(3, DAY, tuple(units))))


def test_batches_are_named_by_pass_day_and_unit_and_each_has_a_seed_of_its_own(
    write_parquet: Any,
) -> None:
    found = _numbered(_worker(), write_parquet)
    assert [numbered.batch.num_rows for numbered in found] == [4, 4, 4, 2]
    assert {numbered.stream for numbered in found} == {f"run/0/2024-03-01/{found[0].unit}"}
    assert len({numbered.seed for numbered in found}) == 4
    again = _numbered(_worker(), write_parquet)  # another attempt
    for one, other in zip(found, again, strict=True):
        assert one.seed == other.seed
        assert one.batch.keys["id"].tolist() == other.batch.keys["id"].tolist()


def test_every_so_many_batches_are_logged_and_sums_are_exact(
    write_parquet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker = _worker()
    report = TaskReport(metrics=MetricState(CONFIG.target_config))
    with caplog.at_level(logging.INFO, logger="distributed_trainer.worker"):
        for numbered in _numbered(worker, write_parquet):
            half = np.full((numbered.batch.num_rows, 1), 0.5, np.float32)
            worker._count(report, numbered, 0.25 * numbered.batch.num_rows, half)
    assert [record.message for record in caplog.records] == [
        "worker 3: 2 batches, 8 samples, avg loss 0.25000",
        "worker 3: 4 batches, 14 samples, avg loss 0.25000",
    ]
    report.seconds = {"step": 1.5, "wait_pull": 0.2, "wait_push": 0.1}
    result = WorkerTrainingResult.of(3, report, 2.0)
    assert (result.total_samples, result.total_batches, result.total_loss) == (14, 4, 3.5)
    assert result.metrics["samples_per_second"] == 7.0
    assert result.metrics["ps_wait_share"] == pytest.approx(0.15)
    assert {f"{stage}_share" for stage in STAGES} <= set(result.metrics)
    assert result.metrics["step_share"] == 0.75


def test_what_cannot_be_trained_on_is_refused_before_anything_connects(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="target_columns"):
        _worker(TrainerConfig(feature_config=FeatureConfig(["id"])))
    with pytest.raises(NotFoundError, match="no Parquet file"):
        _worker().train_partitions([str(tmp_path)])
    with pytest.raises(InvalidArgumentError, match="a list of paths"):
        _worker().train_partitions(str(tmp_path))  # type: ignore[arg-type]
