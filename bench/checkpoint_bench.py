"""Checkpoints on a local disk: saving, loading, and pulls while a save runs.

    python bench/checkpoint_bench.py [--rows 20000000] [--rounds 3] [--folder DIR]

One server with two shard threads, one table of dim 16 with Adagrad (144 bytes a row). In turn, in
each round of one run, so that a noisy machine disturbs all alike:

* dd: `dd conv=fsync` of as many bytes as the table has;
* save: `PSMainClient.save_to_s3` (files are flushed to the disk);
* write: pyarrow alone writes the same columns from Arrow memory, same settings, as many threads as
  a save has, flushed as well;
* load: `PSMainClient.load_from_s3` of files that are not in the page cache;
* read: pyarrow alone reads the same files, cold too (a dataset's batches, its own threads);
* load at hand, read at hand: the same two, but as much memory as the table takes has been in use
  until then. A virtual machine gives free memory back to its host after some seconds, and getting
  it again costs more than all else that a load does (docs/performance.md);
* pulls: rows/s of a client process that is held to one core, without a save and while one runs.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from bench.reporting import bar, facts, share
from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient
from pyspark_ps.storage.writer import FILES_AT_ONCE

DIM = 16
ROW_BYTES = 16 + 4 * DIM + 4 * DIM
FILL_KEYS = 200_000
PULL_KEYS = 26 * 2_048
PULL_SECONDS = 4.0
BARS = {  # (ours, against): what it is called, floor, aim
    ("save", "dd"): ("save against `dd conv=fsync` of the table's bytes", "30 %", "70 %"),
    ("load", "read"): ("load against pyarrow alone reading the same cold files", "50 %", "80 %"),
    ("load at hand", "read at hand"): (
        "the same with memory at hand, not given back to the host",
        "50 %",
        "80 %",
    ),
    ("save", "write"): (
        "save against pyarrow alone writing the same columns, same threads",
        "60 %",
        "90 %",
    ),
}


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def forget(folder: Path) -> None:
    """Takes the files out of the page cache."""
    os.sync()
    for path in folder.rglob("*.parquet"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def dd(path: Path, size: int) -> None:
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=4M", f"count={size >> 22}", "conv=fsync"]
    subprocess.run(command, check=True, capture_output=True)
    path.unlink()


def write(tables: list[pa.Table], folder: Path) -> None:
    """Each table as a file, a few at once."""

    def one(number: int) -> None:
        path = folder / f"{number}.parquet"
        pq.write_table(
            tables[number],
            path,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=["partition"],
            row_group_size=(8 << 20) // ROW_BYTES,
        )
        with path.open("rb") as file:
            os.fsync(file.fileno())

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(one, range(len(tables))))


def time_of_write(files: list[Path], folder: Path) -> float:
    tables = [pq.read_table(file) for file in files]
    return seconds(lambda: write(tables, folder))


def read(folder: Path) -> int:
    dataset = ds.dataset(sorted(map(str, folder.rglob("*.parquet"))))
    return sum(batch.num_rows for batch in dataset.to_batches())


def have_memory(size: int) -> None:
    """Uses as much in another process, so that it is the machine's when that ends."""
    ones = f"import numpy; numpy.ones({size}, numpy.uint8)"
    subprocess.run([sys.executable, "-c", ones], check=True)


def pull_for_ever(infos: Any, config: PSConfig, rows: int, core: int, count: Any) -> None:
    """Counts pulled rows until it is killed."""
    os.sched_setaffinity(0, {core})
    random = np.random.default_rng(1)
    batches = [random.integers(0, rows, PULL_KEYS).astype(np.int64) for _ in range(20)]
    with PSWorkerClient(infos, config) as worker:
        while True:
            for batch in batches:
                worker.pull_embeddings(batch, create_if_missing=False)
                count.value += len(batch)


def rate(count: Any, until: Callable[[], bool]) -> float:
    """Rows/s until the condition holds."""
    start, before = time.perf_counter(), count.value
    while not until():
        time.sleep(0.05)
    return (count.value - before) / (time.perf_counter() - start)


