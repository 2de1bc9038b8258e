"""The examples of docs/checkpoints.md run, taken from its text, on a checkpoint of real servers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyspark_ps import PSConfig, PSMainClient, TableConfig, keys_of
from pyspark_ps.storage import Manifest
from pyspark_ps.storage.reader import embeddings_schema

PAGE = Path(__file__).parents[1] / "docs" / "checkpoints.md"
DIM = 4
IDS = [f"user-{number}" for number in range(500)]
KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
GRADIENT = 2.0
Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Vectors]:
    """A folder with the checkpoint "day_1" of two servers in it, and the vectors of `IDS`."""
    folder = tmp_path_factory.mktemp("formats")
    users = TableConfig(DIM, "adagrad", {"initial_accumulator": 0.0})
    config = PSConfig(
        num_servers=2, server_port_base=0, num_worker_threads=1, tables={"user_id": users}
    )
    with PSMainClient(None, config) as main:
        main.set_weights({"dense/kernel": KERNEL, "dense/bias": np.full(1, 9, np.float32)})
        worker = main.worker_client()
        worker.push_embedding_gradients(
            (IDS, np.full((len(IDS), DIM), GRADIENT, np.float32)), "user_id"
        )
        worker.push_embedding_gradients((IDS[:1], np.zeros((1, DIM), np.float32)), "user_id")
        main.save_to_s3(str(folder / "day_1"))
        return folder, worker.pull_embeddings(IDS, "user_id")


@pytest.fixture
def folder(checkpoint: tuple[Path, Vectors], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of an example."""
    monkeypatch.chdir(checkpoint[0])
    return checkpoint[0]


@pytest.fixture
def vectors(checkpoint: tuple[Path, Vectors]) -> Vectors:
    return checkpoint[1]


def example(containing: str) -> str:
    """The one Python block of the page that contains these words."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


def check_row(vectors: Vectors, count: float, vector: object, accumulator: object) -> None:
    """Of "user-17", pushed once, which made the row."""
    assert count == 2
    np.testing.assert_array_equal(np.asarray(vector, np.float32), vectors[17])
    np.testing.assert_array_equal(accumulator, np.full(DIM, GRADIENT**2))


@pytest.mark.usefixtures("folder")
def test_pandas_and_pyarrow(vectors: Vectors) -> None:
    found: dict[str, Any] = {}
    exec(example("pyarrow.dataset"), found)
    check_row(vectors, found["rows"]["count"][0], found["vector"], found["accumulator"])


@pytest.mark.usefixtures("folder")
def test_duckdb(vectors: Vectors) -> None:
    found: dict[str, Any] = {}
    exec(example("import duckdb"), found)
    accumulator = np.frombuffer(found["accumulator"], "<f4")
    check_row(vectors, found["count"], found["vector"], accumulator)
    most = found["most_trained"]
    assert (int(most["key"][0]), most["count"][0]) == (int(keys_of(IDS[:1])[0]), 3)


@pytest.mark.usefixtures("folder")
def test_dense_tensors() -> None:
    found: dict[str, Any] = {}
    exec(example("sort_values"), found)
    np.testing.assert_array_equal(found["tensors"]["dense/kernel"], KERNEL)
    np.testing.assert_array_equal(found["tensors"]["dense/bias"], [9])


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_spark(folder: Path, vectors: Vectors) -> None:
    # Java may run already, elsewhere.
    found: dict[str, Any] = {}
    exec(example("SparkSession").replace('"day_1"', repr(str(folder / "day_1"))), found)
    found["spark"].stop()
    row = found["row"]
    check_row(vectors, row["count"], row["vector"], np.frombuffer(row["acc"], "<f4"))


def test_the_page_names_every_column_and_field() -> None:
    page = PAGE.read_text()
    for name in [*embeddings_schema(DIM, {}).names, *Manifest.__dataclass_fields__]:
        assert f"`{name}`" in page, name
