"""How long a pull waits while all rows decay: pulls of 16 keys, one after the other, from a server
that is idle, and from the same server while it multiplies and prunes every row.

    python bench/sweep_pause_bench.py [--rows 10000000] [--dim 16] [--threads 2]

Per phase the median, 99th percentile and longest pull.
"""

from __future__ import annotations

import argparse
import threading
import time

import numpy as np

from bench.reporting import bar, facts
from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient

KEYS = 16
FILL_KEYS = 200_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    sizes = parser.parse_args()
    config = PSConfig(
        num_servers=1,
        server_port_base=0,
        embedding_dim=sizes.dim,
        num_worker_threads=sizes.threads,
        max_embeddings_per_shard=0,
    )
    print(f"{facts()}: {sizes}")
    with PSMainClient(None, config) as cluster:
        fill(cluster, sizes.rows)
        infos = cluster.get_server_info()
        with PSWorkerClient(infos, config) as worker:
            report("nothing", pulls(worker, sizes.rows, idle(seconds=3.0)))
            for method in ("multiply", "prune"):
                sweep = Sweep(cluster, method)
                report(method, pulls(worker, sizes.rows, sweep))
                bar(f"{method} of {sizes.rows:,} rows beside these pulls", f"{sweep.seconds:.2f} s")


def fill(cluster: PSMainClient, rows: int) -> None:
    worker = cluster.worker_client()
    for first in range(0, rows, FILL_KEYS):
        worker.pull_embeddings(np.arange(first, min(first + FILL_KEYS, rows)))
    memory = cluster.get_cluster_stats()["total_memory_bytes"]
    print(f"{rows} rows in {memory / 2**20:.0f} MiB")


class Sweep(threading.Thread):
    """One decay of all rows; callable: whether it is over."""

    def __init__(self, cluster: PSMainClient, method: str) -> None:
        super().__init__()
        self._cluster, self._method, self.seconds = cluster, method, 0.0
        self.start()

    def run(self) -> None:
        began = time.perf_counter()
        self._cluster.decay_embeddings(self._method, factor=0.99, min_count=0)
        self.seconds = time.perf_counter() - began

    def __call__(self) -> bool:
        return not self.is_alive()


def idle(seconds: float):
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


def pulls(worker: PSWorkerClient, rows: int, is_over) -> np.ndarray:
    """Milliseconds of each pull until `is_over()`."""
    random, took = np.random.default_rng(0), []
    keys = random.integers(0, rows, (4_096, KEYS), dtype=np.uint64)
    while not is_over():
        began = time.perf_counter()
        worker.pull_embeddings(keys[len(took) % len(keys)])
        took.append((time.perf_counter() - began) * 1e3)
    return np.array(took)


def report(phase: str, took: np.ndarray) -> None:
    bar(
        f"pulls of {KEYS} keys while the servers do: {phase}",
        f"p50 {np.median(took):.3f} ms, p99 {np.percentile(took, 99):.3f}, "
        f"longest {took.max():.3f} ({len(took)} pulls)",
    )


if __name__ == "__main__":
    main()
