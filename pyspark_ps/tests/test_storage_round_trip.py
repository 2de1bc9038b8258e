"""What a save wrote is what a load gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from pyspark_ps.storage import (
    CheckpointManager,
    Manifest,
    PartWriter,
    SaveTarget,
    TableRecord,
    read_embeddings,
    read_manifest,
    utc_now,
)

PARTITIONS = 64
DIM = 4


def rows(partition: int, count: int, seed: int = 0) -> pa.RecordBatch:
    rng = np.random.default_rng([seed, partition])
    vectors = pa.array(rng.normal(size=count * DIM).astype(np.float32))
    state = rng.random(size=(count, DIM)).astype(np.float32).tobytes()
    return pa.record_batch(
        {
            "key": pa.array(rng.integers(0, 2**63, count).astype(np.uint64)),
            "partition": pa.array(np.full(count, partition, np.int32)),
            "count": pa.array(np.ones(count, np.float32)),
            "last_day": pa.array(np.full(count, 20_000, np.int32)),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, DIM),
            "accumulator": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(4 * DIM), count, [None, pa.py_buffer(state)]
            ),
        }
    )


def stream(batches: list[pa.RecordBatch]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(batches[0].schema, iter(batches))


def save(path: str, batches: list[pa.RecordBatch]) -> Manifest:
    save = CheckpointManager().begin(path)
    target = SaveTarget.from_dict(json.loads(json.dumps(save.target.to_dict())))
    files = PartWriter(target, 0).write_embeddings("clicks", stream(batches))
    table = TableRecord(
        "clicks", DIM, "adagrad", {}, "normal", 0.01, sum(f.rows for f in files), {"accumulator": 4}
    )
    manifest = Manifest(
        save.id, utc_now(), PARTITIONS, 0, 1, False, True, True, (table,), (), tuple(files)
    )
    save.commit(manifest)
    return manifest


def test_round_trip(tmp_path: Path) -> None:
    batches = [rows(p, 1000) for p in range(PARTITIONS)]
    written = save(str(tmp_path / "ck"), batches)
    place = CheckpointManager().location(str(tmp_path / "ck"))
    manifest = read_manifest(place)
    assert manifest == written
    got = (
        read_embeddings(place, manifest, "clicks")
        .read_all()
        .sort_by([("partition", "ascending"), ("key", "ascending")])
    )
    want = (
        pa.Table.from_batches(batches)
        .cast(got.schema)
        .sort_by([("partition", "ascending"), ("key", "ascending")])
    )
    assert got.equals(want)
    some = read_embeddings(place, manifest, "clicks", {3, 17}).read_all()
    assert set(some["partition"].to_pylist()) == {3, 17}
    assert some.num_rows == 2000
