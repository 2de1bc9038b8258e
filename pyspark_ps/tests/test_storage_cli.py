"""`python -m pyspark_ps.checkpoint`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pyspark_ps.checkpoint.__main__ import app
from pyspark_ps.storage import CheckpointManager, Manifest, PartWriter, TableRecord
from pyspark_ps.tests.checkpoint_data import (
    DIM,
    PARTITIONS,
    manifest_of,
    rows,
    save_checkpoint,
    stream,
    tensor_chunks,
)
from pyspark_ps.tests.s3_server import S3Server


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def run_json(*arguments: str) -> tuple[int, Any]:
    code, out, _ = run(*arguments, "--json")
    return code, json.loads(out)


def test_inspect_tells_what_lies_there(tmp_path: Path) -> None:
    path = str(tmp_path / "ck")
    manifest = save_checkpoint(CheckpointManager(), path)
    code, out, _ = run("inspect", path)
    assert code == 0
    for word in (manifest.created, "2 servers", "320 rows", "clicks", "adagrad", "accumulator[4]"):
        assert word in out
    assert "dense/kernel" in out
    assert "2 × 5" in out
    code, found = run_json("inspect", path)
    assert code == 0
    assert found["tables"][0]["rows"] == 320
    assert found["saved"] == {"model": True, "embeddings": True, "optimizer_states": True}
    assert found["bytes"] == sum(file.bytes for file in manifest.files)
    assert found["files"]["weights"]["files"] == 1


def test_inspect_of_a_folder_lists_its_checkpoints() -> None:
    with tempfile.TemporaryDirectory() as folder:  # a short path stands in one line of the table
        for name in ("a", "b"):
            save_checkpoint(CheckpointManager(), f"{folder}/{name}", count=1)
        _, found = run_json("inspect", folder)
        assert [info["s3_path"] for info in found["checkpoints"]] == [f"{folder}/b", f"{folder}/a"]
        assert f"{folder}/b" in run("inspect", folder)[1]


def test_what_is_no_checkpoint_is_trouble(tmp_path: Path) -> None:
    for command in (["inspect"], ["verify"], ["diff", str(tmp_path)]):
        code, out, err = run(*command, str(tmp_path))
        assert (code, out) == (2, "")
        assert f"{tmp_path} holds no checkpoint" in err


def test_verify_proves_every_file(tmp_path: Path) -> None:
    path = str(tmp_path / "ck")
    manifest = save_checkpoint(CheckpointManager(), path)
    code, found = run_json("verify", path)
    assert (code, found["whole"], found["rows"], found["problems"]) == (0, True, 320, [])
    assert "whole" in run("verify", path)[1]
    PartWriter(CheckpointManager().begin(path).target, 0).write_file("x", b"1")
    assert len(run_json("verify", path)[1]["left_overs"]) == 2, "the file and its marker"
    first, second, third, *_ = manifest.files
    data = bytearray((tmp_path / "ck" / first.path).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "ck" / first.path).write_bytes(data)
    (tmp_path / "ck" / second.path).unlink()
    (tmp_path / "ck" / third.path).write_bytes(b"PAR1")
    code, found = run_json("verify", path)
    assert code == 1
    reasons = {problem["path"]: problem["reason"] for problem in found["problems"]}
    assert "checksum" in reasons[first.path]
    assert "missing" in reasons[second.path]
    assert "has 4 bytes" in reasons[third.path]
    assert run("verify", path)[0] == 1


def test_verify_finds_rows_that_contradict_the_manifest(tmp_path: Path) -> None:
    save = CheckpointManager().begin(str(tmp_path))
    files = PartWriter(save.target, 0).write_embeddings("clicks", stream([rows(3, 5)]))
    table = TableRecord("clicks", DIM, "adam", {}, "zeros", 0.0, 5, {"m": DIM, "v": DIM})
    save.commit(manifest_of(save, [table], files))
    code, found = run_json("verify", str(tmp_path))
    assert code == 1
    assert "its columns are" in found["problems"][0]["reason"]


def changed_checkpoint(path: str, partitions: int) -> Manifest:
    """Like `save_checkpoint`, but some rows gone, new, or other, in as many partitions."""
    fine = partitions // PARTITIONS
    batches = []
    for partition in range(PARTITIONS):
        batch = rows(partition, 20)
        vectors = batch["vector"].flatten().to_numpy().copy()
        counts = batch["count"].to_numpy().copy()
        keys = batch["key"].to_numpy().copy()
        if partition == 3:
            vectors[:DIM] = 7  # values of one row
            counts[0] = counts[1] = 9  # counts of two, one of them that row
            keys[5] = 1  # one row gone, one new
        columns = {
            **dict(zip(batch.schema.names, batch.columns, strict=True)),
            "key": pa.array(keys),
            "count": pa.array(counts),
            "partition": pa.array(
                np.sort(partition * fine + np.arange(20) % fine).astype(np.int32)
            ),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIM),
        }
        batches.append(pa.record_batch(columns))
    save = CheckpointManager().begin(path)
    part = PartWriter(save.target, 0)
    files = part.write_embeddings("clicks", stream(batches))
    tensors = {"dense/kernel": np.arange(10, dtype=np.float32).reshape(2, 5), "new": np.ones(3)}
    tensors["dense/kernel"][1, 1] += 0.5
    files += part.write_weights(tensor_chunks(tensors).to_reader())
    parameters = {"learning_rate": 0.5}
    table = TableRecord(
        "clicks", DIM, "adagrad", parameters, "normal", 0.01, 320, {"accumulator": DIM}
    )
    manifest = manifest_of(save, [table], files)
    manifest = Manifest(**{**manifest.__dict__, "partition_count": partitions})
    save.commit(manifest)
    return manifest


@pytest.mark.parametrize("partitions", [PARTITIONS, 4 * PARTITIONS])
@pytest.mark.parametrize("rows_at_once", [200_000, 60])
def test_diff_counts_rows_and_names_tensors(
    tmp_path: Path, partitions: int, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyspark_ps.checkpoint.differences.ROWS_AT_ONCE", rows_at_once)
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    save_checkpoint(CheckpointManager(), old)
    changed_checkpoint(new, partitions)
    code, found = run_json("diff", old, new)
    assert code == 1
    (table,) = found["tables"]
    assert (table["added"], table["removed"]) == (1, 1)
    assert (table["changed"], table["values_changed"], table["unchanged"]) == (2, 1, 317)
    changes = table["definition"]["optimizer_params"]
    assert changes == [{"learning_rate": 0.01}, {"learning_rate": 0.5}]
    assert found["tensors"] == [
        {"name": "dense/kernel", "kind": "changed", "max_change": 0.5},
        {"name": "new", "kind": "added", "max_change": 0.0},
    ]
    code, out, _ = run("diff", old, new)
    assert code == 1
    assert "317" in out
    assert "learning_rate" in out


def test_diff_of_a_checkpoint_with_itself_is_equal(tmp_path: Path) -> None:
    save_checkpoint(CheckpointManager(), str(tmp_path), count=2)
    code, found = run_json("diff", str(tmp_path), str(tmp_path))
    assert (code, found["tables"][0]["unchanged"], found["equal_tensors"]) == (0, 32, 1)


def test_diff_of_other_tables_and_widths(tmp_path: Path) -> None:
    a, b, c = (str(tmp_path / name) for name in "abc")
    save_checkpoint(CheckpointManager(), a, count=1)
    save_checkpoint(CheckpointManager(), b, count=1, table="views")
    save_checkpoint(CheckpointManager(), c, count=1, dim=8)
    _, found = run_json("diff", a, b)
    assert [(t["name"], t["added"], t["removed"]) for t in found["tables"]] == [
        ("clicks", 0, 16),
        ("views", 16, 0),
    ]
    _, found = run_json("diff", a, c)
    assert found["tables"][0]["comparable"] is False
    assert found["tables"][0]["definition"]["dim"] == [4, 8]
    assert "dim 4 → 8" in run("diff", a, c)[1]


def test_the_commands_run_as_a_module_and_reach_s3(s3_server: S3Server, bucket: str) -> None:
    place = f"s3://{bucket}/ck"
    environ = os.environ | s3_server.environment
    del environ["AWS_ENDPOINT_URL"]
    command = [sys.executable, "-m", "pyspark_ps.checkpoint"]
    done = subprocess.run(
        [*command, "verify", place, "--endpoint-url", s3_server.endpoint],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{place} holds no checkpoint" in done.stderr
    for name in ("inspect", "verify", "diff"):
        code, out, _ = run(name, "--help")
        assert code == 0
        assert "--json" in out
        assert "--endpoint-url" in out
