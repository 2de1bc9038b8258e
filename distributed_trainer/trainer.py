"""The driver: a model, days of data, and what a user asks of them."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import NDArray

from distributed_trainer.checkpoints import check_resume
from distributed_trainer.config import TrainerConfig
from distributed_trainer.data_loader import parse_date_range
from distributed_trainer.date_range import DateRange
from distributed_trainer.day_files import DayFiles
from distributed_trainer.predictions import PredictionFolder, prediction_columns
from distributed_trainer.report import write_report
from distributed_trainer.results import DayTrainingResult as DayTrainingResult
from distributed_trainer.results import evaluation_of
from distributed_trainer.saved_run import SavedRun
from distributed_trainer.session import Session
from distributed_trainer.task import EVALUATE, PREDICT
from pyspark_ps import PSMainClient
from pyspark_ps.client.checkpoints import hadoop_settings
from pyspark_ps.errors import ClosedError, InvalidArgumentError
from pyspark_ps.storage import CheckpointManager

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArchitectureBuilder:
    """Rebuilds a model from its Keras configuration: what `set_model` sends to the workers."""

    architecture: str

    def __call__(self) -> Any:
        from distributed_trainer.tf_model_wrapper import TFModelWrapper

        return TFModelWrapper.from_architecture(self.architecture).get_model()


class DistributedTrainer:
    """Trains a Keras model day by day; rows and dense weights live on parameter servers.

    The servers and workers start with the first call that needs them and live until `shutdown()`
    (or the end of a `with` block).

    Args:
        spark_context: SparkContext, SparkSession, or None (the workers are then child processes).
        config: everything else.

    Raises:
        ConfigurationError: an invalid configuration; names field, value and what is allowed.
    """

    def __init__(self, spark_context: Any, config: TrainerConfig) -> None:
        config.validate()
        config.check_trainable()
        self.config = config
        self._context = getattr(spark_context, "sparkContext", spark_context)
        self._ps = PSMainClient(self._context, config.get_server_config())
        spark_hadoop = hadoop_settings(self._context)
        self._files = DayFiles(config, spark_hadoop)
        self._manager = CheckpointManager(config.ps_config, spark_hadoop)
        self._builder: Callable[[], Any] | None = None
        self._wrapper: Any = None
        self._session: Session | None = None
        self._closed = False
        self._history: list[DayTrainingResult] = []

    def __enter__(self) -> DistributedTrainer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()

    # ---- the model
    def set_model(self, keras_model: Any) -> None:
        """Takes a model that Keras can rebuild from its configuration; its weights are the start.

        Raises:
            InvalidArgumentError: Keras cannot rebuild it (use `set_model_builder`).
            ConfigurationError: its input or output does not fit the features or targets.
        """
        from distributed_trainer.tf_model_wrapper import TFModelWrapper

        wrapper = TFModelWrapper(model=keras_model)
        self._take_model(wrapper, ArchitectureBuilder(wrapper.get_architecture()))

    def set_model_builder(self, builder: Callable[[], Any]) -> None:
        """Takes a function without arguments that returns a Keras model; it is sent to the workers.

        The weights of the model that it returns here, in the driver, are the start.

        Raises:
            ConfigurationError: the model's input or output does not fit the features or targets.
        """
        from distributed_trainer.tf_model_wrapper import TFModelWrapper

        try:
            cloudpickle.dumps(builder)
        except Exception as error:
            raise InvalidArgumentError(
                f"set_model_builder: {builder!r} cannot be sent to the workers ({error}); it must "
                "not capture models, sessions, locks or open files"
            ) from error
        self._take_model(TFModelWrapper(model_builder=builder), builder)

    def _take_model(self, wrapper: Any, builder: Callable[[], Any]) -> None:
        from distributed_trainer.model_check import check_model

        self._check_open()
        if self._session is not None:
            raise InvalidArgumentError(
                "the model cannot be changed once training has started; make a new "
                "DistributedTrainer"
            )
        check_model(wrapper, self.config)
        self._wrapper, self._builder = wrapper, builder

    def get_model(self) -> Any:
        """The Keras model with the weights of now, moving statistics included."""
        if self._wrapper is None:
            raise InvalidArgumentError("no model: call set_model or set_model_builder first")
        if self._session is not None and not self._closed:
            self._session.fetch_weights()
        return self._wrapper.get_model()

    # ---- life
    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the trainer is shut down; make a new DistributedTrainer")

    def _start(self) -> Session:
        self._check_open()
        if self._builder is None:
            raise InvalidArgumentError("no model: call set_model or set_model_builder first")
        if self._session is None:
            if not self.config.s3_checkpoint_path:
                logger.info("s3_checkpoint_path is empty: this training writes no checkpoints")
            self._session = Session(
                self._context,
                self.config,
                self._ps,
                self._manager,
                self._wrapper,
                self._builder,
            )
        return self._session

    def shutdown(self) -> None:
        """Ends workers and servers; `get_model()` keeps the last weights. Idempotent."""
        if self._closed:
            return
        try:
            if self._session is not None:
                self._session.fetch_weights()
        except Exception:
            logger.exception("the last weights could not be fetched from the servers")
        finally:
            self._closed = True
            if self._session is not None:
                self._session.close()
            self._ps.shutdown_servers()

    # ---- training
    def train_date_range(
        self,
        start_date: str | datetime.date,
        end_date: str | datetime.date,
        resume_from_checkpoint: str | None = None,
        callbacks: Sequence[Any] = (),
        validate_before_training: bool = False,
    ) -> dict[str, Any]:
        """Trains on each day from start to end, both included; returns the summary of the range.

        Args:
            resume_from_checkpoint: a checkpoint's path, or "latest" (the greatest date below
                `s3_checkpoint_path`; none there = start from nothing). Days up to the
                checkpoint's are skipped.
            callbacks: Keras callbacks; a day is an epoch. They run on the driver with merged logs.
            validate_before_training: each day is predicted before it is trained on; its metrics
                are in the day's record under "validation" and in the callbacks' logs as `val_*`.

        Raises:
            InvalidArgumentError: (a ValueError) the range ends before it starts, or is no range.
            NotFoundError: no checkpoint at the path to resume from.
            TrainingError: a day failed; the cause comes first, and is chained.
        """
        self._check_open()
        if resume_from_checkpoint is not None:
            check_resume(resume_from_checkpoint, self.config)
        self._files.check_template()
        dates = parse_date_range(start_date, end_date)
        session = self._start()
        skip_to = ""
        if resume_from_checkpoint is not None:
            path = session.checkpoints.find(resume_from_checkpoint)
            if path is not None:
                session.resume(path)
                skip_to = session.state.last_day
        days = DateRange(
            session,
            self._files,
            self._history.append,
            skip_to=skip_to,
            validate=validate_before_training,
        )
        return days.run(dates, callbacks)

    def train_single_day(self, date: str | datetime.date) -> DayTrainingResult:
        """Trains on one day, checkpoint and decay included as configured.

        Raises:
            TrainingError: the day failed; the cause comes first, and is chained.
        """
        self.train_date_range(date, date)
        return self._history[-1]

    # ---- looking at the model
    def evaluate(self, date_or_path: str | datetime.date) -> dict[str, float]:
        """Loss and metrics of the model of now on a day or on files; makes no rows.

        Raises:
            NotFoundError: no Parquet file there.
        """
        self._check_open()
        units = self._files.units_to_look_at(date_or_path)
        return evaluation_of(self._start().look(str(date_or_path), units, EVALUATE))

    def predict(
        self, date_or_path: str | datetime.date, output_path: str | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Predictions for the rows of a day or of files; unseen ids count as zeros.

        Args:
            output_path: the workers write them there as Parquet, one file `part-<n>.parquet` per
                unit of work with a column "prediction", and nothing is collected here. The files
                are seen when all of them are done.

        Returns:
            {"prediction": float32 (rows,) or (rows, output_dim)}: files sorted by path, rows in
            the files' order. With an `output_path` {}: that order is the order of the files there.

        Raises:
            NotFoundError: no Parquet file there.
            InvalidArgumentError: there are Parquet files at `output_path` already.
            StorageError: `output_path` cannot be written.
        """
        self._check_open()
        units = self._files.units_to_look_at(date_or_path)
        label = str(date_or_path)
        if output_path is None:
            return prediction_columns(units, self._start().look(label, units, PREDICT).predictions)
        folder = PredictionFolder(output_path, self._files.file_systems)
        folder.check_empty()
        try:
            report = self._start().look(label, units, PREDICT, folder.path)
            folder.commit(units, report.prediction_files)
        finally:
            folder.clean()
        return {}

    # ---- state
    def save_checkpoint(self, path: str) -> None:
        """Saves what the training needs to go on from here; any cluster may load it.

        Raises:
            StorageError: the place cannot be written.
        """
        self._start().save(path)

    def load_checkpoint(self, path: str) -> None:
        """Goes back to a checkpoint: rows, weights, and the state of the run that saved it.

        Where no model was set, it is the checkpoint's own, if Keras could rebuild that one.

        Raises:
            NotFoundError: there is no complete checkpoint.
            ConfigurationError: it is of another model, or of tables of other dimensions.
            InvalidArgumentError: no model was set, and the checkpoint has none.
        """
        self._check_open()
        if self._builder is None:
            self._take_saved_model(path)
        self._start().resume(path)

    def _take_saved_model(self, path: str) -> None:
        from distributed_trainer.tf_model_wrapper import TFModelWrapper

        architecture = SavedRun.read(self._manager.location(path)).architecture
        if architecture is None:
            raise InvalidArgumentError(
                f"{path} holds no model that Keras could rebuild: call set_model_builder first, "
                "with the function that made the model"
            )
        wrapper = TFModelWrapper.from_architecture(architecture)
        self._take_model(wrapper, ArchitectureBuilder(architecture))

    def get_server_info(self) -> list[Any]:
        """The servers; empty before the first start."""
        return list(self._ps.get_server_info())

    def get_cluster_stats(self) -> dict[str, Any]:
        """See `PSMainClient.get_cluster_stats`."""
        return dict(self._ps.get_cluster_stats())

    def get_training_history(self) -> list[dict[str, Any]]:
        """One record for each day so far, oldest first; what `pandas.DataFrame` takes."""
        return [day.record() for day in self._history]

    def write_report(self, folder: str | Path, title: str = "Training") -> list[Path]:
        """Writes the history with pictures: `report.html` (self-contained) and `report.png`.

        Returns:
            The files written; none before the first trained day.
        """
        return write_report(self.get_training_history(), folder, title)
