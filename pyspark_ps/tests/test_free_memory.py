from __future__ import annotations

from typing import Any

import pytest

from pyspark_ps.errors import ResourceExhaustedError
from pyspark_ps.server import free_memory
from pyspark_ps.storage import FileRecord, Manifest, TableRecord

ROWS = 1_000_000
PLAN: dict[str, Any] = {
    "rows": True,
    "weights": False,
    "tables": [
        {"name": "t", "dim": 16, "optimizer": {"name": "adagrad", "params": {"learning_rate": 0.1}}}
    ],
}


def manifest() -> Manifest:
    table = TableRecord("t", 16, "adagrad", {}, "normal", 0.01, rows=ROWS)
    file = FileRecord("embeddings/t/part.parquet", "embeddings", 9, "x", table="t", rows=ROWS)
    return Manifest("i", "now", 64, 0, 1, False, True, True, (table,), (), (file,))


def test_a_load_that_would_not_fit_beside_what_is_served_is_refused_with_the_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Header 16, values 64, state 64, index 16: 160 bytes a row.
    needed = free_memory.WORKING_BYTES + ROWS // 2 * 160
    assert free_memory.needed_bytes(PLAN, manifest(), 0.5) == needed
    monkeypatch.setattr(free_memory, "available_bytes", lambda: 2 * needed)
    free_memory.check_memory(PLAN, manifest(), 0.5, {"servers_on_host": 2})
    with pytest.raises(ResourceExhaustedError, match=f"{3 * needed} bytes.* {2 * needed} are"):
        free_memory.check_memory(PLAN, manifest(), 0.5, {"servers_on_host": 3})


def test_this_machine_tells_its_available_memory() -> None:
    available = free_memory.available_bytes()
    assert available is None or available > 0
