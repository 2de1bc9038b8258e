"""Training through real server processes: equal to plain Keras, exact when repeated."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed_trainer import (
    DistributedTrainer,
    FeatureConfig,
    TargetConfig,
    ThreadConfig,
    TrainerConfig,
    TrainingError,
    WeightConfig,
    WorkerTrainer,
)
from distributed_trainer.tests import keras_reference as plain
from distributed_trainer.units import distribute_units
from distributed_trainer.worker import STAGES
from pyspark_ps import (
    ClosedError,
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    PSConfig,
    PSMainClient,
    StorageError,
)
from pyspark_ps.storage import CheckpointManager

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.usefixtures("warm_workers"),
]

STEPS = 200


@pytest.fixture
def servers() -> Iterator[PSMainClient]:
    config = PSConfig(num_servers=2, server_port_base=0, num_worker_threads=2)
    with PSMainClient(None, config) as main:
        yield main


def test_each_of_200_losses_over_two_servers_equals_plain_keras(servers: PSMainClient) -> None:
    data = plain.data_of(64 * STEPS)
    keras.utils.set_random_seed(1)
    model = plain.network(plain.CONFIG.feature_config.get_model_input_dim())
    reference = plain.copy_of(model)
    losses, start = plain.losses_over(servers, data, model, depth=0)
    expected = list(plain.keras_losses(reference, data, STEPS, start))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[-1] < losses[0]


# ---- days


def _write_day(folder: Path, date: str, rows: int = 600, files: int = 3, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for file in range(files):
        user = rng.integers(0, 40, rows // files)
        item = rng.integers(0, 30, rows // files)
        chance = 1 / (1 + np.exp(-((user % 5) - 2.0 + (item % 3) - 1.0)))
        table = pa.table(
            {
                "user": user,
                "item": pa.array([f"i{number}" for number in item]),
                "price": rng.normal(size=len(user)).astype(np.float32),
                "click": (rng.random(len(user)) < chance).astype(np.int8),
                "w": np.full(len(user), 0.5),
            }
        )
        target = folder / f"dt={date}"
        target.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target / f"part-{file}.parquet")


def _config(folder: Path | str, **changes: Any) -> TrainerConfig:
    values: dict[str, Any] = {
        "feature_config": FeatureConfig(["user", "item"], ["price"], default_embedding_dim=4),
        "target_config": TargetConfig(["click"]),
        "weight_config": WeightConfig("w"),
        "batch_size": 50,
        "num_workers": 1,
        "shuffle_seed": 7,
        "model_learning_rate": 0.02,
        "embedding_learning_rate": 0.5,
        "verbose": False,
        "ps_config": PSConfig(num_servers=2, server_port_base=0, num_worker_threads=1),
        "s3_data_path_template": f"{folder}/dt={{date}}/",
        "decay_after_each_day": False,
    }
    return TrainerConfig(**{**values, **changes})


def _build() -> Any:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((9,))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))


def _auc(labels: Any, predictions: Any) -> float:
    """Over all rows: the share of (1, 0) pairs that are in order."""
    ones, zeros = predictions[labels == 1][:, None], predictions[labels == 0]
    return float(np.mean((ones > zeros) + 0.5 * (ones == zeros)))


def test_a_range_of_days_without_spark(tmp_path: Path) -> None:
    for day in (1, 2, 4):
        _write_day(tmp_path, f"2024-03-0{day}", seed=day)
    with DistributedTrainer(None, _config(tmp_path, num_workers=2)) as trainer:
        trainer.set_model_builder(_build)
        start = trainer.get_model().get_weights()
        summary = trainer.train_date_range(
            "2024-03-01", datetime.date(2024, 3, 4), validate_before_training=True
        )
        trained = trainer.get_model().get_weights()
        evaluated = trainer.evaluate("2024-03-04")
        predictions = trainer.predict("2024-03-04")["prediction"]
        out = tmp_path / "out"
        assert trainer.predict("2024-03-04", output_path=str(out)) == {}
        (out / "part-00000.parquet").rename(out / "mine.parquet")
        with pytest.raises(InvalidArgumentError, match=r"mine\.parquet"):
            trainer.predict("2024-03-04", output_path=str(out))
        trainer.save_checkpoint(str(tmp_path / "saved"))
        before = trainer.get_cluster_stats()["total_embeddings"]
        trainer.evaluate(f"{tmp_path}/dt=2024-03-01")
        assert trainer.get_cluster_stats()["total_embeddings"] == before == 70
    assert [day["status"] for day in summary["daily_results"]] == [
        "trained",
        "trained",
        "no_data",
        "trained",
    ]
    assert summary["num_days"] == 4
    assert summary["num_days_trained"] == 3
    assert summary["total_samples"] == 1800
    assert summary["daily_results"][0]["validation"]["auc"] == pytest.approx(0.5, abs=0.1)
    # The order of rows depends on the paths of the files: 0.69 to 0.81 was seen.
    assert summary["daily_results"][3]["validation"]["auc"] > 0.6
    clicks = pq.read_table(tmp_path / "dt=2024-03-04")["click"].to_numpy()
    assert evaluated["auc"] == pytest.approx(_auc(clicks, predictions), abs=1e-3)
    assert evaluated["auc"] > 0.7
    assert predictions.shape == (600,)
    assert [file.name for file in out.iterdir()] == ["mine.parquet"]
    np.testing.assert_array_equal(
        pq.read_table(out)["prediction"].to_numpy().astype(np.float32), predictions
    )
    assert any(not np.allclose(a, b) for a, b in zip(start, trained, strict=True))
    assert trainer.get_model().get_weights()[0].shape == (9, 8)
    assert len(trainer.get_training_history()) == 4
    with DistributedTrainer(None, _config(tmp_path)) as other:
        with pytest.raises(NotFoundError, match="nowhere"):
            other.load_checkpoint(str(tmp_path / "nowhere"))
        other.load_checkpoint(str(tmp_path / "saved"))  # and takes the model from there
        np.testing.assert_array_equal(other.predict("2024-03-04")["prediction"], predictions)


def test_the_same_seeds_give_the_same_losses_at_any_number_of_servers(tmp_path: Path) -> None:
    _write_day(tmp_path, "2024-03-01")

    def losses(servers: int, threads: int) -> list[float]:
        ps_config = PSConfig(
            num_servers=servers, server_port_base=0, num_worker_threads=threads, seed=5
        )
        with DistributedTrainer(None, _config(tmp_path, ps_config=ps_config)) as trainer:
            trainer.set_model_builder(_build)
            return [trainer.train_single_day("2024-03-01").avg_loss for _ in range(2)]

    one = losses(1, 1)
    assert one[1] < one[0]
    assert losses(3, 2) == one


def test_a_repeated_task_applies_nothing_twice(tmp_path: Path) -> None:
    _write_day(tmp_path, "2024-03-01")
    with DistributedTrainer(None, _config(tmp_path)) as trainer:
        trainer.set_model_builder(_build)
        session = trainer._start()
        units = trainer._files.units_of("2024-03-01")
        from distributed_trainer.task import DayPass, WorkerTask

        task = WorkerTask(0, DayPass("run", 1, 0, "2024-03-01"), tuple(units))
        session._pool.run([task])
        once = trainer.get_model().get_weights()
        session._pool.run([task])  # as Spark does with a task whose first result was lost
        twice = trainer.get_model().get_weights()
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_failing_worker_fails_the_day_with_its_cause_first(tmp_path: Path) -> None:
    _write_day(tmp_path, "2024-03-01")
    broken = tmp_path / "dt=2024-03-01" / "part-2.parquet"
    table = pq.read_table(broken)
    pq.write_table(table.drop_columns(["user"]), broken)
    out = tmp_path / "out"
    with DistributedTrainer(None, _config(tmp_path, batch_size=10)) as trainer:
        trainer.set_model_builder(_build)
        with pytest.raises(TrainingError) as failure:
            trainer.train_single_day("2024-03-01")
        # Each file is a unit: predictions of the first were written, and are not shown.
        with pytest.raises(TrainingError, match=r"part-2\.parquet"):
            trainer.predict("2024-03-01", output_path=str(out))
    assert list(out.iterdir()) == []
    first_line = str(failure.value).splitlines()[0]
    assert "2024-03-01" in first_line
    assert "user" in first_line
    assert "part-2.parquet" in first_line


def test_worker_trainer_alone_makes_what_the_servers_lack(
    tmp_path: Path, servers: PSMainClient
) -> None:
    _write_day(tmp_path, "2024-03-01")
    config = _config(tmp_path, ps_config=servers.config)
    folder = str(tmp_path / "dt=2024-03-01")
    with WorkerTrainer(3, config, servers.get_server_info(), _build) as worker:
        first = worker.train_partitions([folder])
        again = worker.train_partitions([folder])
    assert first.worker_id == 3
    assert first.total_samples == again.total_samples == 600
    assert first.total_weighted_samples == pytest.approx(300)
    assert first.avg_loss == pytest.approx(first.total_loss / 600)
    assert again.avg_loss < first.avg_loss
    assert {"samples_per_second", "batches_per_second", "ps_wait_share"} <= set(first.metrics)
    assert 0.5 < sum(again.metrics[f"{stage}_share"] for stage in STAGES) <= 1.0
    with pytest.raises(ClosedError):
        worker.train_partitions([folder])
    other = replace(config, feature_config=FeatureConfig(["user", "item"], default_embedding_dim=3))

    def build_other() -> Any:
        inputs = keras.Input((6,))
        return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(inputs))

    for wrong, build in (
        (other, build_other),
        (replace(config, embedding_optimizer="ftrl"), _build),
        (replace(config, embedding_learning_rate=0.25), _build),
    ):
        with (
            WorkerTrainer(0, wrong, servers.get_server_info(), build) as worker,
            pytest.raises(InvalidArgumentError, match=r"user|item"),
        ):
            worker.train_partitions([folder])


def test_moving_statistics_are_each_workers_averaged_by_rows(tmp_path: Path) -> None:
    _write_day(tmp_path, "2024-03-01")

    def build() -> Any:
        inputs = keras.Input((9,))
        x = keras.layers.BatchNormalization(momentum=0.5)(inputs)
        return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))

    config = _config(tmp_path, num_workers=2, batch_size=10, shuffle_data=False)
    with DistributedTrainer(None, config) as trainer:
        trainer.set_model_builder(build)
        shares = distribute_units(trainer._files.units_of("2024-03-01"), 2)
        trainer.train_single_day("2024-03-01")
        layer = trainer.get_model().layers[1]
    assert [len(share) for share in shares] == [2, 1]  # 400 rows and 200
    mean = variance = 0.0
    for share in shares:
        files = [part.path for unit in share for part in unit.parts]
        prices = np.concatenate([pq.read_table(file)["price"].to_numpy() for file in files])
        moving = np.array([0.0, 1.0])
        for batch in prices.reshape(-1, 10):
            moving = 0.5 * moving + 0.5 * np.array([batch.mean(), batch.var()])
        mean += moving[0] * len(prices) / 600
        variance += moving[1] * len(prices) / 600
    # The price is the last column of the input, and known without any embedding.
    assert layer.moving_mean.numpy()[-1] == pytest.approx(mean, rel=1e-4)
    assert layer.moving_variance.numpy()[-1] == pytest.approx(variance, rel=1e-4)


def _build_pretrained() -> Any:
    """Other values in each process: only the driver's may count. Workers check their threads."""
    if os.environ.get("PS_TEST_DRIVER") == str(os.getppid()):
        assert (os.environ["MKL_NUM_THREADS"], os.environ["OMP_NUM_THREADS"]) == ("1", "2")
    chance = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))
    normalize = keras.layers.Normalization()
    normalize.adapt(chance.normal(3, 2, (50, 9)))
    out = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Sequential([keras.Input((9,)), normalize, out])
    out.set_weights([chance.normal(size=(9, 1)), chance.normal(size=1)])
    return model


