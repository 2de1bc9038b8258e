"""Learning quality: equal steps, four asynchronous workers against one, and the best there can be.

    python bench/quality_bench.py [--seeds 5] [--workers 4]

* equal steps: 200 losses of one worker over two server processes, nothing pulled ahead, against the
  same training in plain Keras (the road of the tests, seeds included);
* asynchronous: the same days by one worker and by four (child processes, real servers), then the
  AUC on the days that follow; for each seed (of shuffling, rows and network) the difference;
* known truth: clicks are drawn from known probabilities, whose own AUC on the following days is the
  best that any model can reach (Bayes); what one worker reaches of it, counted from 0.5.

Everything runs here, without Spark; with few cores four workers take turns, so what is slow is the
machine and not the training.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.reporting import bar, facts
from distributed_trainer import (
    DistributedTrainer,
    FeatureConfig,
    TargetConfig,
    TrainerConfig,
)
from distributed_trainer.tests import keras_reference as plain
from pyspark_ps import PSConfig, PSMainClient

TRAINING_DAYS, FOLLOWING_DAYS = 4, 2
ROWS_OF_A_DAY, FILES_OF_A_DAY = 100_000, 4
IDS = {"user": 1_000, "item": 300, "slot": 20}
STEPS = 200


class Clicks:
    """Clicks whose log-odds are a sum of effects of user, item, slot and price.

    Ids are drawn by a Zipf law (exponent 1.1), as in real logs: few are frequent, many are rare.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(11)
        self._effects = {name: rng.normal(0, 0.8, count) for name, count in IDS.items()}
        self._shares = {}
        for name, count in IDS.items():
            shares = 1.0 / np.arange(1, count + 1) ** 1.1
            self._shares[name] = rng.permutation(shares / shares.sum())
        self.days = [f"2024-03-{day:02}" for day in range(1, TRAINING_DAYS + FOLLOWING_DAYS + 1)]
        for number, day in enumerate(self.days):
            self._write(day, np.random.default_rng(100 + number))

    def _write(self, day: str, rng: np.random.Generator) -> None:
        columns: dict[str, Any] = {
            name: rng.choice(count, ROWS_OF_A_DAY, p=self._shares[name])
            for name, count in IDS.items()
        }
        columns["price"] = rng.normal(size=ROWS_OF_A_DAY).astype(np.float32)
        logits = 0.5 * columns["price"] - 1.0
        for name in IDS:
            logits = logits + self._effects[name][columns[name]]
        columns["chance"] = 1 / (1 + np.exp(-logits))
        columns["click"] = (rng.random(ROWS_OF_A_DAY) < columns["chance"]).astype(np.int8)
        target = self.folder / f"dt={day}"
        target.mkdir()
        table = pa.table(columns)
        rows = ROWS_OF_A_DAY // FILES_OF_A_DAY
        for file in range(FILES_OF_A_DAY):
            pq.write_table(table.slice(file * rows, rows), target / f"part-{file}.parquet")

    @property
    def following(self) -> list[str]:
        """The days that nothing is trained on."""
        return self.days[TRAINING_DAYS:]

    def bayes_auc(self) -> float:
        """AUC of the true probabilities on the following days, their mean."""
        areas = []
        for day in self.following:
            table = pq.read_table(self.folder / f"dt={day}", columns=["chance", "click"])
            areas.append(auc(table.column("chance").to_numpy(), table.column("click").to_numpy()))
        return float(np.mean(areas))

    def config(self, workers: int, seed: int) -> TrainerConfig:
        """Of a training on these days."""
        return TrainerConfig(
            feature_config=FeatureConfig(list(IDS), ["price"], default_embedding_dim=8),
            target_config=TargetConfig(["click"]),
            batch_size=128,
            num_workers=workers,
            shuffle_seed=seed,
            model_learning_rate=0.002,
            embedding_learning_rate=0.05,
            decay_after_each_day=False,
            verbose=False,
            s3_data_path_template=f"{self.folder}/dt={{date}}/",
            ps_config=PSConfig(num_servers=2, server_port_base=0, num_worker_threads=1, seed=seed),
        )


def auc(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """The exact area under the ROC curve; the scores have no ties."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    positives = float(labels.sum())
    below = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(below / (positives * (len(labels) - positives)))


def build(seed: int) -> Any:
    """A network of one hidden layer."""
    import keras

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8 * len(IDS) + 1,))
    x = keras.layers.Dense(32, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))


def following_auc(clicks: Clicks, workers: int, seed: int) -> float:
    """Trains on the first days, once each; AUC on the following ones, their mean."""
    with DistributedTrainer(None, clicks.config(workers, seed)) as trainer:
        trainer.set_model_builder(partial(build, seed))
        trainer.train_date_range(clicks.days[0], clicks.days[TRAINING_DAYS - 1])
        return float(np.mean([trainer.evaluate(day)["auc"] for day in clicks.following]))


def equal_steps() -> float:
    """The largest relative difference of 200 losses to those of plain Keras."""
    import keras

    data = plain.data_of(64 * STEPS)
    keras.utils.set_random_seed(1)
    model = plain.network(plain.CONFIG.feature_config.get_model_input_dim())
    reference = plain.copy_of(model)
    config = PSConfig(num_servers=2, server_port_base=0, num_worker_threads=2)
    with PSMainClient(None, config) as main_client:
        losses, start = plain.losses_over(main_client, data, model, depth=0)
    expected = np.array(list(plain.keras_losses(reference, data, STEPS, start)))
    return float(np.max(np.abs(np.array(losses) - expected) / expected))


def main() -> None:
    """Prints machine, sizes and figures, each with its bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    print(facts())
    bar(f"{STEPS} losses against single-process Keras", f"{equal_steps():.1e}", "1e-4", "1e-5")
    with tempfile.TemporaryDirectory() as folder:
        clicks = Clicks(Path(folder))
        best = clicks.bayes_auc()
        print(
            f"{TRAINING_DAYS} days of {ROWS_OF_A_DAY:,} rows, then {FOLLOWING_DAYS} following "
            f"ones; Bayes AUC {best:.4f}"
        )
        ones, differences = [], []
        for seed in range(options.seeds):
            one = following_auc(clicks, 1, seed)
            ones.append(one)
            line = f"seed {seed}: AUC {one:.4f} of one worker"
            if options.workers > 1:
                several = following_auc(clicks, options.workers, seed)
                differences.append(several - one)
                line += f", {several:.4f} of {options.workers} ({several - one:+.4f})"
            print(line, flush=True)
    if differences:
        worst = max(differences, key=abs)
        bar(
            f"AUC of {options.workers} asynchronous workers against one, {options.seeds} seeds",
            f"{np.mean(differences):+.4f} (worst {worst:+.4f})",
            "0.002",
            "0.001",
        )
    share = (np.mean(ones) - 0.5) / (best - 0.5)
    bar("one worker, of Bayes AUC - 0.5", f"{share:.1%}", "97 %", "99 %")


if __name__ == "__main__":
    main()
