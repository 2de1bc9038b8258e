"""Checkpoints of a training, and what dies in the middle of a day: equal to the bit afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from distributed_trainer import DistributedTrainer, TrainerConfig, TrainingError
from pyspark_ps import ConfigurationError, NotFoundError, PSConfig, PSMainClient
from tests.test_training_over_servers import _config, _write_day

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("warm_workers"),
]

FIRST, SECOND, LAST = "2024-03-01", "2024-03-02", "2024-03-03"
BATCHES = 12  # of a day
IN_THE_SECOND_DAY = BATCHES + 5


def config_of(folder: Path, checkpoints: str, **changes: Any) -> TrainerConfig:
    return _config(
        folder / "days",
        s3_checkpoint_path=checkpoints and str(folder / checkpoints),
        decay_after_each_day=True,
        decay_factor=0.9,
        **changes,
    )


class CountBatches(keras.layers.Layer):  # type: ignore[misc]
    """Counts the batches that it was trained on in an integer weight."""

    def build(self, input_shape: Any) -> None:
        self.count = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="count"
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            self.count.assign_add(1)
        return inputs


def _build() -> Any:
    """What a checkpoint must carry: dense and frozen weights, statistics, a counter; dropout."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((9,))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9)(CountBatches()(x))
    x = keras.layers.Dense(8, trainable=False)(keras.layers.Dropout(0.1)(x))
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))


@dataclass
class Outcome:
    """What two runs are compared by."""

    losses: list[float]
    weights: list[NDArray[Any]]
    predictions: NDArray[np.float32]
    statuses: list[str]


def finish(trainer: DistributedTrainer, summary: dict[str, Any]) -> Outcome:
    days = summary["daily_results"]
    return Outcome(
        losses=[day["avg_loss"] for day in days if day["status"] == "trained"],
        weights=trainer.get_model().get_weights(),
        predictions=trainer.predict(LAST)["prediction"],
        statuses=[day["status"] for day in days],
    )


