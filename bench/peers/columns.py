"""The training data as the peers read it: arrays in memory, from a file of NumPy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def save(columns: dict[str, np.ndarray], folder: Path) -> Path:
    """Ids by feature and clicks; the file's path."""
    path = folder / "columns.npz"
    np.savez(path, **columns)
    return path


def load(path: str, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids int64 (rows, features), clicks float32 (rows, 1)); the ids of feature k begin at
    k * offset, so that one table can hold all of them."""
    with np.load(path) as columns:
        names = sorted(set(columns.files) - {"y"})
        ids = np.stack([columns[name] + k * offset for k, name in enumerate(names)], axis=1)
        return ids.astype(np.int64), columns["y"].astype(np.float32)[:, None]
