"""Where the files of a day lie, and the units of work that they make."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from distributed_trainer.config import TrainerConfig
from distributed_trainer.data_loader import (
    FileSystems,
    S3ParquetDataLoader,
    format_date_path,
    parse_date_range,
)
from distributed_trainer.units import UnitOfWork, units_of_work
from pyspark_ps.errors import NotFoundError

ISO_DATE = "%Y-%m-%d"


class DayFiles:
    """Finds files by `s3_data_path_template` and `date_format`.

    Args:
        spark_hadoop: Spark's S3 settings.
    """

    def __init__(
        self, config: TrainerConfig, spark_hadoop: Mapping[str, str] | None = None
    ) -> None:
        self._config = config
        self._loader = S3ParquetDataLoader(config.ps_config, spark_hadoop)

    def check_template(self) -> None:
        """Refuses to train from nowhere.

        Raises:
            ConfigurationError: the template is empty.
            StorageError: its folder before the first {date} does not exist or cannot be read.
        """
        template = self._config.s3_data_path_template
        if not template:
            raise self._config.problem("s3_data_path_template", "a path that contains {date}")
        self._loader.check_template(template)

    def path_of(self, date: str) -> str:
        """The path of a day ("YYYY-MM-DD")."""
        day = datetime.datetime.strptime(date, ISO_DATE).date()
        return format_date_path(
            self._config.s3_data_path_template, day.strftime(self._config.date_format)
        )

    def units_of(self, date: str) -> list[UnitOfWork]:
        """A day's units of work; [] for a day without rows."""
        return self._units_at(self.path_of(date))

    def units_to_look_at(self, date_or_path: str | datetime.date) -> list[UnitOfWork]:
        """Units of a day, or of the Parquet files at a path.

        Raises:
            NotFoundError: no file with rows there.
        """
        path = str(date_or_path)
        if isinstance(date_or_path, datetime.date) or _is_date(path):
            self.check_template()
            (day,) = parse_date_range(date_or_path, date_or_path)
            path = self.path_of(day)
        units = self._units_at(path)
        if not units:
            raise NotFoundError(f"no Parquet file with rows at {path}")
        return units

    @property
    def file_systems(self) -> FileSystems:
        """How the configuration and Spark's settings reach paths."""
        return self._loader.file_systems

    def _units_at(self, path: str) -> list[UnitOfWork]:
        files = self._loader.discover_partitions(path)
        return units_of_work([file for file in files if file.num_rows], self._config.batch_size)


def _is_date(text: str) -> bool:
    try:
        datetime.datetime.strptime(text, ISO_DATE)
    except ValueError:
        return False
    return True
