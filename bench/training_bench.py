"""Training from Parquet, samples/s: one worker and one server, Keras, and the bare compiled step.

    python bench/training_bench.py [--features 8] [--ids 200000] [--rounds 5] [--batches 96]
    python bench/training_bench.py --features 26
    python bench/training_bench.py --ids 2500000            # 20 M rows on the server, 3 GB

All see the same rows, each in a process of its own with the threads that suit it, in turn, in one
run, so that a noisy machine disturbs all alike and none has its threads from another:

* bare: a compiled forward and backward pass whose inputs are in memory already (the ceiling);
  TensorFlow's default threads, one a core, are its fastest;
* ours: `WorkerTrainer.train_partitions` on the file: read, shuffle, pull, step, push, metrics; the
  server is a process of its own, and has all rows from the start; threads as the documentation
  advises (`get_optimal_thread_config`);
* cores: ours with the threads of a configuration that says nothing of them, one for each core;
* keras: `model.fit` with one `Embedding` layer per feature, fed from arrays in memory (it reads no
  file). `fit` has one optimizer for all weights: Adagrad, as for our rows; Adam would be slower;
* usual: instead of keras, when features or ids are not the usual ones (8 of 200,000): ours with the
  usual ones, to be compared by looked-up row.

Besides samples/s: the share of our wall time by stage, and CPU time by process.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.passes import Contestant
from bench.reporting import bar, multiple, share
from bench.training_work import Work, parse

CONTESTANTS = "bench/training_contestants.py"


def contestant(kind: str, work: Work, life: ExitStack) -> Contestant:
    """Its process, with the data of `work` in a folder of its own."""
    folder = life.enter_context(tempfile.TemporaryDirectory())
    work.write(Path(folder))
    sizes = (work.features, work.dim, work.batch_size, work.ids, work.batches)
    found = Contestant(sys.executable, CONTESTANTS, kind, folder, *map(str, sizes))
    life.callback(found.close)
    return found


Seconds = dict[str, list[float]]


def measure(runs: dict[str, Contestant], rounds: int) -> tuple[Seconds, dict[str, list[Any]]]:
    """({run: seconds of each round}, {run: what it told of each}), after a round of warming up."""
    seconds: Seconds = {name: [] for name in runs}
    told: dict[str, list[Any]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            took = run.run("pass")
            if number:
                seconds[name].append(took)
                told[name].append(run.told)
    return seconds, told


def report(work: Work, seconds: Seconds, told: dict[str, list[Any]]) -> None:
    """Rates, CPU milliseconds of a batch, stages, bars."""
    for name, times in seconds.items():
        rates = sorted(work.rows / value for value in times)
        cpu = np.median([one["cpu"] for one in told[name]], axis=0)
        own, children = cpu / work.batches * 1e3
        print(
            f"{name:6s} {np.median(rates):10,.0f} samples/s  ({rates[0]:,.0f} - {rates[-1]:,.0f})"
            f"   CPU ms a batch: {own:.1f} here, {children:.1f} in the server"
        )
    stages = [one["shares"] for one in told["ours"]]
    shares = {name: float(np.median([one[name] for one in stages])) for name in stages[0]}
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
        runs = {name: contestant(name, work, life) for name in ("bare", "ours")}
        if (work.features, work.ids) == (Work.features, Work.ids):
            runs["cores"] = contestant("cores", work, life)
            runs["keras"] = contestant("keras", work, life)
        else:
            runs["usual"] = contestant("ours", Work(batches=work.batches), life)
        seconds, told = measure(runs, rounds)
    report(work, seconds, told)


if __name__ == "__main__":
    main()
