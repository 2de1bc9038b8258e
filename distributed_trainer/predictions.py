"""Predictions as columns, or as a folder of Parquet files that the workers write.

A worker writes each of its units of work to a file of a random name in the folder's `_temporary`,
and reports the names. When all units are done the driver moves the reported files to
`part-<number of the unit>.parquet`. So a task that runs twice leaves no row twice, a prediction
that fails leaves nothing to be seen, and no row passes through the driver.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.data_loader import FileSystems
from distributed_trainer.units import UnitOfWork
from pyspark_ps.errors import InvalidArgumentError, StorageError

logger = logging.getLogger(__name__)

ROW_GROUP_ROWS = 1 << 17
TEMPORARY = "_temporary"


def prediction_columns(
    units: Sequence[UnitOfWork], predictions: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """{"prediction": (rows,), or (rows, output_dim) where the model has several outputs}.

    Args:
        predictions: unit id -> float32 (rows, output_dim).
    """
    values = np.concatenate([predictions[unit.id] for unit in units])
    return {"prediction": values[:, 0] if values.shape[1] == 1 else values}


class PredictionFolder:
    """The driver's side of a folder of predictions.

    Raises:
        StorageError: (from every method) the place cannot be read or written.
    """

    def __init__(self, path: str, file_systems: FileSystems) -> None:
        self._filesystem, self._inside = file_systems.of(path)
        self.path = path if "://" in path else self._inside
        """Means the same folder in the workers, whatever folder they work in."""

    def check_empty(self) -> None:
        """Refuses a folder that holds Parquet files, hidden ones left out.

        Raises:
            InvalidArgumentError: names the folder and a file in it.
        """
        from pyarrow import fs

        with _errors("list", self.path):
            selector = fs.FileSelector(self._inside, allow_not_found=True)
            for entry in self._filesystem.get_file_info(selector):
                if entry.base_name.endswith(".parquet") and entry.base_name[0] not in "._":
                    raise InvalidArgumentError(
                        f"predict: output_path {self.path!r} holds {entry.base_name!r} already; "
                        "give an empty folder"
                    )

    def commit(self, units: Sequence[UnitOfWork], files: Mapping[str, str]) -> None:
        """Shows the files that the workers have reported, in the units' order.

        Args:
            files: unit id -> name below the folder.
        """
        with _errors("write", self.path):
            for index, unit in enumerate(units):
                name = f"part-{index:05d}.parquet"
                self._filesystem.move(f"{self._inside}/{files[unit.id]}", f"{self._inside}/{name}")

    def clean(self) -> None:
        """Removes what attempts have left; what cannot be removed stays, hidden from readers."""
        try:
            self._filesystem.delete_dir(f"{self._inside}/{TEMPORARY}")
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("left-overs stay in %s/%s: %s", self.path, TEMPORARY, error)


class PredictionWriter:
    """A worker's side: one file for each unit, streamed; memory holds one row group.

    Raises:
        StorageError: (from every method) the place cannot be written.
    """

    def __init__(self, path: str, file_systems: FileSystems) -> None:
        self._path = path
        self._filesystem, self._inside = file_systems.of(path)
        self._unit = ""
        self._writer: Any = None
        self._waiting: list[NDArray[np.float32]] = []
        self.files: dict[str, str] = {}
        """unit id -> name below the folder."""

    def write(self, unit: str, values: NDArray[np.float32]) -> None:
        """Adds rows (n, output_dim) of a unit; all rows of a unit come one after another."""
        if unit != self._unit:
            self.finish()
            self._unit = unit
        self._waiting.append(np.array(values))
        if sum(map(len, self._waiting)) >= ROW_GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        """Completes the file of the last unit."""
        if self._waiting:
            self._flush()
        writer, self._writer = self._writer, None
        if writer is not None:
            with _errors("write", self._path):
                writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        values = np.concatenate(self._waiting)
        self._waiting = []
        column = pa.array(values[:, 0] if values.shape[1] == 1 else list(values))
        table = pa.table({"prediction": column})
        with _errors("write", self._path):
            if self._writer is None:
                self._writer = self._open(table.schema)
            self._writer.write_table(table)

    def _open(self, schema: Any) -> Any:
        import pyarrow.parquet as pq

        name = f"{TEMPORARY}/{self._unit}-{secrets.token_hex(4)}.parquet"
        self.files[self._unit] = name
        self._filesystem.create_dir(f"{self._inside}/{TEMPORARY}", recursive=True)
        return pq.ParquetWriter(f"{self._inside}/{name}", schema, filesystem=self._filesystem)


@contextlib.contextmanager
def _errors(action: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {action} the predictions at {path!r}: {error}") from error
