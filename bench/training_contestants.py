"""A contestant of training_bench.py, in a process of its own: it trains whenever it is told to.

    training_contestants.py NAME FOLDER FEATURES DIM BATCH_SIZE IDS BATCHES

`FOLDER` has the data (`Work.write`). Each pass tells CPU seconds of this process and of its
children (the server), ours also the share of each stage of the worker's wall time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq

from bench.peers.passes import serve
from bench.reporting import cpu_seconds
from bench.training_work import Work
from distributed_trainer import WorkerTrainer
from distributed_trainer.thread_config import ThreadConfig
from pyspark_ps import PSMainClient

Pass = Callable[[], dict[str, float]]


def ours(work: Work, folder: Path, life: ExitStack, threads: ThreadConfig | None = None) -> Pass:
    """A worker, and a server that has all rows from the start."""
    config = work.config(threads)
    main_client = life.enter_context(PSMainClient(None, config.ps_config))
    work.fill(main_client)
    servers = main_client.get_server_info()
    worker = life.enter_context(WorkerTrainer(0, config, servers, work.network))

    def run() -> dict[str, float]:
        metrics = worker.train_partitions([str(folder)]).metrics
        return {name: value for name, value in metrics.items() if name.endswith("_share")}

    return run


def keras_fit(work: Work, folder: Path, life: ExitStack) -> Pass:
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
    columns = pq.read_table(folder)
    data = {name: columns[name].to_numpy().astype(np.int32) for name in work.names}
    clicks = columns["y"].to_numpy()

    def run() -> dict[str, float]:
        model.fit(data, clicks, batch_size=work.batch_size, verbose=0)
        return {}

    return run


def bare(work: Work, folder: Path, life: ExitStack) -> Pass:
    """As many bare steps as a pass has batches."""
    batches = work.read(folder)[:24]
    step = work.bare_step(batches)

    def run() -> dict[str, float]:
        for index in range(work.batches):
            step(index % len(batches))
        return {}

    return run


KINDS = {
    "ours": ours,
    "cores": partial(ours, threads=ThreadConfig()),
    "keras": keras_fit,
    "bare": bare,
}


def main() -> None:
    """Serves until its parent ends."""
    kind, folder, *sizes = sys.argv[1:]
    features, dim, batch_size, ids, batches = map(int, sizes)
    work = Work(features, dim, batch_size, ids, batches)
    with ExitStack() as life:
        run = KINDS[kind](work, Path(folder), life)

        def timed() -> dict[str, Any]:
            before = np.array(cpu_seconds())
            told = run()
            return {"shares": told, "cpu": (np.array(cpu_seconds()) - before).tolist()}

        serve({"pass": timed})


if __name__ == "__main__":
    main()
