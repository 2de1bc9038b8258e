"""Predictions to columns or Parquet files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.config import TrainerConfig
from distributed_trainer.data_loader import filesystem_for
from distributed_trainer.task import TaskReport
from distributed_trainer.units import UnitOfWork
from pyspark_ps.errors import StorageError


def prediction_parts(units: Sequence[UnitOfWork], report: TaskReport) -> list[NDArray[np.float32]]:
    """Predictions of each unit (rows, output_dim), in the order of the units."""
    return [report.predictions[unit.id] for unit in units]


def prediction_columns(parts: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """{"prediction": (rows,), or (rows, output_dim) where the model has several outputs}."""
    values = np.concatenate(parts)
    return {"prediction": values[:, 0] if values.shape[1] == 1 else values}


def write_predictions(
    path: str, parts: Sequence[NDArray[np.float32]], config: TrainerConfig
) -> None:
    """Writes `part-<unit>.parquet` with a column `prediction` (a float, or a list of them).

    Raises:
        StorageError: the place cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, inside = filesystem_for(path, config.ps_config)
    try:
        filesystem.create_dir(inside, recursive=True)
        for index, values in enumerate(parts):
            column = pa.array(values[:, 0]) if values.shape[1] == 1 else pa.array(list(values))
            name = f"{inside}/part-{index:05d}.parquet"
            pq.write_table(pa.table({"prediction": column}), name, filesystem=filesystem)
    except OSError as error:
        raise StorageError(f"cannot write predictions to {path!r}: {error}") from error
