"""Rows/s of pulls and pushes against Redis 7, from Python, over Unix sockets, in turns.

    python bench/peers/redis_bench.py [--rows 500000] [--rounds 9] [--threads 1]

53,248 ids x 64 floats at a time, drawn from `rows`. Redis is asked for the rows with pipelined MGET
and given new ones with MSET; ours are pulled, and gradients pushed, which the server applies with
Adagrad. One thread serves on either side. bench/peers/README.md tells how Redis is set up.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bench.peers.environments import PeerMissing, interpreter
from bench.peers.passes import Contestant, ContestantFailed, in_turns
from bench.reporting import bar, facts, multiple
from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient

KEYS, DIM = 26 * 2_048, 64
FEW_KEYS, FEW_PULLS = 16, 200  # of one pass, as in redis_client.py
BARS = {"pull": ("MGET", "10x", "30x"), "push": ("MSET", "10x", "30x"), "few": ("MGET", "", "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="shard threads of our server")
    options = parser.parse_args()
    print(f"{facts()}: {options}")
    try:
        with ExitStack() as life:
            folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
            measure(options, redis(folder, options.rows, life), Ours(options, life))
    except (PeerMissing, ContestantFailed) as error:
        for what, (command, floor, aim) in BARS.items():
            bar(f"{what} against Redis {command}", f"not measured: {error}", floor, aim)


def redis(folder: Path, rows: int, life: ExitStack) -> Contestant:
    """A server of its own, nothing written to disk, with its client process."""
    program = shutil.which("redis-server")
    if program is None:
        raise PeerMissing("redis-server is not installed (tools/debian-packages-bench.txt)")
    python = interpreter("redis")
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    print(version.strip())
    path = folder / "redis.sock"
    server = subprocess.Popen(
        [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    life.callback(server.wait)
    life.callback(server.terminate)
    for _ in range(300):
        if path.exists():
            break
        time.sleep(0.1)
    contestant = Contestant(
        str(python), "bench/peers/redis_client.py", str(path), str(rows), str(KEYS), str(DIM)
    )
    life.callback(contestant.close)
    return contestant


class Ours:
    """The same rows, pulled and pushed by this process."""

    def __init__(self, options: argparse.Namespace, life: ExitStack) -> None:
        config = PSConfig(
            num_servers=1,
            embedding_dim=DIM,
            server_port_base=0,
            num_worker_threads=options.threads,
            max_embeddings_per_shard=0,
        )
        cluster = life.enter_context(PSMainClient(None, config))
        self._worker = life.enter_context(PSWorkerClient(cluster.get_server_info(), config))
        for first in range(0, options.rows, KEYS):
            self._worker.pull_embeddings(np.arange(first, min(first + KEYS, options.rows)))
        random = np.random.default_rng(1)
        self._batches = [
            random.choice(options.rows, KEYS, replace=False).astype(np.uint64) for _ in range(8)
        ]
        self._gradients = np.full((KEYS, DIM), 1e-3, np.float32)
        self._turn = 0

    def run(self, what: str) -> float:
        """Seconds of one pass."""
        self._turn += 1
        ids = self._batches[self._turn % len(self._batches)]
        began = time.perf_counter()
        if what == "pull":
            self._worker.pull_embeddings(ids)
        elif what == "push":
            self._worker.push_embedding_gradients((ids, self._gradients))
        else:
            for _ in range(FEW_PULLS):
                self._worker.pull_embeddings(ids[:FEW_KEYS])
        return time.perf_counter() - began


def measure(options: argparse.Namespace, theirs: Contestant, ours: Ours) -> None:
    for what, (command, floor, aim) in BARS.items():
        took = in_turns(
            {
                "ours": lambda what=what: ours.run(what),
                "redis": lambda what=what: theirs.run(what),
            },
            options.rounds,
        )
        ratios = [r / o for r, o in zip(took["redis"], took["ours"], strict=True)]
        middle = {name: float(np.median(seconds)) for name, seconds in took.items()}
        if what == "few":
            name = f"pull of {FEW_KEYS} keys"
            ours_us, redis_us = (seconds / FEW_PULLS * 1e6 for seconds in middle.values())
            figures = f"{ours_us:.0f} us, Redis {redis_us:.0f}"
        else:
            name = f"{what} of {KEYS:,} keys x {DIM}"
            ours_rate, redis_rate = (KEYS / seconds / 1e6 for seconds in middle.values())
            figures = f"{ours_rate:.2f} M rows/s, Redis {redis_rate:.2f}"
        bar(f"{name} against Redis {command}", f"{multiple(ratios)}; {figures}", floor, aim)


if __name__ == "__main__":
    main()