def test_pretrained_weights_are_where_a_day_starts_and_rare_rows_go_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PS_TEST_DRIVER", str(os.getpid()))
    _write_day(tmp_path, "2024-03-01", rows=300, files=1)
    file = tmp_path / "dt=2024-03-01" / "part-0.parquet"
    table = pq.read_table(file)
    rare = np.arange(300) % 40 + np.where(np.arange(300) < 7, 1000, 0)  # seven ids come once
    pq.write_table(table.set_column(0, "user", [rare]), file)
    config = _config(
        tmp_path,
        model_optimizer="ftrl",
        model_optimizer_params={"l1": 0.5},
        model_learning_rate=0.0,  # with any optimizer: values stay as they are
        embedding_optimizer="adam",
        embedding_optimizer_params={"beta1": 0.8},
        embedding_learning_rate=0.125,
        thread_config=ThreadConfig(1, 2, 2, 1),
        decay_after_each_day=True,
        decay_method="prune",
        prune_threshold=3,
    )
    with DistributedTrainer(None, config) as trainer:
        trainer.set_model_builder(_build_pretrained)
        start = [np.array(weight) for weight in trainer.get_model().get_weights()]
        before = trainer.predict("2024-03-01")["prediction"]
        day = trainer.train_single_day("2024-03-01")
        model = trainer.get_model()
        table_of_users = trainer._ps.get_tables()["user"]
        trainer.save_checkpoint(str(tmp_path / "saved"))
    for pretrained, now in zip(start, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, pretrained)
    inputs = np.zeros((300, 9), np.float32)  # no id was known: zeros, and the price
    inputs[:, 8] = table["price"].to_numpy()
    np.testing.assert_allclose(before, model.predict(inputs, verbose=0)[:, 0], rtol=1e-4)
    assert day.table_rows["user"] == 40
    assert table_of_users.optimizer == "adam"
    assert {"beta1": 0.8, "learning_rate": 0.125}.items() <= table_of_users.optimizer_params.items()
    dense = CheckpointManager().manifest(str(tmp_path / "saved")).weight_optimizer
    assert dense["name"] == "ftrl"
    assert {"l1": 0.5, "alpha": 0.0}.items() <= dense["params"].items()


