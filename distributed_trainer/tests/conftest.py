"""Shared by the trainer's tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


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
