"""The driver: day after day, from files to a trained model."""

from __future__ import annotations

import datetime
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import NDArray

from distributed_trainer.config import TrainerConfig
from distributed_trainer.data_loader import (
    PartitionInfo,
    S3ParquetDataLoader,
    UnitOfWork,
    distribute_units,
    filesystem_for,
    format_date_path,
    parse_date_range,
    units_of_work,
)
from distributed_trainer.errors import TrainingError
from distributed_trainer.pools import TaskOutcome, WorkerPool, WorkerSpec
from distributed_trainer.progress import RangeProgress
from distributed_trainer.results import NO_DATA, TRAINED, summarize
from distributed_trainer.results import DayTrainingResult as DayTrainingResult
from distributed_trainer.task import EVALUATE, PREDICT, TRAIN, DayPass, TaskReport, WorkerTask
from distributed_trainer.worker import WorkerTrainingResult, define_on_servers
from pyspark_ps import PSMainClient
from pyspark_ps.errors import (
    ClosedError,
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    PSError,
)

logger = logging.getLogger(__name__)

ISO_DATE = "%Y-%m-%d"


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
        self._loader = S3ParquetDataLoader(config.ps_config)
        self._run = uuid.uuid4().hex
        seed = config.shuffle_seed
        self._run_seed = int.from_bytes(os.urandom(7), "little") if seed is None else seed
        self._builder: Callable[[], Any] | None = None
        self._wrapper: Any = None
        self._pool: WorkerPool | None = None
        self._started = False
        self._closed = False
        self._passes: dict[str, int] = {}
        self._steps = 0
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
        if self._started:
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
        if self._started and not self._closed:
            self._take_weights_from_servers()
        return self._wrapper.get_model()

    def _take_weights_from_servers(self) -> None:
        _, weights = self._ps.worker_client().pull({}, self._server_weights())
        self._wrapper.set_weights(weights)

    def _server_weights(self) -> list[str]:
        return [*self._wrapper.get_trainable_names(), *self._wrapper.get_moving_names()]

    # ---- life
    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the trainer is shut down; make a new DistributedTrainer")

    def _start(self) -> WorkerPool:
        self._check_open()
        if self._builder is None:
            raise InvalidArgumentError("no model: call set_model or set_model_builder first")
        if self._pool is None:
            logger.info("s3_checkpoint_path is empty: this training writes no checkpoints")
            self._check_slots()
            servers = self._ps.start_servers()
            define_on_servers(self._ps.worker_client(), self.config, self._wrapper)
            spec = WorkerSpec(
                run=self._run,
                config=self.config.to_dict(),
                server_info=[server.to_dict() for server in servers],
                model_builder=self._builder,
            )
            self._pool = self._make_pool(spec)
            self._started = True
        return self._pool

    def _make_pool(self, spec: WorkerSpec) -> WorkerPool:
        if self._context is None:
            from distributed_trainer.pools.processes import ProcessPool

            return ProcessPool(spec)
        from distributed_trainer.pools.spark import SparkPool

        return SparkPool(self._context, spec)

    def _check_slots(self) -> None:
        """Says in time, with the numbers, when Spark has no slots for servers and workers."""
        if self._context is None:
            return
        from distributed_trainer.pools.spark import count_slots

        slots = count_slots(self._context)
        servers = self._ps.executor_slots_needed()
        if slots is None:
            return
        if slots - servers < 1:
            raise ConfigurationError(
                f"Spark has {slots} task slots and {servers} servers take one each: none is left "
                "for workers. Give Spark more executors or cores (spark.executor.instances, "
                "spark.executor.cores), or lower PSConfig.num_servers"
            )
        if slots - servers < self.config.num_workers:
            logger.warning(
                "%d workers share %d task slots (%d slots, %d of them taken by servers): they run "
                "in waves. Lower TrainerConfig.num_workers or give Spark more cores",
                self.config.num_workers,
                slots - servers,
                slots,
                servers,
            )

    def shutdown(self) -> None:
        """Ends workers and servers; `get_model()` keeps the last weights. Idempotent."""
        if self._closed:
            return
        try:
            if self._started:
                self._take_weights_from_servers()
        except Exception:
            logger.exception("the last weights could not be fetched from the servers")
        finally:
            self._closed = True
            try:
                if self._pool is not None:
                    self._pool.close()
            except Exception:
                logger.exception("the workers could not be ended in order")
            finally:
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
            callbacks: Keras callbacks; a day is an epoch. They run on the driver with merged logs.
            validate_before_training: each day is predicted before it is trained on; its metrics
                are in the day's record under "validation" and in the callbacks' logs as `val_*`.

        Raises:
            InvalidArgumentError: (a ValueError) the range ends before it starts, or is no range.
            TrainingError: a day failed; the cause comes first, and is chained.
        """
        if resume_from_checkpoint is not None:
            raise ConfigurationError(
                f"resume_from_checkpoint = {resume_from_checkpoint!r}: not built yet (checkpoints)"
            )
        self._check_template()
        dates = parse_date_range(start_date, end_date)
        self._start()
        started = time.perf_counter()
        days: list[DayTrainingResult] = []
        totals = TaskReport()
        notify = _Callbacks(callbacks, self)
        with RangeProgress(len(dates), self.config) as progress:
            notify.train_begin()
            for index, date in enumerate(dates):
                day, report = self._train_day(date, validate=validate_before_training)
                days.append(day)
                totals.merge(report)
                progress.day_done(day)
                if notify.day_end(index, day):
                    break
            notify.train_end()
        return summarize(dates, days, totals, time.perf_counter() - started)

    def train_single_day(self, date: str | datetime.date) -> DayTrainingResult:
        """Trains on one day, decay included as configured."""
        self._check_template()
        (day,) = parse_date_range(date, date)
        self._start()
        result, _ = self._train_day(day, validate=False)
        return result

    def _check_template(self) -> None:
        self._check_open()
        if not self.config.s3_data_path_template:
            raise self.config.problem("s3_data_path_template", "a path that contains {date}")
        self._loader.check_template(self.config.s3_data_path_template)

    def _train_day(self, date: str, *, validate: bool) -> tuple[DayTrainingResult, TaskReport]:
        try:
            return self._do_day(date, validate=validate)
        except PSError as error:
            raise TrainingError(f"{date} failed: {error}") from (error.__cause__ or error)

    def _do_day(self, date: str, *, validate: bool) -> tuple[DayTrainingResult, TaskReport]:
        started = time.perf_counter()
        units = self._units_of(self._path_of(date))
        if not units:
            logger.warning("%s: no data at %s", date, self._path_of(date))
            day = DayTrainingResult(date=date, status=NO_DATA)
            self._history.append(day)
            return day, TaskReport()
        validation = None
        if validate:
            validation = _evaluation(self._run_pass(date, units, EVALUATE)[0])
        report, outcomes = self._run_pass(date, units, TRAIN)
        self._keep_moving(report)
        table_rows = self._decay()
        day = DayTrainingResult(
            date=date,
            total_samples=report.samples,
            total_batches=report.batches,
            avg_loss=report.avg_loss,
            worker_results=[
                WorkerTrainingResult.of(o.worker_id, o.result(), o.seconds) for o in outcomes
            ],
            training_time_seconds=time.perf_counter() - started,
            status=TRAINED,
            metrics=_metrics(report),
            validation=validation,
            seconds=report.seconds,
            table_rows=table_rows,
        )
        self._history.append(day)
        return day, report

    def _path_of(self, date: str) -> str:
        day = datetime.datetime.strptime(date, ISO_DATE).date()
        return format_date_path(
            self.config.s3_data_path_template, day.strftime(self.config.date_format)
        )

    def _units_of(self, path: str) -> list[UnitOfWork]:
        files: Iterable[PartitionInfo] = self._loader.discover_partitions(path)
        return units_of_work([f for f in files if f.num_rows], self.config.batch_size)

    def _run_pass(
        self, date: str, units: Sequence[UnitOfWork], mode: str
    ) -> tuple[TaskReport, list[TaskOutcome]]:
        """One pass over a day by all workers; the merged report and each worker's."""
        pool = self._start()
        day = DayPass(self._run, self._run_seed, self._passes.get(date, 0), date)
        first_steps: dict[str, int] = {}
        if mode == TRAIN:  # looking at the model changes nothing of how it is trained
            self._passes[date] = day.pass_index + 1
            first_steps = self._number_steps(units)
        tasks = [
            WorkerTask(
                worker_id,
                day,
                tuple(share),
                mode,
                tuple(first_steps[unit.id] for unit in share) if first_steps else (),
            )
            for worker_id, share in enumerate(distribute_units(units, self.config.num_workers))
            if share
        ]
        outcomes = pool.run(tasks)
        merged = TaskReport()
        for outcome in outcomes:
            merged.merge(outcome.result())
        if mode == TRAIN:
            self._ps.worker_client().end_streams([day.stream(unit) for unit in units])
        return merged, outcomes

    def _number_steps(self, units: Sequence[UnitOfWork]) -> dict[str, int]:
        """unit id -> steps of the run before it; what a learning-rate schedule counts by."""
        first: dict[str, int] = {}
        for unit in units:
            first[unit.id] = self._steps
            self._steps += math.ceil(unit.num_rows / self.config.batch_size)
        return first

    def _keep_moving(self, report: TaskReport) -> None:
        """The workers' moving statistics, averaged by rows seen, become the servers'."""
        average = report.moving_average()
        if average:
            self._ps.worker_client().assign_weights(average)

    def _decay(self) -> dict[str, int]:
        """Decays as configured; rows by table afterwards."""
        config = self.config
        if config.decay_after_each_day:
            self._ps.decay_embeddings(
                method=config.decay_method,
                factor=config.decay_factor,
                min_count=config.prune_threshold,
            )
        rows: dict[str, int] = dict.fromkeys(config.feature_config.get_tables(), 0)
        for server in self._ps.get_cluster_stats()["servers"]:
            for name in rows:
                rows[name] += server["tables"].get(name, {}).get("rows", 0)
        return rows

    # ---- looking at the model
    def evaluate(self, date_or_path: str | datetime.date) -> dict[str, float]:
        """Loss and metrics of the model of now on a day or on files; makes no rows.

        Raises:
            NotFoundError: no Parquet file there.
        """
        label, units = self._units_to_look_at(date_or_path)
        report, _ = self._run_pass(label, units, EVALUATE)
        return _evaluation(report)

    def predict(
        self, date_or_path: str | datetime.date, output_path: str | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Predictions for the rows of a day or of files; unseen ids count as zeros.

        Args:
            output_path: also writes them there as Parquet, one file per unit of work.

        Returns:
            {"prediction": float32 (rows,) or (rows, output_dim)}: files sorted by path, rows in
            the files' order.
        """
        label, units = self._units_to_look_at(date_or_path)
        report, _ = self._run_pass(label, units, PREDICT)
        parts = [report.predictions[unit.id] for unit in units]
        if output_path is not None:
            self._write_predictions(output_path, parts)
        values = np.concatenate(parts)
        return {"prediction": values[:, 0] if values.shape[1] == 1 else values}

    def _write_predictions(self, path: str, parts: Sequence[NDArray[np.float32]]) -> None:
        """`part-<unit>.parquet` with a column `prediction` (a float, or a list of them)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        filesystem, inside = filesystem_for(path, self.config.ps_config)
        if self._loader.discover_partitions(path):
            raise InvalidArgumentError(
                f"predict: output_path {path!r} holds Parquet files already; give an empty folder"
            )
        filesystem.create_dir(inside, recursive=True)
        for index, values in enumerate(parts):
            column = pa.array(values[:, 0]) if values.shape[1] == 1 else pa.array(list(values))
            name = f"{inside}/part-{index:05d}.parquet"
            pq.write_table(pa.table({"prediction": column}), name, filesystem=filesystem)

    def _units_to_look_at(self, date_or_path: str | datetime.date) -> tuple[str, list[UnitOfWork]]:
        self._check_open()
        path = str(date_or_path)
        if isinstance(date_or_path, datetime.date) or _is_date(path):
            self._check_template()
            (day,) = parse_date_range(date_or_path, date_or_path)
            path = self._path_of(day)
        units = self._units_of(path)
        if not units:
            raise NotFoundError(f"no Parquet file with rows at {path}")
        return str(date_or_path), units

    # ---- state
    def save_checkpoint(self, path: str) -> None:
        """Not built yet."""
        raise ConfigurationError(f"save_checkpoint({path!r}): checkpoints are not built yet")

    def load_checkpoint(self, path: str) -> None:
        """Not built yet."""
        raise ConfigurationError(f"load_checkpoint({path!r}): checkpoints are not built yet")

    def get_server_info(self) -> list[Any]:
        """The servers; empty before the first start."""
        return list(self._ps.get_server_info())

    def get_cluster_stats(self) -> dict[str, Any]:
        """See `PSMainClient.get_cluster_stats`."""
        return dict(self._ps.get_cluster_stats())

    def get_training_history(self) -> list[dict[str, Any]]:
        """One record for each day trained so far, oldest first."""
        return [day.record() for day in self._history]


class _Callbacks:
    """Keras callbacks with days as epochs."""

    def __init__(self, callbacks: Sequence[Any], trainer: DistributedTrainer) -> None:
        self._list: Any = None
        self._trainer = trainer
        if callbacks:
            import keras

            self._list = keras.callbacks.CallbackList(list(callbacks), model=trainer.get_model())

    def train_begin(self) -> None:
        if self._list is not None:
            self._list.model.stop_training = False
            self._list.on_train_begin()

    def day_end(self, index: int, day: DayTrainingResult) -> bool:
        """Whether a callback asked to stop."""
        if self._list is None or day.status != TRAINED:
            return False
        self._list.on_epoch_begin(index)
        self._trainer.get_model()
        logs = {"loss": day.avg_loss, **day.metrics}
        for name, value in (day.validation or {}).items():
            logs[f"val_{name}"] = value
        self._list.on_epoch_end(index, logs)
        return bool(self._list.model.stop_training)

    def train_end(self) -> None:
        if self._list is not None:
            self._list.on_train_end()


def _metrics(report: TaskReport) -> dict[str, float]:
    metrics: Mapping[str, float] = report.metrics.result() if report.metrics is not None else {}
    return dict(metrics)


def _evaluation(report: TaskReport) -> dict[str, float]:
    return {"loss": report.avg_loss, **_metrics(report)}


def _is_date(text: str) -> bool:
    try:
        datetime.datetime.strptime(text, ISO_DATE)
    except ValueError:
        return False
    return True