def test_a_wrong_model_or_range_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with DistributedTrainer(None, _config(tmp_path)) as trainer:
        inputs = keras.Input((10,))
        wrong = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(inputs))
        with pytest.raises(ConfigurationError, match=r"10.*9|9.*10"):
            trainer.set_model(wrong)
        with pytest.raises(InvalidArgumentError, match="set_model"):
            trainer.train_single_day("2024-03-01")
        trainer.set_model(_build())
        with pytest.raises(ConfigurationError, match="s3_checkpoint_path"):
            trainer.train_date_range("2024-03-01", "2024-03-01", resume_from_checkpoint="latest")
        with pytest.raises(ValueError, match="2024"):
            trainer.train_date_range("2024-03-02", "2024-03-01")
        assert trainer.get_server_info() == []


def test_a_worker_that_was_killed_fails_its_day_and_the_next_day_runs(tmp_path: Path) -> None:
    for day in (1, 2):
        _write_day(tmp_path, f"2024-03-0{day}", rows=1800, seed=day)
    config = _config(tmp_path, num_workers=2, batch_size=30)
    with DistributedTrainer(None, config) as trainer:
        trainer.set_model_builder(_build)
        trainer.train_single_day("2024-03-01")
        trainer._session._pool._workers[1]._process.kill()  # type: ignore[union-attr]
        with pytest.raises(TrainingError, match="2024-03-02 failed: worker 1"):
            trainer.train_single_day("2024-03-02")
        assert trainer.train_single_day("2024-03-02").total_samples == 1800


