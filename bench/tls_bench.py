"""What TLS costs: the same pulls and pushes over TCP with it and without, in turn in one run.

    python bench/tls_bench.py [--rounds 15] [--threads 2]

Two clusters of one server process each, on this host, Adagrad, no compression.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from bench.reporting import bar, facts
from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient

KEYS, DIM, SMALL_KEYS, SMALL_PULLS = 26 * 2_048, 64, 16, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(f"{facts()}: {options}")
    config = PSConfig(
        num_servers=1,
        embedding_dim=DIM,
        server_port_base=0,
        num_worker_threads=options.threads,
        max_embeddings_per_shard=0,
        transport="tcp",
        compression=False,
    )
    with (
        PSMainClient(None, config.replace(tls="off")) as plain,
        PSMainClient(None, config.replace(tls="on")) as by_tls,
    ):
        measure([plain.worker_client(), by_tls.worker_client()], options.rounds)
        measure_connecting([plain, by_tls], options.rounds)


def measure(workers: list[PSWorkerClient], rounds: int) -> None:
    keys = np.random.default_rng(1).integers(0, 2**62, KEYS, dtype=np.uint64)
    gradients = np.full((KEYS, DIM), 1e-3, np.float32)
    few = keys[:SMALL_KEYS]
    calls: dict[str, Callable[[PSWorkerClient], object]] = {
        f"pull of {KEYS:,} keys x {DIM}": lambda worker: worker.pull_embeddings(keys),
        f"push of {KEYS:,} keys x {DIM}": lambda worker: worker.push_embedding_gradients(
            (keys, gradients)
        ),
        f"{SMALL_PULLS} pulls of {SMALL_KEYS} keys": lambda worker: [
            worker.pull_embeddings(few) for _ in range(SMALL_PULLS)
        ],
    }
    for worker in workers:
        worker.pull_embeddings(keys)
    for what, call in calls.items():
        report(what, [[seconds(call, worker) for worker in workers] for _ in range(rounds)])


def measure_connecting(clusters: list[PSMainClient], rounds: int) -> None:
    infos = [(cluster.get_server_info(), cluster.config) for cluster in clusters]

    def connect(info, config) -> None:
        PSWorkerClient(info, config.replace(tls="auto")).close()

    report(
        "a client's first connection",
        [[seconds(connect, *of_cluster) for of_cluster in infos] for _ in range(rounds)],
    )


def report(what: str, pairs: list[list[float]]) -> None:
    """pairs: seconds (without, with), measured one after the other."""
    without, with_tls = np.median(np.array(pairs), axis=0) * 1e3
    low, middle, high = np.percentile([tls / plain for plain, tls in pairs], [25, 50, 75])
    bar(
        f"{what} by TLS, times as long as without",
        f"{middle:.2f} ({low:.2f} to {high:.2f}); {with_tls:.2f} and {without:.2f} ms",
    )


def seconds(run: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
