"""Training from Parquet, samples/s: one worker and one server, Keras, and the bare compiled step.

    python bench/training_bench.py [--features 8] [--ids 200000] [--rounds 5] [--batches 96]
    python bench/training_bench.py --features 26
    python bench/training_bench.py --ids 2500000            # 20 M rows on the server, 3 GB

All see the same rows, in turn, in one run, so that a noisy machine disturbs all alike:

* bare: a compiled forward and backward pass whose inputs are in memory already (the ceiling);
* ours: `WorkerTrainer.train_partitions` on the file: read, shuffle, pull, step, push, metrics; the
  server is a process of its own, and has all rows from the start;
* keras: `model.fit` with one `Embedding` layer per feature, fed from arrays in memory (it reads no
  file). `fit` has one optimizer for all weights: Adagrad, as for our rows; Adam would be slower;
* usual: instead of keras, when features or ids are not the usual ones (8 of 200,000): ours with the
  usual ones, to be compared by looked-up row.

Besides samples/s: the share of our wall time by stage, and CPU time by process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bench.reporting import bar, cpu_seconds, multiple, share
from bench.training_work import Work, parse
from distributed_trainer import WorkerTrainer, WorkerTrainingResult
from pyspark_ps import PSMainClient


class Training:
    """Data, server and worker of a work; `run` trains once on all of the data."""

    def __init__(self, work: Work, life: ExitStack) -> None:
        self.folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        self.columns = work.write(self.folder)
        self.results: list[WorkerTrainingResult] = []
        config = work.config()
        main_client = life.enter_context(PSMainClient(None, config.ps_config))
        servers = main_client.get_server_info()
        work.fill(main_client)
        self._worker = life.enter_context(WorkerTrainer(0, config, servers, work.network))

    def run(self) -> None:
        """One pass."""
        self.results.append(self._worker.train_partitions([str(self.folder)]))

    def shares(self) -> dict[str, float]:
        """Median share of the wall time by stage."""
        names = [name for name in self.results[0].metrics if name.endswith("_share")]
        return {
            name: float(np.median([result.metrics[name] for result in self.results]))
            for name in names
        }


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
    first = {name: values[: work.batch_size] for name, values in data.items()}
    model.fit(first, columns["y"][: work.batch_size], batch_size=work.batch_size, verbose=0)

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


Seconds = dict[str, list[float]]


def measure(runs: dict[str, Callable[[], Any]], rounds: int) -> tuple[Seconds, dict[str, Any]]:
    """({run: seconds of each round}, {run: (own, children's) CPU seconds of all rounds})."""
    seconds: Seconds = {name: [] for name in runs}
    cpu: dict[str, Any] = {name: np.zeros(2) for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            before = np.array(cpu_seconds())
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            cpu[name] += np.array(cpu_seconds()) - before
    return seconds, cpu


def report(work: Work, seconds: Seconds, cpu: dict[str, Any], shares: dict[str, float]) -> None:
    """Rates, CPU milliseconds of a batch, stages, bars."""
    for name, times in seconds.items():
        rates = sorted(work.rows / value for value in times)
        own, children = cpu[name] / len(times) / work.batches * 1e3
        print(
            f"{name:6s} {np.median(rates):10,.0f} samples/s  ({rates[0]:,.0f} - {rates[-1]:,.0f})"
            f"   CPU ms a batch: {own:.1f} here, {children:.1f} in the server"
        )
    print("by stage:", ", ".join(f"{name[:-6]} {share:.1%}" for name, share in shares.items()))
    rate = work.rows / float(np.median(seconds["ours"]))
    waiting = f"{shares['ps_wait_share']:.1%}"
    if "usual" in seconds:
        found = share(ratios(seconds, "usual", scale=work.features / Work.features))
        bar("rows looked up a second, against 8 × 200,000 ids", found, "80 %", "95 %")
        bar("against the bare compiled step", share(ratios(seconds, "bare")))
        bar("share of time spent waiting for the server", waiting)
    else:
        bar("against the bare compiled step", share(ratios(seconds, "bare")), "50 %", "75 %")
        times = multiple(ratios(seconds, "keras"))
        bar("against Keras `model.fit` with `Embedding` layers", times, "3x", "6x")
        bar("share of time spent waiting for the server", waiting, "20 %", "5 %")
    print(f"{rate:,.0f} samples/s, {rate * work.features:,.0f} rows looked up a second")


def ratios(seconds: Seconds, other: str, scale: float = 1.0) -> list[float]:
    """Speed against another's, pair by pair."""
    pairs = zip(seconds[other], seconds["ours"], strict=True)
    return [scale * theirs / ours for theirs, ours in pairs]


def main() -> None:
    """Prints machine, commit, sizes, medians with their spread, and ratios."""
    work, rounds = parse(__doc__, rounds=5)
    with ExitStack() as life:
        ours = Training(work, life)
        runs: dict[str, Callable[[], Any]] = {
            "bare": bare_run(work, ours.folder),
            "ours": ours.run,
        }
        if (work.features, work.ids) == (Work.features, Work.ids):
            runs["keras"] = keras_run(work, ours.columns)
        else:
            runs["usual"] = Training(Work(batches=work.batches), life).run
        for name, run in runs.items():
            if name != "keras":
                run()
        ours.results.clear()
        seconds, cpu = measure(runs, rounds)
    report(work, seconds, cpu, ours.shares())


if __name__ == "__main__":
    main()