def test_looking_at_the_model_changes_nothing_of_its_training(tmp_path: Path) -> None:
    _write_day(tmp_path, "2024-03-01")

    def loss(validate: bool) -> float:
        with DistributedTrainer(None, _config(tmp_path)) as trainer:
            trainer.set_model_builder(_build)
            if validate:
                trainer.evaluate("2024-03-01")
            summary = trainer.train_date_range(
                "2024-03-01", "2024-03-01", validate_before_training=validate
            )
            return float(summary["avg_loss"])

    assert loss(validate=True) == loss(validate=False)


def test_predictions_stand_in_the_order_of_files_and_rows(tmp_path: Path) -> None:
    folder = tmp_path / "dt=2024-03-01"
    _write_day(tmp_path, "2024-03-01", rows=300)
    large = pq.read_table(folder / "part-1.parquet")
    pq.write_table(pa.concat_tables([large] * 80), folder / "part-1.parquet", row_group_size=1000)
    with DistributedTrainer(None, _config(tmp_path, batch_size=20)) as trainer:
        trainer.set_model_builder(_build)
        trainer.train_single_day("2024-03-01")
        whole = trainer.predict("2024-03-01")["prediction"]
        parts = [trainer.predict(str(folder / f"part-{i}.parquet"))["prediction"] for i in range(3)]
        trainer.predict("2024-03-01", str(tmp_path / "out"))
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-6)
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) > 3  # one for each unit of work
    written = np.concatenate([pq.read_table(file)["prediction"].to_numpy() for file in files])
    np.testing.assert_array_equal(written, whole)


def test_a_template_whose_folder_is_missing_is_an_error(tmp_path: Path) -> None:
    with DistributedTrainer(None, _config(tmp_path / "nowhere")) as trainer:
        trainer.set_model_builder(_build)
        with pytest.raises(StorageError, match="nowhere"):
            trainer.train_single_day("2024-03-01")