def check_equal(outcome: Outcome, undisturbed: Outcome) -> None:
    assert outcome.losses == undisturbed.losses[-len(outcome.losses) :]
    for a, b in zip(outcome.weights, undisturbed.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(outcome.predictions, undisturbed.predictions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume")
    for seed, date in enumerate((FIRST, SECOND, LAST)):
        _write_day(path / "days", date, seed=seed)
    return path


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Outcome:
    """Three days in one go, with a checkpoint after each of them."""
    with DistributedTrainer(None, config_of(folder, "undisturbed")) as trainer:
        trainer.set_model_builder(_build)
        summary = trainer.train_date_range(FIRST, LAST)
        assert [Path(day["checkpoint_path"]).name for day in summary["daily_results"]] == [
            f"dt={date}" for date in (FIRST, SECOND, LAST)
        ]
        outcome = finish(trainer, summary)
    assert {3 * BATCHES} == {int(w) for w in outcome.weights if w.dtype == np.int64}
    return outcome


def test_a_run_resumed_with_other_servers_equals_one_that_was_never_stopped(
    folder: Path, undisturbed: Outcome
) -> None:
    path = str(folder / "undisturbed" / f"dt={SECOND}")
    servers = PSConfig(num_servers=3, server_port_base=0, num_worker_threads=2)
    config = config_of(folder, "elsewhere", ps_config=servers, keep_checkpoints=1)
    with DistributedTrainer(None, config) as trainer:
        trainer.set_model_builder(_build)
        outcome = finish(trainer, trainer.train_date_range(FIRST, LAST, path))
        assert outcome.statuses == ["skipped", "skipped", "trained"]
        check_equal(outcome, undisturbed)
        assert [place.name for place in (folder / "elsewhere").iterdir()] == [f"dt={LAST}"]
        # A day's rows are decayed after its checkpoint, which knows that this is still due.
        users = trainer._ps.worker_client()
        decayed = users.pull_embeddings(range(40), table="user")
        trainer.load_checkpoint(str(folder / "elsewhere" / f"dt={LAST}"))
        rows = users.pull_embeddings(range(40), table="user")
        np.testing.assert_array_equal(decayed, np.float32(0.9) * rows)
        # Going back, and training the days again: another pass, so other seeds and losses.
        trainer.load_checkpoint(path)
        again = trainer.train_single_day(SECOND)
        assert again.status == "trained"
        assert again.avg_loss < undisturbed.losses[1]
        trainer.save_checkpoint(str(folder / "by hand"))
    # One is kept, that of the greatest date, and what was saved just now.
    kept = sorted(place.name for place in (folder / "elsewhere").iterdir())
    assert kept == [f"dt={SECOND}", f"dt={LAST}"]
    # Any cluster loads it, no trainer needed.
    with PSMainClient(None, config.get_server_config()) as main:
        assert main.load_from_s3(str(folder / "by hand")).embedding_count == 70


def test_several_workers_go_on_from_the_checkpoint_of_one(
    folder: Path, undisturbed: Outcome
) -> None:
    config = config_of(folder, "undisturbed", num_workers=2, checkpoint_after_each_day=False)
    with DistributedTrainer(None, config) as trainer:
        trainer.set_model_builder(_build)
        summary = trainer.train_date_range(FIRST, LAST, "latest")
        assert [day["status"] for day in summary["daily_results"]] == ["skipped"] * 3
        predictions = trainer.predict(LAST)["prediction"]
        np.testing.assert_allclose(predictions, undisturbed.predictions, atol=0.2)
        assert trainer.train_single_day(LAST).avg_loss < undisturbed.losses[0]


def _disturbed(folder: Path, act: Callable[[], None]) -> Callable[[], Any]:
    """A model whose worker calls `act` once, in the middle of the second day."""
    marker = folder / f"{act.__name__} done"

    def build() -> Any:
        from pyspark_ps import PSWorkerClient

        if os.environ.get("PS_TEST_DRIVER") == str(os.getppid()) and not marker.exists():
            push = PSWorkerClient.push_gradients
            pushes = 0

            def counted(*args: Any, **kwargs: Any) -> None:
                nonlocal pushes
                pushes += 1
                if pushes == IN_THE_SECOND_DAY:
                    marker.touch()
                    act()
                push(*args, **kwargs)

            PSWorkerClient.push_gradients = counted  # type: ignore[method-assign]
        return _build()

    return build


def kill_driver() -> None:
    os.kill(os.getppid(), signal.SIGKILL)


def kill_server() -> None:
    """Kills a server of this worker's driver."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _is_server_of(process, os.getppid()):
            os.kill(int(process.name), signal.SIGKILL)
            return
    raise AssertionError("no server found")


def _is_server_of(process: Path, driver: int) -> bool:
    try:
        command = (process / "cmdline").read_bytes().split(b"\0")
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return parent == driver and b"pyspark_ps.server" in command


def run_until_killed(folder: Path) -> None:
    """The life of a driver that will not see the third day."""
    os.environ["PS_TEST_DRIVER"] = str(os.getpid())
    with DistributedTrainer(None, config_of(folder, "killed driver")) as trainer:
        trainer.set_model_builder(_disturbed(folder, kill_driver))
        trainer.train_date_range(FIRST, LAST, "latest")


def test_a_driver_killed_in_the_middle_of_a_day_is_resumed_by_the_next(
    folder: Path, undisturbed: Outcome
) -> None:
    code = (
        "import sys; from pathlib import Path; from tests import test_training_resume as t;"
        "t.run_until_killed(Path(sys.argv[1]))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    with DistributedTrainer(None, config_of(folder, "killed driver")) as trainer:
        trainer.set_model_builder(_build)
        outcome = finish(trainer, trainer.train_date_range(FIRST, LAST, "latest"))
    assert outcome.statuses == ["skipped", "trained", "trained"]
    check_equal(outcome, undisturbed)


@pytest.mark.parametrize("checkpoints", ["killed server", ""])
def test_a_server_killed_in_the_middle_of_a_day_sends_all_back_to_the_checkpoint(
    folder: Path, undisturbed: Outcome, checkpoints: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PS_TEST_DRIVER", str(os.getpid()))
    (folder / "kill_server done").unlink(missing_ok=True)
    with DistributedTrainer(None, config_of(folder, checkpoints)) as trainer:
        trainer.set_model_builder(_disturbed(folder, kill_server))
        if not checkpoints:
            with pytest.raises(TrainingError, match=f"(?s){SECOND} failed.*set s3_checkpoint_path"):
                trainer.train_date_range(FIRST, LAST)
            return
        outcome = finish(trainer, trainer.train_date_range(FIRST, LAST))
    assert (folder / "kill_server done").exists()
    assert outcome.statuses == ["trained"] * 3
    check_equal(outcome, undisturbed)


def test_what_cannot_be_resumed_is_refused(folder: Path, undisturbed: Outcome) -> None:
    path = str(folder / "undisturbed" / f"dt={FIRST}")
    with DistributedTrainer(None, config_of(folder, "")) as trainer:
        inputs = keras.Input((9,))
        trainer.set_model(keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(inputs)))
        with pytest.raises(ConfigurationError, match="s3_checkpoint_path"):
            trainer.train_date_range(FIRST, LAST, "latest")
        with pytest.raises(ConfigurationError, match="resume_from_checkpoint = ''"):
            trainer.train_date_range(FIRST, LAST, "")
        assert trainer.get_server_info() == []
        with pytest.raises(NotFoundError, match="nowhere"):
            trainer.train_date_range(FIRST, LAST, str(folder / "nowhere"))
        with pytest.raises(ConfigurationError, match="another model"):
            trainer.load_checkpoint(path)
