"""Small checkpoints for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from pyspark_ps.storage import (
    CheckpointManager,
    FileRecord,
    Location,
    Manifest,
    PartWriter,
    Save,
    SaveTarget,
    TableRecord,
    TensorRecord,
    read_embeddings,
    utc_now,
)

PARTITIONS = 16
DIM = 4


def rows(partition: int, count: int, seed: int = 0, dim: int = DIM) -> pa.RecordBatch:
    """Rows of one partition, with an Adagrad state."""
    rng = np.random.default_rng([seed, partition])
    vectors = pa.array(rng.normal(size=count * dim).astype(np.float32))
    state = rng.random(size=(count, dim)).astype(np.float32).tobytes()
    columns: dict[str, Any] = {
        "key": pa.array(rng.integers(0, 2**63, count).astype(np.uint64)),
        "partition": pa.array(np.full(count, partition, np.int32)),
        "count": pa.array(np.ones(count, np.float32)),
        "last_day": pa.array(np.full(count, 20_000, np.int32)),
        "vector": pa.FixedSizeListArray.from_arrays(vectors, dim),
        "accumulator": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(4 * dim), count, [None, pa.py_buffer(state)]
        ),
    }
    return pa.record_batch(columns)


def every_partition(count: int = 20, seed: int = 0, dim: int = DIM) -> list[pa.RecordBatch]:
    """`count` rows in each partition, in order."""
    return [rows(partition, count, seed, dim) for partition in range(PARTITIONS)]


def stream(batches: list[pa.RecordBatch]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(batches[0].schema, iter(batches))


def tensor_chunks(tensors: dict[str, np.ndarray[Any, Any]], floats: int = 4) -> pa.Table:
    """Dense tensors as chunks of at most `floats` values."""
    chunks = [
        {
            "name": name,
            "shape": list(tensor.shape),
            "offset": offset,
            "version": 1,
            "values": tensor.ravel()[offset : offset + floats].tolist(),
        }
        for name, tensor in tensors.items()
        for offset in range(0, tensor.size, floats)
    ]
    schema = pa.schema(
        [
            ("name", pa.string()),
            ("shape", pa.list_(pa.int64())),
            ("offset", pa.int64()),
            ("version", pa.int64()),
            ("values", pa.list_(pa.float32())),
        ]
    )
    return pa.Table.from_pylist(chunks, schema)


def manifest_of(save: Save, tables: Iterable[TableRecord], files: Iterable[FileRecord]) -> Manifest:
    """Its manifest, complete."""
    return Manifest(
        id=save.id,
        created=utc_now(),
        partition_count=PARTITIONS,
        seed=0,
        servers=2,
        has_model=True,
        has_embeddings=True,
        has_optimizer_states=True,
        tables=tuple(tables),
        tensors=(TensorRecord("dense/kernel", (2, 5)),),
        files=tuple(files),
        config={"num_servers": 2},
    )


def save_checkpoint(
    manager: CheckpointManager,
    path: str,
    seed: int = 0,
    count: int = 20,
    table: str = "clicks",
    dim: int = DIM,
) -> Manifest:
    """A save by two servers, each with half of the partitions; targets go through JSON."""
    save = manager.begin(path)
    target = SaveTarget.from_dict(json.loads(json.dumps(save.target.to_dict())))
    batches = every_partition(count, seed, dim)
    files: list[FileRecord] = []
    for server in range(2):
        writer = PartWriter(target, server)
        files += writer.write_embeddings(table, stream(batches[server::2]))
    kernel = np.arange(10, dtype=np.float32).reshape(2, 5) + seed
    writer = PartWriter(target, 0)
    files += writer.write_weights(tensor_chunks({"dense/kernel": kernel}).to_reader())
    files.append(PartWriter(target, -1).write_file("config.json", b"{}"))
    definition = TableRecord(
        name=table,
        dim=dim,
        optimizer="adagrad",
        optimizer_params={"learning_rate": 0.01},
        init="normal",
        init_scale=0.01,
        rows=count * PARTITIONS,
        state_columns={"accumulator": dim},
    )
    manifest = manifest_of(save, [definition], files)
    save.commit(manifest)
    return manifest


def contents(place: Location, manifest: Manifest, table: str = "clicks") -> pa.Table:
    """All rows of a table, in one order whatever the files."""
    order = [("partition", "ascending"), ("key", "ascending")]
    return read_embeddings(place, manifest, table).read_all().sort_by(order)


def expected(seed: int = 0, count: int = 20, dim: int = DIM) -> pa.Table:
    """What `contents` gives for a checkpoint of `save_checkpoint`."""
    order = [("partition", "ascending"), ("key", "ascending")]
    return pa.Table.from_batches(every_partition(count, seed, dim)).sort_by(order)
