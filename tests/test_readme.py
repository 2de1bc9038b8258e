"""The README's own examples run, taken from its text."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

README = Path(__file__).parents[1] / "README.md"


def example(containing: str) -> str:
    """The one Python block of the README that contains these words."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


def run(code: str, folder: Path) -> str:
    script = folder / "example.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=240, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_parameter_server_alone(tmp_path: Path) -> None:
    assert run(example("PSWorkerClient(servers, config)"), tmp_path).strip() == "2"


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_daily_job(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for day in (20, 22):
        table = pa.table(
            {
                "user_id": rng.integers(0, 1000, 5000),
                "item_id": [f"item-{number}" for number in rng.integers(0, 100, 5000)],
                "category": rng.integers(0, 10, 5000),
                "price": rng.normal(size=5000),
                "age": rng.integers(18, 90, 5000),
                "click": rng.integers(0, 2, 5000),
                "sample_weight": rng.random(5000),
            }
        )
        folder = tmp_path / "clicks" / f"dt=2025-12-{day}"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "part-0.parquet")
    code = example("train_date_range").replace("/mnt/data/", f"{tmp_path}/")
    code += '\nprint(summary["num_days_trained"], summary["total_samples"], model.input_shape)\n'
    assert run(code, tmp_path).strip().splitlines()[-1] == "2 10000 (None, 146)"
