"""Training from Parquet, samples/s: one worker and one server, Keras, and the bare compiled step.

    python bench/training_bench.py [--features 8] [--ids 200000] [--rounds 5] [--batches 96]
    python bench/training_bench.py --features 26
    python bench/training_bench.py --ids 2500000            # 20 M rows on the server, 3 GB

All see the same rows, in turn, in one run, so that a noisy machine disturbs all alike:

* bare: a compiled forward and backward pass whose inputs are in memory already (the ceiling);
* ours: `WorkerTrainer.train_partitions` on the file: read, shuffle, pull, step, push, metrics; the
  server is a process of its own, and has all rows from the start;
* keras: `model.fit` with one `Embedding` layer per feature, fed from arrays in memory (it reads no
  file), in the first round only: its time does not matter to the others. `fit` has one optimizer
  for all weights: Adagrad, as for our rows; Adam would be slower. Left out above 1,000,000 ids.

Besides samples/s: the share of our wall time by stage, and CPU time by process.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bench.training_work import Work, parse
from distributed_trainer import WorkerTrainer, WorkerTrainingResult
from pyspark_ps import PSMainClient, PSWorkerClient

KERAS_IDS_MAX = 1_000_000
FILL_KEYS = 100_000


def keras_run(work: Work, columns: dict[str, Any]) -> Callable[[], None]:
    """The same network with Embedding layers, under `model.fit`."""
    inputs = [keras.Input((), dtype="int32", name=name) for name in work.names]
    rows = [keras.layers.Embedding(work.ids, work.dim)(one) for one in inputs]
    x = keras.layers.Concatenate()(rows)
    x = keras.layers.Dense(128, activation="relu")(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(
        keras.optimizers.Adagrad(0.05), "binary_crossentropy", metrics=[keras.metrics.AUC()]
    )
    data = {name: columns[name].astype(np.int32) for name in work.names}

    def run() -> None:
        model.fit(data, columns["y"], batch_size=work.batch_size, verbose=0)

    return run


def bare_run(work: Work, folder: Path) -> Callable[[], None]:
    """As many bare steps as a pass has batches."""
    batches = work.read(folder)[:24]
    step = work.bare_step(batches)

    def run() -> None:
        for index in range(work.batches):
            step(index % len(batches))

    return run


def fill(main_client: PSMainClient, work: Work) -> None:
    """Makes every row, so that a pass trains tables of full size."""
    with PSWorkerClient(main_client.get_server_info(), main_client.config) as client:
        for name, table in work.config().get_table_configs().items():
            client.create_table(name, table)
        for first in range(0, work.ids, FILL_KEYS):
            keys = np.arange(first, min(first + FILL_KEYS, work.ids), dtype=np.uint64)
            for name in work.names:
                client.pull({name: keys})
        print(f"{client.get_embedding_count():,} rows on the server")


def child_cpu_seconds() -> dict[int, float]:
    """CPU seconds so far of each child process (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    seconds = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            seconds[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / ticks
    return seconds


def cpu_seconds() -> tuple[float, float]:
    """(of this process, of its children: the server)."""
    return time.process_time(), sum(child_cpu_seconds().values())


def measure(runs: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Any], ...]:
    """({run: seconds of each round}, {run: (own, children's) CPU seconds of all rounds})."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    cpu = {name: np.zeros(2) for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            if name == "keras" and number:
                continue
            before = np.array(cpu_seconds())
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            cpu[name] += np.array(cpu_seconds()) - before
    return seconds, cpu


def report(work: Work, seconds: dict[str, Any], cpu: dict[str, Any]) -> None:
    """Rates, ratios to ours, and CPU milliseconds of a batch."""
    middle = {}
    for name, times in seconds.items():
        rates = sorted(work.rows / value for value in times)
        middle[name] = float(np.median(rates))
        own, children = cpu[name] / len(times) / work.batches * 1e3
        print(
            f"{name:6s} {middle[name]:10,.0f} samples/s  ({rates[0]:,.0f} - {rates[-1]:,.0f})   "
            f"CPU ms a batch: {own:.1f} here, {children:.1f} in the server"
        )
    pairs = [b / o for b, o in zip(seconds["bare"], seconds["ours"], strict=True)]
    print(f"vs the bare step   {np.median(pairs):6.0%}  (median of pairs; floor 50 %, aim 75 %)")
    print(f"looked-up rows/s   {middle['ours'] * work.features:12,.0f}")
    if "keras" in middle:
        print(f"vs keras model.fit {middle['ours'] / middle['keras']:6.1f}x (floor 3x, aim 6x)")


def main() -> None:
    """Prints machine, commit, sizes, medians with their spread, and ratios."""
    work, rounds = parse(__doc__, rounds=5)
    config = work.config()
    results: list[WorkerTrainingResult] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        PSMainClient(None, config.ps_config) as main_client,
        WorkerTrainer(0, config, main_client.get_server_info(), work.network) as worker,
    ):
        columns = work.write(Path(folder))
        fill(main_client, work)
        runs: dict[str, Callable[[], Any]] = {
            "bare": bare_run(work, Path(folder)),
            "ours": lambda: results.append(worker.train_partitions([folder])),
        }
        if work.ids <= KERAS_IDS_MAX:
            runs["keras"] = keras_run(work, columns)
        for name in ("bare", "ours"):
            runs[name]()
        results.clear()
        report(work, *measure(runs, rounds))
    shares = {
        name: float(np.median([result.metrics[name] for result in results]))
        for name in results[0].metrics
        if name.endswith("_share")
    }
    print(f"waiting share      {shares.pop('ps_wait_share'):6.1%}  (floor 20 %, aim 5 %)")
    print("by stage:", ", ".join(f"{name[:-6]} {share:.1%}" for name, share in shares.items()))


if __name__ == "__main__":
    main()
