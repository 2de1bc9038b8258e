"""Shared by the trainer's tests."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def _has_native_module() -> bool:
    return importlib.util.find_spec("pyspark_ps._core") is not None


@pytest.fixture(autouse=True, scope="session")
def _keys_without_native_module() -> Iterator[None]:
    """In a tree whose native module is not built, keys come from slow look-alikes."""
    if _has_native_module():
        yield
        return
    from distributed_trainer import batch_iterator, columns

    with pytest.MonkeyPatch.context() as patch:
        for module in (columns, batch_iterator):
            patch.setattr(module, "key_functions", lambda: (_keys_of, _unique))
        yield


def _keys_of(ids: Any) -> NDArray[np.uint64]:
    values = ids.to_pylist() if isinstance(ids, (pa.Array, pa.ChunkedArray)) else list(ids)
    return np.array([_key_of(value) for value in values], np.uint64)


def _key_of(value: Any) -> int:
    if value is None:
        return 0x6E756C6C
    if isinstance(value, (bool, int)):
        return int(value) & (2**64 - 1)
    data = value.encode() if isinstance(value, str) else value
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _unique(keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    first: dict[int, int] = {}
    inverse = [first.setdefault(int(key), len(first)) for key in keys]
    return np.array(list(first), np.uint64), np.array(inverse, np.int32)


@pytest.fixture
def write_parquet(tmp_path: Path) -> Any:
    """write_parquet(name, columns, **options) -> path of a file below tmp_path."""

    def write(name: str, columns: dict[str, Any] | pa.Table, **options: Any) -> str:
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, **options)
        return str(path)

    return write
