"""Will the flight be late? A real day-by-day training, on real data, real Spark and real servers.

    python -m distributed_trainer.examples.flights
    python -m distributed_trainer.examples.flights --from 2013-01-01 --to 2013-12-31

Trains a small Keras network on the flights out of New York in 2013, one day after the other:
eight categorical features with an embedding table each on two parameter servers, ten numbers. Each
of the last 60 days is predicted before it is trained on, so that the AUC shown is that of flights
the model has never seen. Two Spark executors with two slots each hold two servers and two workers.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from distributed_trainer import (
    DistributedTrainer,
    FeatureConfig,
    TargetConfig,
    ThreadConfig,
    TrainerConfig,
)
from distributed_trainer.data_loader import parse_date_range
from distributed_trainer.examples.flights_data import DENSE, SPARSE, TARGET, write_flights
from distributed_trainer.report import write_report
from pyspark_ps import PSConfig

EMBEDDING_DIM = 8
BATCH_SIZE = 32
DECAY_FACTOR = 0.999


def build_config(
    data: Path, *, workers: int, servers: int, rates: tuple[float, float] = (0.4, 0.001)
) -> TrainerConfig:
    """What is trained, on what, and how; `rates` are the learning rates of rows and dense."""
    return TrainerConfig(
        thread_config=ThreadConfig(
            mkl_num_threads=1,
            openmp_num_threads=1,
            tf_intra_op_parallelism=1,
            tf_inter_op_parallelism=1,
        ),
        feature_config=FeatureConfig(
            sparse_features=SPARSE, dense_features=DENSE, default_embedding_dim=EMBEDDING_DIM
        ),
        target_config=TargetConfig(target_columns=[TARGET], task_type="binary_classification"),
        batch_size=BATCH_SIZE,
        num_workers=workers,
        shuffle_seed=2013,
        model_optimizer="adam",
        model_learning_rate=rates[1],
        embedding_optimizer="adagrad",
        embedding_learning_rate=rates[0],
        ps_config=PSConfig(num_servers=servers, num_worker_threads=1, seed=2013),
        s3_data_path_template=f"{data}/dt={{date}}/",
        decay_factor=DECAY_FACTOR,
    )


def build_model() -> Any:
    """A small network over the embeddings and the numbers."""
    import keras

    inputs = keras.Input(shape=(len(SPARSE) * EMBEDDING_DIM + len(DENSE),))
    hidden = keras.layers.Dense(64, activation="relu")(inputs)
    hidden = keras.layers.Dense(32, activation="relu")(hidden)
    outputs = keras.layers.Dense(1, activation="sigmoid")(hidden)
    return keras.Model(inputs, outputs)


def make_spark(master: str) -> Any:
    """A Spark that runs this program's own Python on its executors."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master(master)
        .appName("flights")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    return spark


def main(
    first_day: Annotated[str, typer.Option("--from", help="First day.")] = "2013-07-01",
    last_day: Annotated[str, typer.Option("--to", help="Last day.")] = "2013-12-31",
    data: Annotated[Path, typer.Option(help="Where the Parquet files go.")] = Path("demo/flights"),
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("demo/report"),
    master: Annotated[
        str, typer.Option(help='Spark master; "none" = child processes, no Spark.')
    ] = "local-cluster[2,2,1024]",
    workers: Annotated[int, typer.Option(min=1, help="Training tasks.")] = 2,
    servers: Annotated[int, typer.Option(min=1, help="Parameter servers.")] = 2,
    validated: Annotated[
        int,
        typer.Option(min=0, help="Days at the end that are predicted before they are trained on."),
    ] = 60,
    baselines: Annotated[
        bool, typer.Option(help="Also train logistic regression and plain Keras, to compare.")
    ] = True,
) -> None:
    """Trains day by day on the flights out of New York in 2013 and writes a report."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    started = time.perf_counter()
    data = data.absolute()
    facts = write_flights(data)
    print(
        f"{facts['rows']:,} flights on {facts['days']} days in {data}\n"
        f"({facts['not_arrived']:,} more were cancelled or diverted: no arrival to predict)"
    )
    first, last = (datetime.date.fromisoformat(day) for day in (first_day, last_day))
    rates = (0.4, 0.001)
    if baselines:
        rates, expected = run_baselines(data, first, last, validated)
    config = build_config(data, workers=workers, servers=servers, rates=rates)
    spark = None if master == "none" else make_spark(master)
    try:
        with DistributedTrainer(spark, config) as trainer:
            trainer.set_model_builder(build_model)
            boundary = max(first, last - datetime.timedelta(days=validated - 1))
            if first < boundary:
                trainer.train_date_range(first, boundary - datetime.timedelta(days=1))
            if validated:
                trainer.train_date_range(boundary, last, validate_before_training=True)
            history = trainer.get_training_history()
            stats = trainer.get_cluster_stats()
    finally:
        if spark is not None:
            spark.stop()
    summarize(history, stats, time.perf_counter() - started)
    if baselines:
        for name, auc in expected.items():
            print(f"AUC by the same protocol, {name}: {auc:.4f}")
    for path in write_report(history, report, title="Flights out of New York, 2013"):
        print(f"report: {path}")


def run_baselines(
    data: Path, first: datetime.date, last: datetime.date, validated: int
) -> tuple[tuple[float, float], dict[str, float]]:
    """The learning rates that plain Keras does best with, and the baselines' AUC by name."""
    from distributed_trainer.examples import flights_baselines as base

    dates = parse_date_range(first, last)
    flights = base.Flights(data, sorted({*dates, *parse_date_range(*base.CHOICE_DAYS)}))
    shown = set(dates[-validated:]) if validated else set()

    def keras(rates: tuple[float, float]) -> base.Learner:
        return base.PlainKeras(flights, build_model, EMBEDDING_DIM, BATCH_SIZE, DECAY_FACTOR, rates)

    def logistic(rate: float) -> base.Learner:
        return base.LogisticRegression(flights, rate)

    rates: tuple[float, float] = base.best_rate(keras, base.KERAS_RATES, flights)
    rate = base.best_rate(logistic, base.SGD_RATES, flights)
    print(
        f"learning rates chosen on July and August: rows {rates[0]}, dense {rates[1]}, SGD {rate}"
    )
    if not shown:
        return rates, {}
    return rates, {
        "plain Keras in one process": base.progressive_auc(keras(rates), flights, dates, shown),
        "logistic regression (SGD)": base.progressive_auc(logistic(rate), flights, dates, shown),
    }


def summarize(history: list[dict[str, Any]], stats: dict[str, Any], seconds: float) -> None:
    """The few lines that a person wants at the end."""
    trained = [day for day in history if day["status"] == "trained"]
    samples = sum(day["samples"] for day in trained)
    busy = sum(day["time_seconds"] for day in trained)
    before = [day["validation"]["auc"] for day in trained if day["validation"]]
    print(
        f"\n{len(trained)} days, {samples:,} flights, {samples / busy:,.0f} flights/s in training"
    )
    if before:
        print(
            f"AUC of days before they were trained on: {np.nanmean(before):.4f} "
            f"(mean of {len(before)} days, {np.nanmin(before):.4f} to {np.nanmax(before):.4f})"
        )
    print(
        f"{stats['total_embeddings']:,} embeddings, {stats['total_parameters']:,} dense weights, "
        f"{stats['total_memory_bytes'] / 2**20:.1f} MiB on {len(stats['servers'])} servers"
    )
    print(f"{seconds:.0f} s in all")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
