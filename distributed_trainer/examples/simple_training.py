"""Days of clicks, a Keras model, three calls: training without Spark.

    python -m distributed_trainer.examples.simple_training

Users click on items; whether they do depends on both, and on the price. Each day's clicks lie in a
folder of its own, as Parquet files. The workers are child processes of this program, the two
parameter servers too; with a SparkContext or SparkSession in place of None they run on Spark, and
nothing else changes.
"""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distributed_trainer import DistributedTrainer, FeatureConfig, TargetConfig, TrainerConfig
from pyspark_ps import PSConfig

FIRST_DAY = datetime.date(2025, 12, 20)
DAYS = 4
ROWS = 20_000
USERS, ITEMS = 500, 100


def write_day(folder: Path, day: datetime.date) -> None:
    """One day of clicks as `dt=<day>/part-0.parquet`."""
    random = np.random.default_rng(day.toordinal())
    user = random.integers(USERS, size=ROWS)
    item = random.integers(ITEMS, size=ROWS)
    price = random.exponential(size=ROWS)
    # Some users click more than others, some items are clicked more, and a high price puts off.
    liking = 1.5 * (user % 3 - 1.0) + (item % 4 - 1.5) - 0.5 * price
    click = random.random(ROWS) < 1 / (1 + np.exp(-liking))
    table = pa.table(
        {
            "user_id": user,
            "item_id": [f"item-{number}" for number in item],  # strings are ids as they are
            "price": price.astype(np.float32),
            "click": click.astype(np.int8),
        }
    )
    target = folder / f"dt={day}"
    target.mkdir(parents=True)
    pq.write_table(table, target / "part-0.parquet")


def make_config(folder: Path) -> TrainerConfig:
    """Which columns are learned from, and how."""
    return TrainerConfig(
        feature_config=FeatureConfig(
            sparse_features=["user_id", "item_id"],  # each gets a table of embeddings
            dense_features=["price"],
            default_embedding_dim=8,
        ),
        target_config=TargetConfig(target_columns=["click"]),
        batch_size=256,
        num_workers=1,
        shuffle_seed=1,
        model_learning_rate=0.01,
        embedding_learning_rate=0.5,
        ps_config=PSConfig(num_servers=2, embedding_init_scale=0.1, seed=1),
        s3_data_path_template=f"{folder}/dt={{date}}/",  # or s3://bucket/clicks/dt={date}/
    )


def main() -> None:
    """Trains on three days and looks at the fourth."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        days = [FIRST_DAY + datetime.timedelta(days=index) for index in range(DAYS)]
        for day in days:
            write_day(folder, day)
        config = make_config(folder)

        def build_model() -> Any:
            import keras

            # Embeddings in sorted name order, then the numbers: 8 + 8 + 1 = 17 inputs.
            inputs = keras.Input(shape=(config.feature_config.get_model_input_dim(),))
            hidden = keras.layers.Dense(32, activation="relu")(inputs)
            return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))

        with DistributedTrainer(None, config) as trainer:
            trainer.set_model_builder(build_model)
            summary = trainer.train_date_range(days[0], days[2])
            for day in summary["daily_results"]:
                print(f"{day['date']}  loss {day['avg_loss']:.4f}  auc {day['metrics']['auc']:.4f}")
            unseen = trainer.evaluate(days[3])
            print(f"{days[3]}  auc {unseen['auc']:.4f} on a day it has not seen")
            predictions = trainer.predict(days[3])["prediction"]
            print(
                f"{len(predictions):,} predictions, {predictions.mean():.3f} clicks expected each"
            )


if __name__ == "__main__":
    main()
