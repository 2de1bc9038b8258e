"""Our side of a comparison: one server process and a process for each worker."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.training_work import Work, advised_threads
from pyspark_ps import PSMainClient


class OurWorkers:
    """Trains a pass of `work`, its batches shared among the workers."""

    def __init__(self, work: Work, workers: int, folder: Path, life: ExitStack) -> None:
        part = replace(work, batches=work.batches // workers)
        cluster = life.enter_context(PSMainClient(None, work.config().ps_config))
        work.fill(cluster)
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for rank in range(workers):
            place = folder / f"worker-{rank}"
            place.mkdir()
            part.write(place)
            pipe, end = spawn.Pipe()
            arguments = (rank, part, workers, str(place), cluster.get_server_info(), end)
            process = spawn.Process(target=train_when_told, args=arguments, daemon=True)
            process.start()
            life.callback(process.join)
            life.callback(pipe.send, False)
            self._pipes.append(pipe)
        for pipe in self._pipes:
            pipe.recv()

    def run(self) -> float:
        """Seconds of one pass, to the end of the last worker."""
        began = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(True)
        for pipe in self._pipes:
            pipe.recv()
        return time.perf_counter() - began


def train_when_told(
    rank: int, work: Work, workers: int, folder: str, servers: Any, pipe: Connection
) -> None:
    """A worker's process."""
    from distributed_trainer import WorkerTrainer

    config = work.config(advised_threads(workers))
    with WorkerTrainer(rank, config, servers, work.network) as worker:
        pipe.send("ready")
        while pipe.recv():
            worker.train_partitions([folder])
            pipe.send("done")
