"""The client as Python sees it: pulls and pushes of 53,248 keys x 64 floats, pulls of 16 keys.

    python bench/python_client_bench.py [--rounds 9] [--threads 2]

One server process, Adagrad, over its Unix socket and over TCP. The C++ client's figures for the
same work are those of ps_client_bench.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bench.reporting import bar, facts
from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient

KEYS, DIM, SMALL_KEYS, SMALL_PULLS = 26 * 2_048, 64, 16, 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(f"{facts()}: {options}")
    config = PSConfig(
        num_servers=1,
        embedding_dim=DIM,
        server_port_base=0,
        num_worker_threads=options.threads,
        max_embeddings_per_shard=0,
    )
    with PSMainClient(None, config) as cluster:
        infos = cluster.get_server_info()
        for transport in ("unix", "tcp"):
            with PSWorkerClient(infos, config.replace(transport=transport)) as worker:
                measure(worker, transport, options.rounds)


def measure(worker: PSWorkerClient, transport: str, rounds: int) -> None:
    keys = np.random.default_rng(1).integers(0, 2**62, KEYS, dtype=np.uint64)
    gradients = np.full((KEYS, DIM), 1e-3, np.float32)
    few = keys[:SMALL_KEYS]
    worker.pull_embeddings(keys)
    pulls, pushes, small = [], [], []
    for _ in range(rounds):
        pulls.append(seconds(lambda: worker.pull_embeddings(keys)))
        pushes.append(seconds(lambda: worker.push_embedding_gradients((keys, gradients))))
        small += [
            seconds(lambda: worker.pull_embeddings(few)) for _ in range(SMALL_PULLS // rounds)
        ]
    for what, took in (("pull", pulls), ("push", pushes)):
        low, middle, high = KEYS / np.percentile(took, [90, 50, 10]) / 1e6
        bar(
            f"{what} of {KEYS:,} keys x {DIM} by the Python client, {transport}",
            f"{middle:.2f} M rows/s ({low:.2f} to {high:.2f})",
        )
    p50, p99 = np.percentile(small, [50, 99]) * 1e6
    bar(
        f"pull of {SMALL_KEYS} keys by the Python client, {transport}",
        f"p50 {p50:.1f} us, p99 {p99:.1f} us",
    )


def seconds(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
