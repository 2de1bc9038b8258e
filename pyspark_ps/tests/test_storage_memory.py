"""Memory in use while saving and loading does not grow with what is saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyspark_ps.tests.s3_server import S3Server

MIB = 1 << 20

# Saves and loads `partitions` partitions of 1 MiB each; prints how much memory that took over what
# the first few took.
PROGRAM = """
import json, resource, sys
import numpy as np, pyarrow as pa
from pyspark_ps.storage import CheckpointManager, PartWriter, read_embeddings
from pyspark_ps.storage.format import TableRecord
from pyspark_ps.tests import checkpoint_data as data
from pyspark_ps.utils.config import PSConfig

path, partitions = sys.argv[1], int(sys.argv[2])
data.PARTITIONS = partitions
DIM, ROWS = 16, (1 << 20) // 148
schema = data.rows(0, 0, dim=DIM).schema

def batches(count):
    return (data.rows(number, ROWS, dim=DIM) for number in range(count))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def run(count):
    save = CheckpointManager(PSConfig(s3_max_concurrency=2)).begin(path)
    reader = pa.RecordBatchReader.from_batches(schema, batches(count))
    files = PartWriter(save.target, 0).write_embeddings("clicks", reader)
    saved = peak()
    state = {"accumulator": DIM}
    table = TableRecord("clicks", DIM, "adagrad", {}, "zeros", 0.0, count * ROWS, state)
    manifest = data.manifest_of(save, [table], files)
    save.commit(manifest)
    reader = read_embeddings(save.target.location, manifest, "clicks")
    rows = sum(batch.num_rows for batch in reader)
    assert rows == count * ROWS
    return saved

run(16)
before = peak()
saved = run(partitions) - before
print(json.dumps({"saving": saved, "loading": peak() - before}))
"""


def growth(path: str, partitions: int, **environ: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, str(partitions)],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_saving_and_loading_locally_take_a_few_batches(tmp_path: Path) -> None:
    grown = growth(str(tmp_path / "ck"), 192)
    assert grown["saving"] < 48 * MIB, grown
    assert grown["loading"] < 48 * MIB, grown


@pytest.mark.timeout(180)
def test_saving_to_s3_takes_a_few_parts(s3_server: S3Server, bucket: str) -> None:
    grown = growth(f"s3://{bucket}/ck", 96, **s3_server.environment)
    assert grown["saving"] < 96 * MIB, grown
    assert grown["loading"] < 96 * MIB, grown


# Fills a server with a table of 150 MB, after a first save, and saves it as often as told; prints
# the most memory that the server has used.
SERVER_PROGRAM = """
import resource, sys
import numpy as np
from pyspark_ps import PSConfig, PSMainClient

path, saves = sys.argv[1], int(sys.argv[2])
config = PSConfig(num_servers=1, embedding_dim=16, server_port_base=0, max_embeddings_per_shard=0)
with PSMainClient(None, config) as main:
    worker = main.worker_client()
    worker.pull_embeddings(np.arange(1_000))
    main.save_to_s3(path)
    for first in range(0, 1_000_000, 200_000):
        worker.pull_embeddings(np.arange(first, first + 200_000))
    for _ in range(saves):
        main.save_to_s3(path)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def server_peak(path: Path, saves: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SERVER_PROGRAM, str(path), str(saves)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout)


@pytest.mark.timeout(230)
def test_a_server_copies_a_few_stripes_of_rows_ahead(tmp_path: Path) -> None:
    grown = server_peak(tmp_path / "ck", 1) - server_peak(tmp_path / "ck", 0)
    assert grown < 112 * MIB
