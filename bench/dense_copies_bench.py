"""Dense pushes and pulls with one copy and with two, in turn: python bench/dense_copies_bench.py

Two clusters of two local servers each run side by side; every round pushes once to either, in
alternating order, so that other load on the machine falls on both. Prints medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from pyspark_ps import PSConfig, PSMainClient

SIZES = {"16 KiB in 4 weights": (4, 1_024), "1 MiB in 8 weights": (8, 32_768)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--optimizer", default="adam")
    arguments = parser.parse_args()
    clusters = {}
    try:
        for copies in (1, 2):
            config = PSConfig(
                num_servers=2,
                server_port_base=0,
                num_worker_threads=2,
                weight_replicas=copies,
                weight_optimizer=arguments.optimizer,
            )
            clusters[copies] = PSMainClient(None, config)
            clusters[copies].start_servers()
        for size, (count, floats) in SIZES.items():
            names = [f"{size} {i}" for i in range(count)]
            gradients = {name: np.ones(floats, np.float32) for name in names}
            for cluster in clusters.values():
                cluster.init_weights(dict.fromkeys(names, (floats,)))
            times: dict[tuple[str, int], list[float]] = {}
            for round_number in range(arguments.rounds):
                for copies in (1, 2) if round_number % 2 else (2, 1):
                    worker = clusters[copies].worker_client()
                    begin = time.perf_counter()
                    worker.push_weight_gradients(gradients)
                    middle = time.perf_counter()
                    worker.pull({}, names)
                    end = time.perf_counter()
                    times.setdefault(("push", copies), []).append(middle - begin)
                    times.setdefault(("pull", copies), []).append(end - middle)
            for what in ("push", "pull"):
                one, two = (statistics.median(times[what, copies]) * 1e6 for copies in (1, 2))
                print(
                    f"{what} {size}, {arguments.optimizer}: p50 {one:.0f} us with 1 copy, "
                    f"{two:.0f} us with 2 ({two / one:.2f} x)"
                )
    finally:
        for cluster in clusters.values():
            cluster.shutdown_servers(grace_period_seconds=1)


if __name__ == "__main__":
    main()
