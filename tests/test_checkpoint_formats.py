"""The examples of docs/checkpoints.md run, taken from its text, on a checkpoint made here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pyspark_ps import keys_of
from pyspark_ps.storage import CheckpointManager, Manifest, PartWriter, TableRecord, TensorRecord
from pyspark_ps.storage.reader import embeddings_schema

PAGE = Path(__file__).parents[1] / "docs" / "checkpoints.md"
DIM = 4
COUNT = 500


def vectors() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(5).normal(size=(COUNT, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint "day_1" in it: rows of "user-0" to "user-499"."""
    folder = tmp_path_factory.mktemp("formats")
    save = CheckpointManager().begin(str(folder / "day_1"))
    values = vectors()
    columns = [
        pa.array(keys_of([f"user-{number}" for number in range(COUNT)])),
        pa.array(np.arange(COUNT, dtype=np.int32) // 10),
        pa.array(np.arange(COUNT, dtype=np.float32)),
        pa.array(np.full(COUNT, 20_000, np.int32)),
        pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), DIM),
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(4 * DIM), COUNT, [None, pa.py_buffer((2 * values).tobytes())]
        ),
    ]
    names = embeddings_schema(DIM, {"accumulator": DIM}).names
    batch = pa.record_batch(dict(zip(names, columns, strict=True)))
    files = []
    for server, begin in enumerate((0, COUNT // 2)):
        part = batch[begin : begin + COUNT // 2]
        reader = pa.RecordBatchReader.from_batches(part.schema, [part])
        files += PartWriter(save.target, server).write_embeddings("user_id", reader)
    chunks = pa.table(
        {
            "name": ["dense/kernel", "dense/kernel", "dense/bias"],
            "shape": pa.array([[2, 3], [2, 3], [1]], pa.list_(pa.int64())),
            "offset": pa.array([4, 0, 0], pa.int64()),
            "values": pa.array([[4, 5], [0, 1, 2, 3], [9]], pa.list_(pa.float32())),
        }
    )
    files += PartWriter(save.target, 0).write_weights(chunks.to_reader())
    definition = TableRecord(
        "user_id", DIM, "adagrad", {}, "normal", 0.01, COUNT, {"accumulator": DIM}
    )
    tensors = (TensorRecord("dense/kernel", (2, 3)), TensorRecord("dense/bias", (1,)))
    save.commit(
        Manifest(
            save.id,
            "2026-01-01T00:00:00+00:00",
            4096,
            0,
            2,
            True,
            True,
            True,
            (definition,),
            tensors,
            tuple(files),
        )
    )
    return folder


def example(containing: str) -> str:
    """The one Python block of the page that contains these words."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


def check_row(count: float, vector: object, accumulator: object) -> None:
    assert count == 17
    np.testing.assert_array_equal(np.asarray(vector, np.float32), vectors()[17])
    np.testing.assert_array_equal(accumulator, 2 * vectors()[17])


def test_pandas_and_pyarrow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found: dict[str, object] = {}
    exec(example("pyarrow.dataset"), found)
    check_row(found["rows"]["count"][0], found["vector"], found["accumulator"])  # type: ignore[index]


def test_duckdb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found: dict[str, object] = {}
    exec(example("import duckdb"), found)
    accumulator = np.frombuffer(found["accumulator"], "<f4")  # type: ignore[call-overload]
    check_row(found["count"], found["vector"], accumulator)  # type: ignore[arg-type]
    assert found["most_trained"]["count"][0] == COUNT - 1  # type: ignore[index]


def test_dense_tensors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found: dict[str, dict[str, object]] = {}
    exec(example("sort_values"), found)
    np.testing.assert_array_equal(found["tensors"]["dense/kernel"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["tensors"]["dense/bias"], [9])


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_spark(folder: Path) -> None:
    code = example("SparkSession")
    code += "\nimport sys\nprint('row', row['count'], *row['vector'], *np.frombuffer("
    code += "row['accumulator'], '<f4'))\n"
    (folder / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "example.py"], capture_output=True, text=True, timeout=240, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("row ")]
    count, *numbers = (float(word) for word in line.split()[1:])
    check_row(count, numbers[:DIM], np.asarray(numbers[DIM:], np.float32))


def test_the_page_names_every_column_and_field() -> None:
    page = PAGE.read_text()
    for name in [*embeddings_schema(DIM, {}).names, *Manifest.__dataclass_fields__]:
        assert f"`{name}`" in page, name