def pulls(main: PSMainClient, place: Path, rows: int, rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    count = context.Value("q", 0, lock=False)
    core = max(os.sched_getaffinity(0))
    arguments = (main.get_server_info(), main.config, rows, core, count)
    client = context.Process(target=pull_for_ever, args=arguments, daemon=True)
    client.start()
    while not count.value:
        time.sleep(0.05)
    slower, saves, rates = [], [], []
    try:
        for _ in range(rounds):
            end = time.perf_counter() + PULL_SECONDS
            alone = rate(count, lambda end=end: time.perf_counter() > end)
            with ThreadPoolExecutor(1) as pool:
                begin = time.perf_counter()
                save = pool.submit(main.save_to_s3, str(place))
                under = rate(count, save.done)
                took = time.perf_counter() - begin
            slower.append(1 - under / alone)
            saves.append(took)
            rates.append((alone / 1e6, under / 1e6))
    finally:
        client.kill()
    alone, under = np.median(rates, axis=0)
    bar(
        "slowdown of pulls while a save runs, client held to one core",
        f"{share(slower)}, {alone:.2f} to {under:.2f} M rows/s, save of {np.median(saves):.1f} s",
        "30 %",
        "10 %",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=None, help="where to write; a temporary folder")
    arguments = parser.parse_args()
    print(f"{facts()}: {arguments.rows:,} rows of dim {DIM} with Adagrad")
    folder = Path(tempfile.mkdtemp(prefix="ps-bench-", dir=arguments.folder))
    try:
        measure(arguments.rows, arguments.rounds, folder)
    finally:
        shutil.rmtree(folder)


def measure(rows: int, rounds: int, folder: Path) -> None:
    config = PSConfig(
        num_servers=1,
        embedding_dim=DIM,
        server_port_base=0,
        num_worker_threads=2,
        max_embeddings_per_shard=0,
        timeout_seconds=300.0,
    )
    size = rows * ROW_BYTES
    place, alone = folder / "checkpoint", folder / "alone"
    alone.mkdir()
    took: dict[str, list[float]] = collections.defaultdict(list)
    with PSMainClient(None, config) as client:
        worker = client.worker_client()
        for start in range(0, rows, FILL_KEYS):
            worker.pull_embeddings(np.arange(start, min(rows, start + FILL_KEYS)))
        for _ in range(rounds):
            took["dd"].append(seconds(lambda: dd(folder / "dd", size)))
            took["save"].append(seconds(lambda: client.save_to_s3(str(place))))
            files = sorted((place / "embeddings").rglob("*.parquet"))
            took["write"].append(time_of_write(files, alone))
            forget(place)
            took["load"].append(seconds(lambda: client.load_from_s3(str(place))))
            forget(place)
            took["read"].append(seconds(lambda: read(place / "embeddings")))
            forget(place)
            have_memory(size * 3 // 2)
            took["load at hand"].append(seconds(lambda: client.load_from_s3(str(place))))
            forget(place)
            have_memory(size * 3 // 2)
            took["read at hand"].append(seconds(lambda: read(place / "embeddings")))
        packed = sum(file.stat().st_size for file in files)
        print(f"{rows} rows, {size / 1e9:.2f} GB of table bytes, {packed / 1e9:.2f} GB of files")
        for name, times in took.items():
            middle = statistics.median(times)
            print(f"{name:12} {middle:6.2f} s  {size / middle / 1e6:6.0f} MB/s of table bytes")
        for (ours, theirs), (what, floor, aim) in BARS.items():
            ratios = [t / o for t, o in zip(took[theirs], took[ours], strict=True)]
            speed = size / statistics.median(took[ours]) / 1e6
            bar(what, f"{share(ratios)}, {speed:.0f} MB/s", floor, aim)
        pulls(client, place, rows, rounds)


if __name__ == "__main__":
    main()
