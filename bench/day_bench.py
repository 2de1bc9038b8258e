"""What a small day costs on Spark, against an empty Spark job of as many tasks.

    python bench/day_bench.py [--rows 500] [--batch-size 128] [--days 30] [--workers 2]
                              [--master 'local[2]'] [--profile]

Days of 500 rows each are trained one by one once the workers are warm: files found, one Spark job,
rows and weights pulled, pushed and decayed, metrics merged, no checkpoint. Before each day the same
Spark runs a Python job of as many tasks that does nothing. Both in turn, in one run; medians and
quartiles of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import cProfile
import datetime
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.reporting import bar, facts
from distributed_trainer import (
    DistributedTrainer,
    FeatureConfig,
    TargetConfig,
    ThreadConfig,
    TrainerConfig,
)
from distributed_trainer.results import DayTrainingResult
from pyspark_ps import PSConfig

FIRST_DAY = datetime.date(2024, 1, 1)
FEATURES = [f"f{index}" for index in range(8)]
VOCABULARY = 2_000
DIM = 16
WARM_DAYS = 5


def write_days(folder: Path, days: int, rows: int) -> list[str]:
    """One Parquet file a day, of random ids and clicks; the dates."""
    rng = np.random.default_rng(0)
    dates = [str(FIRST_DAY + datetime.timedelta(days=index)) for index in range(days)]
    for date in dates:
        columns: dict[str, Any] = {name: rng.integers(0, VOCABULARY, rows) for name in FEATURES}
        columns["y"] = rng.integers(0, 2, rows).astype(np.float32)
        (folder / f"dt={date}").mkdir()
        pq.write_table(pa.table(columns), folder / f"dt={date}" / "part-0.parquet")
    return dates


def build_model() -> Any:
    """A dense 128-64-1 network over the embeddings."""
    import keras

    inputs = keras.Input((len(FEATURES) * DIM,))
    x = keras.layers.Dense(128, activation="relu")(inputs)
    x = keras.layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))


def make_config(folder: Path, options: argparse.Namespace) -> TrainerConfig:
    """One thread in each library: the machine is shared by workers, servers and the driver."""
    return TrainerConfig(
        thread_config=ThreadConfig(1, 1, 1, 1),
        feature_config=FeatureConfig(FEATURES, [], {}, DIM),
        target_config=TargetConfig(["y"]),
        batch_size=options.batch_size,
        num_workers=options.workers,
        verbose=False,
        ps_config=PSConfig(num_servers=1, server_port_base=0, num_worker_threads=1),
        s3_data_path_template=f"{folder}/dt={{date}}/",
        decay_factor=0.999,
    )


def empty_job(spark: Any, tasks: int) -> None:
    """The least that Spark does for a job of Python tasks."""
    spark.sparkContext.parallelize(range(tasks), tasks).mapPartitions(lambda rows: rows).collect()


def main() -> None:
    """Prints machine, commit, sizes, medians with their spread, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--profile", action="store_true", help="also show the driver's own time")
    options = parser.parse_args()
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master(options.master)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    print(f"{facts()}, Spark {spark.version}")
    profile = cProfile.Profile() if options.profile else None
    empty: list[float] = []
    trained: list[DayTrainingResult] = []
    wall: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        dates = write_days(Path(name), options.days, options.rows)
        with DistributedTrainer(spark, make_config(Path(name), options)) as trainer:
            trainer.set_model_builder(build_model)
            for index, date in enumerate(dates):
                tasks = len(trained[-1].worker_results) if trained else 1
                start = time.perf_counter()
                empty_job(spark, tasks)
                middle = time.perf_counter()
                if profile is not None and index >= WARM_DAYS:
                    profile.enable()
                day = trainer.train_single_day(date)
                if profile is not None:
                    profile.disable()
                trained.append(day)
                if index >= WARM_DAYS:
                    empty.append(middle - start)
                    wall.append(time.perf_counter() - middle)
    spark.stop()
    print_result(options, empty, wall, trained[WARM_DAYS:])
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


def print_result(
    options: argparse.Namespace,
    empty: list[float],
    wall: list[float],
    days: list[DayTrainingResult],
) -> None:
    """Medians with the lowest and highest, and where the worker's part went."""
    print(
        f"{options.rows} rows a day, batch {options.batch_size}, {days[0].total_batches} batches, "
        f"{len(days[0].worker_results)} tasks on {options.master}, {len(days)} days"
    )
    for label, values in (("empty job", empty), ("day", wall)):
        middle, low, high = np.median(values), min(values), max(values)
        print(f"{label:10s} {middle * 1e3:7.0f} ms  ({low * 1e3:.0f} - {high * 1e3:.0f})")
    stages = {
        stage: np.median([day.seconds.get(stage, 0.0) for day in days]) for stage in days[0].seconds
    }
    text = ", ".join(f"{stage} {seconds * 1e3:.0f}" for stage, seconds in stages.items())
    print(f"of it in the workers, ms: {text}")
    low, middle, high = np.percentile(np.array(wall) / np.array(empty), [25, 50, 75])
    bar(
        f"a day of {options.rows} rows on {options.master}, against an empty Spark job of as many "
        "tasks",
        f"{middle:.1f}x ({low:.1f} to {high:.1f}), {np.median(wall) * 1e3:.0f} ms against "
        f"{np.median(empty) * 1e3:.0f} ms",
        "6x",
        "2x",
    )


if __name__ == "__main__":
    main()
