"""The examples run as the documentation says, and learn something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from distributed_trainer.examples import train_demo
from pyspark_ps.examples import distributed_embedding


def run_example(name: str, *arguments: str, package: str = "pyspark_ps") -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"{package}.examples.{name}", *arguments],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_simple_training_learns_who_likes_what() -> None:
    said = run_example("simple_training")
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", said)]
    assert losses[0] > 0.6
    assert losses[-1] < 0.3  # 5 % of the answers are noise: 0.2 is the best there is
    assert "embeddings on 2 servers" in said


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_distributed_embedding_brings_words_of_a_topic_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    distributed_embedding.main()  # in this process, which has Java for the next test
    said = capsys.readouterr().out
    assert "pass 2: 6000 sentences" in said
    sea = {"harbour", "tide", "sailor", "anchor"}
    (neighbours,) = re.findall(r"ship: (.*)", said)
    assert set(neighbours.split(", ")) <= sea


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_trainers_simple_training_predicts_a_day_it_has_not_seen() -> None:
    said = run_example("simple_training", package="distributed_trainer")
    (auc,) = re.findall(r"auc (\S+) on a day it has not seen", said)
    assert float(auc) > 0.78  # the chances known, it would be 0.85
    assert "20,000 predictions" in said


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("warm_spark")
def test_train_demo_goes_on_with_the_new_days_when_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def statuses(days: int) -> list[str]:
        # In this process, which has TensorFlow already, and at the second time Java.
        train_demo.app(["--folder", str(tmp_path), "--days", str(days)], standalone_mode=False)
        said = capsys.readouterr().out
        return re.findall(r"^2025-12-\d\d  (skipped|20,000 clicks)", said, re.M)

    assert statuses(2) == ["20,000 clicks"] * 2
    assert statuses(3) == ["skipped", "skipped", "20,000 clicks"]
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "model.keras").exists()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
