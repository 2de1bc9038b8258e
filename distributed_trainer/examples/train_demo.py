"""The daily job on Spark: validation before training, Keras callbacks, checkpoints, a report.

    python -m distributed_trainer.examples.train_demo [--folder demo/train] [--days 5]

A Spark of two executors with two slots each runs on this machine: two parameter servers take two
slots, two workers the others. The days are those of `simple_training`. Run it again with more days:
it resumes from the last checkpoint and trains the new days alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from distributed_trainer import DistributedTrainer, ThreadConfig, TrainerConfig, WeightConfig
from distributed_trainer.examples.simple_training import FIRST_DAY, make_config, write_day


def make_spark() -> Any:
    """A Spark that runs this program's own Python on its executors."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return (
        SparkSession.builder.master("local-cluster[2,2,1024]")
        .appName("train_demo")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )


def make_job_config(folder: Path) -> TrainerConfig:
    """The configuration of `simple_training`, with what a daily job adds."""
    return dataclasses.replace(
        make_config(folder / "clicks"),
        # Two workers share two cores: one thread each in every library.
        thread_config=ThreadConfig(1, 1, 1, 1),
        weight_config=WeightConfig(default_weight=1.0),
        num_workers=2,
        s3_checkpoint_path=str(folder / "checkpoints"),  # or s3://bucket/checkpoints/
        checkpoint_after_each_day=True,
        keep_checkpoints=3,
        decay_after_each_day=True,  # embeddings of ids that no longer come fade
        decay_factor=0.999,
    )


def main(
    folder: Annotated[Path, typer.Option(help="Data, checkpoints, report.")] = Path("demo/train"),
    days: Annotated[int, typer.Option(min=2, help="Days from the first one on.")] = 5,
) -> None:
    """Trains up to the last day asked for, beginning after the last checkpoint."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    folder = folder.absolute()
    dates = [FIRST_DAY + datetime.timedelta(days=index) for index in range(days)]
    for date in dates:
        if not (folder / "clicks" / f"dt={date}").exists():
            write_day(folder / "clicks", date)
    config = make_job_config(folder)
    width = config.feature_config.get_model_input_dim()

    def build_model() -> Any:
        import keras

        inputs = keras.Input(shape=(width,))
        hidden = keras.layers.Dense(32, activation="relu")(inputs)
        return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))

    import keras

    callbacks = [
        keras.callbacks.CSVLogger(str(folder / "log.csv"), append=True),
        # Stops when the AUC of unseen days has not risen for three days.
        keras.callbacks.EarlyStopping("val_auc", mode="max", patience=3),
        keras.callbacks.TerminateOnNaN(),
    ]
    spark = make_spark()
    try:
        with DistributedTrainer(spark, config) as trainer:
            trainer.set_model_builder(build_model)
            summary = trainer.train_date_range(
                dates[0],
                dates[-1],
                resume_from_checkpoint="latest",
                callbacks=callbacks,
                validate_before_training=True,
            )
            for day in summary["daily_results"]:
                if day["status"] == "trained":
                    auc = day["validation"]["auc"]
                    print(
                        f"{day['date']}  {day['samples']:,} clicks  auc before training {auc:.4f}"
                    )
                else:
                    print(f"{day['date']}  {day['status']}")
            trainer.get_model().save(folder / "model.keras")  # a plain Keras model
            for path in trainer.write_report(folder / "report", title="Clicks"):
                print(f"report: {path}")
    finally:
        spark.stop()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
