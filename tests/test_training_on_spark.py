"""Days of training as Spark jobs, on every kind of Spark; what Spark repeats counts once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    TrainingError,
    WeightConfig,
)
from pyspark_ps import ConfigurationError, PSConfig
from pyspark_ps.tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from tests.processes import pids_of
from tests.test_training_over_servers import _build, _config, _write_day

pytestmark = [
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("warm_spark"),
]

CONSTANTS = ["k0", "k1", "k2", "k3"]  # features with one id: a row each, counted by every push
BATCH = 30


@contextmanager
def spark(master: str, **settings: str) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    builder = (
        SparkSession.builder.master(master)
        .appName("test_training_on_spark")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    for name, value in settings.items():
        builder = builder.config(name.replace("__", "."), value)
    session = builder.getOrCreate()
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


class BeforeTheSecondDay(keras.callbacks.Callback):  # type: ignore[misc]
    """Does something to the trainer between two days."""

    def __init__(self, act: Callable[[DistributedTrainer], None]) -> None:
        super().__init__()
        self._act = act
        self.trainer: Any = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self._act(self.trainer)


def _train(
    session: Any, days: Path | str, callback: BeforeTheSecondDay | None = None, **changes: Any
) -> dict[str, Any]:
    config = _config(days, num_workers=2, batch_size=BATCH, **changes)
    with DistributedTrainer(session, config) as trainer:
        trainer.set_model_builder(_build)
        if callback is not None:
            callback.trainer = trainer
        summary = trainer.train_date_range(
            "2024-03-01",
            "2024-03-02",
            validate_before_training=True,
            callbacks=[] if callback is None else [callback],
        )
        with pytest.raises(TrainingError) as failure:
            trainer.train_single_day("2024-03-03")
        first_line = str(failure.value).splitlines()[0]
        assert "2024-03-03" in first_line
        assert "item" in first_line
        assert "part-2.parquet" in first_line
        predictions = trainer.predict("2024-03-02")["prediction"]
        trainer.predict("2024-03-02", output_path=f"{days}/{session.sparkContext.applicationId}")
        assert trainer.evaluate(f"{days}/dt=2024-03-02")["auc"] > 0.7
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


def _check_a_worker_may_die(session: Any, folder: Path) -> None:
    """AUC over all rows of a day after it was trained on, with and without a worker's death.

    Of a model without hidden layers, whose workers' pushes may mix as they come: four undisturbed
    runs differed by 0.0003 (with a hidden layer, by 0.003).
    """
    date, marker = "2024-03-01", folder / "died"
    _write_day(folder, date, rows=12000, files=4, seed=1)

    def die() -> None:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def build() -> Any:
        keras.utils.set_random_seed(3)
        inputs = keras.Input((9,))
        return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(inputs))

    def build_mortal() -> Any:
        from pyspark import TaskContext

        if TaskContext.get() is not None:
            _before_push(50, die)  # of about a hundred
        return build()

    rates = {"embedding_learning_rate": 0.2, "model_learning_rate": 0.01}

    def auc(build: Callable[[], Any]) -> float:
        config = _config(folder, num_workers=2, batch_size=60, **rates)
        with DistributedTrainer(session, config) as trainer:
            trainer.set_model_builder(build)
            assert trainer.train_single_day(date).total_samples == 12000
            return trainer.evaluate(date)["auc"]

    undisturbed = auc(build)
    assert undisturbed > 0.8
    assert auc(build_mortal) == pytest.approx(undisturbed, abs=0.002)
    assert marker.exists()


def test_local_master_with_all_data_on_s3_as_sparks_settings_reach_it(
    days: Path, tmp_path: Path
) -> None:
    s3 = S3Server()
    try:
        client, bucket = s3.client(), s3.make_bucket("clicks")
        for file in days.rglob("*.parquet"):
            client.upload_file(str(file), bucket, f"days/{file.relative_to(days)}")
        settings = {
            "spark__hadoop__fs__s3a__endpoint": s3.endpoint,
            "spark__hadoop__fs__s3a__access__key": ACCESS_KEY,
            "spark__hadoop__fs__s3a__secret__key": SECRET_KEY,
        }
        with spark("local[2,4]", **settings) as session:
            summary = _train(
                session, f"s3a://{bucket}/days", s3_checkpoint_path=f"s3a://{bucket}/checkpoints"
            )
            _check_a_worker_may_die(session, tmp_path)
        _check(summary)
        paths = [day["checkpoint_path"] for day in summary["daily_results"]]
        assert paths == [f"s3a://{bucket}/checkpoints/dt=2024-03-0{day}" for day in (1, 2)]
        for path in paths:
            client.head_object(Bucket=bucket, Key=f"checkpoints/{path[-13:]}/manifest.json")
        listed = client.list_objects_v2(Bucket=bucket, Prefix="days/local")["Contents"]
        names = [entry["Key"].rpartition("/")[2] for entry in listed if entry["Size"]]
        assert names == [f"part-0000{unit}.parquet" for unit in range(len(names))]
    finally:
        s3.close()


def _write_constants(folder: Path, date: str) -> int:
    """A day of two files, each a unit of its own; how many batches."""
    rows = 20 * BATCH
    for file in range(2):
        columns: dict[str, Any] = {name: np.full(rows, 7) for name in CONSTANTS}
        columns["y"] = np.arange(rows) % 2
        path = folder / f"dt={date}" / f"part-{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
    return 2 * rows // BATCH


def _build_disturbed(folder: Path) -> Callable[[], Any]:
    """A model whose workers, on Spark, are disturbed at their pushes.

    The first that comes to its eighth push dies, as a killed process does. From then on the first
    attempt of task 1 is so slow that Spark starts a second one beside it. `folder/attempts` has a
    line for each push.
    """

    def disturb() -> None:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        attempt = (context.partitionId(), context.attemptNumber())
        with (folder / "attempts").open("a") as lines:
            lines.write(f"{attempt}\n")
        if not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(9)
        if attempt == (1, 0):
            time.sleep(3)

    def build() -> Any:
        from pyspark import TaskContext

        if TaskContext.get() is not None:
            _before_push(8, disturb)
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(inputs))

    return build


def _before_push(number: int, act: Callable[[], None]) -> None:
    """In a worker: `act` runs before each push from this number on."""
    from pyspark_ps import PSWorkerClient

    push = PSWorkerClient.push_gradients
    pushes = 0

    def counted(*args: Any, **kwargs: Any) -> None:
        nonlocal pushes
        pushes += 1
        if pushes >= number:
            act()
        push(*args, **kwargs)

    PSWorkerClient.push_gradients = counted  # type: ignore[method-assign]


def _count_is(trainer: DistributedTrainer, pushes: int) -> bool:
    """Whether every constant's row has seen so many pushes: a row's count is one more."""

    def pruned(min_count: int) -> int:
        results = trainer._ps.decay_embeddings("prune", min_count=min_count)["results"]
        return sum(int(result["pruned"]) for result in results)

    return pruned(pushes + 1) == 0 and pruned(pushes + 2) == len(CONSTANTS)


def _train_disturbed(session: Any, folder: Path, ps_config: PSConfig) -> None:
    """Every push must have counted once on every server, whatever Spark repeated."""
    config = _config(
        folder,
        feature_config=FeatureConfig(CONSTANTS, default_embedding_dim=1),
        target_config=TargetConfig(["y"]),
        weight_config=WeightConfig(),
        batch_size=BATCH,
        num_workers=2,
        ps_config=ps_config,
    )
    pushes = 0
    with DistributedTrainer(session, config) as trainer:
        trainer.set_model_builder(_build_disturbed(folder))
        for date in ("2024-03-01", "2024-03-02"):
            batches = _write_constants(folder, date)
            assert trainer.train_single_day(date).total_batches == batches
            pushes += batches
        assert _count_is(trainer, pushes)
    assert (folder / "died").exists()
    assert "(1, 1)" in (folder / "attempts").read_text().splitlines()


def _kill_a_server(trainer: DistributedTrainer) -> None:
    os.kill(pids_of(trainer._ps)[1], signal.SIGKILL)


def test_servers_and_workers_side_by_side_on_executors_outlive_a_servers_death(
    days: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with spark("local-cluster[2,2,1024]") as session:
        summary = _train(
            session,
            days,
            BeforeTheSecondDay(_kill_a_server),
            s3_checkpoint_path=str(tmp_path / "checkpoints"),
        )
        _check(summary)
        assert "2024-03-02: servers [1] were lost" in caplog.text
        assert [server.status for server in summary["servers"]] == ["running"] * 2
        too_many = PSConfig(num_servers=4, server_port_base=0, num_worker_threads=1)
        with DistributedTrainer(session, _config(days, ps_config=too_many)) as trainer:
            trainer.set_model_builder(_build)
            with pytest.raises(ConfigurationError, match="4 task slots and 4 servers"):
                trainer.train_single_day("2024-03-01")


SECURITY = {
    "spark.authenticate": "true",
    "spark.authenticate.secret": "a-secret-of-this-test",
    "spark.network.crypto.enabled": "true",
    "spark.io.encryption.enabled": "true",
}


@contextmanager
def standalone(folder: Path) -> Iterator[str]:
    """A standalone master and two workers of two cores, as `sbin` starts them; the master's URL.

    The workers are hosts of their own to Spark, which starts no speculative copy on the same host.
    """
    import pyspark

    command = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    java = " ".join(f"-D{name}={value}" for name, value in SECURITY.items())
    environment = {**os.environ, "SPARK_DAEMON_JAVA_OPTS": java, "SPARK_DAEMON_MEMORY": "256m"}
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> Path:
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            processes.append(
                subprocess.Popen(
                    [command, *arguments],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=folder,
                )
            )
        return log

    master = "org.apache.spark.deploy.master.Master"
    worker = "org.apache.spark.deploy.worker.Worker"
    try:
        log = start("master", master, "--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
        url = _wait_for(log, r"Starting Spark master at (spark://\S+)")
        sizes = ("--cores", "2", "--memory", "1g", "--webui-port", "0")
        logs = [
            start(host, worker, "--work-dir", str(folder / host), "--host", host, *sizes, url)
            for host in ("127.0.0.1", "127.0.0.2")
        ]
        for log in logs:
            _wait_for(log, "(Successfully registered with master)")
        yield url
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


def _wait_for(log: Path, pattern: str) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = re.search(pattern, log.read_text(errors="replace"))
        if found:
            return found.group(1)
        time.sleep(0.2)
    raise AssertionError(f"{log.name} says no {pattern!r}:\n{log.read_text()[-2000:]}")


def test_standalone_with_security_dynamic_allocation_retries_and_speculation(
    days: Path, tmp_path: Path
) -> None:
    settings = {
        **SECURITY,
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.minExecutors": "2",
        "spark.dynamicAllocation.maxExecutors": "2",
        "spark.executor.cores": "2",
        "spark.executor.memory": "512m",
        "spark.driver.host": "127.0.0.1",
        "spark.speculation": "true",
        "spark.speculation.quantile": "0.5",
        "spark.speculation.multiplier": "1.1",
        "spark.speculation.interval": "200ms",
    }
    plain = {name.replace(".", "__"): value for name, value in settings.items()}
    ps_config = PSConfig(
        num_servers=2,
        server_port_base=0,
        num_worker_threads=1,
        transport="tcp",
        timeout_seconds=200.0,  # six Java processes start on a machine that may be busy
    )
    with standalone(tmp_path) as url, spark(url, **plain) as session:
        summary = _train(session, days, ps_config=ps_config)
        _check(summary)
        assert {server.status for server in summary["servers"]} == {"running"}
        # tls="auto": what Spark encrypts is encrypted.
        assert all(server.metadata["tls_fingerprint"] for server in summary["servers"])
        _train_disturbed(session, tmp_path, ps_config)
