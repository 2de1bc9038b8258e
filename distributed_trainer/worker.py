"""The worker: trains a Keras model on units of work against the servers. Runs without Spark."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.config import TrainerConfig
from distributed_trainer.data_loader import FileSystems, PartitionInfo, S3ParquetDataLoader
from distributed_trainer.key_batch import unit_batches
from distributed_trainer.metrics import MetricState
from distributed_trainer.pipeline import NumberedBatch, Pipeline, Rows, StopWatch
from distributed_trainer.predictions import PredictionWriter
from distributed_trainer.read_ahead import read_ahead
from distributed_trainer.task import EVALUATE, PREDICT, TRAIN, DayPass, TaskReport, WorkerTask
from distributed_trainer.thread_config import configure_threads
from distributed_trainer.units import units_of_work
from pyspark_ps.client.worker_client import PSWorkerClient
from pyspark_ps.errors import ClosedError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from distributed_trainer.step import ComputedBatch, PreparedBatch, StepResult, TrainingStep

logger = logging.getLogger(__name__)

# Batches read, decoded and mapped to keys ahead of the pull: enough to hide a slow row group.
READ_AHEAD_BATCHES = 4

# Where a worker's time goes, seen from the thread that computes: connections, model and compiling;
# waiting for batches, for pulls (and the input made of them), for pushes (and the gradients summed
# for them); and the compiled step with its metrics.
STAGES = ("start", "wait_read", "wait_pull", "step", "wait_push")


@dataclass
class WorkerTrainingResult:
    """What a worker did with some partitions.

    Attributes:
        total_weighted_samples: sum of the sample weights.
        avg_loss: total_loss / total_samples.
        total_loss: sum of per-sample loss x weight, without regularisation.
        metrics: merged metrics of the rows, samples_per_second, batches_per_second,
            ps_wait_share, the share of the time spent waiting for the servers, and the share of
            each of the `STAGES` ("<stage>_share"), which add up to all but a few per cent.
    """

    worker_id: int
    total_samples: int
    total_batches: int
    total_weighted_samples: float
    avg_loss: float
    total_loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    training_time_seconds: float = 0.0

    @classmethod
    def of(cls, worker_id: int, report: TaskReport, seconds: float) -> WorkerTrainingResult:
        """The public form of a report."""
        metrics = report.metrics.result() if report.metrics is not None else {}
        rate = 1.0 / seconds if seconds > 0 else 0.0
        metrics["samples_per_second"] = report.samples * rate
        metrics["batches_per_second"] = report.batches * rate
        shares = {name: report.seconds.get(name, 0.0) * rate for name in STAGES}
        metrics["ps_wait_share"] = shares["wait_pull"] + shares["wait_push"]
        metrics.update((f"{name}_share", share) for name, share in shares.items())
        return cls(
            worker_id=worker_id,
            total_samples=report.samples,
            total_batches=report.batches,
            total_weighted_samples=report.weight_sum,
            avg_loss=report.avg_loss,
            total_loss=report.loss_sum,
            metrics=metrics,
            training_time_seconds=seconds,
        )


class WorkerTrainer:
    """Trains on Parquet files; the rows and dense weights live on the servers.

    Model, compiled step and connections are made at first use and kept until `close()`. Use it
    from one thread at a time.

    Args:
        worker_id: appears in results and logs.
        config: the trainer's configuration.
        server_info: ServerInfo objects (or dicts of them) of running servers.
        model_builder: a function without arguments that returns a Keras model.
        spark_hadoop: Spark's own S3 settings (`fs.s3a.*`), for what `config.ps_config` leaves open.

    Raises:
        ConfigurationError: an invalid configuration.
    """

    def __init__(
        self,
        worker_id: int,
        config: TrainerConfig,
        server_info: Sequence[Any],
        model_builder: Callable[[], Any],
        *,
        spark_hadoop: Mapping[str, str] | None = None,
    ) -> None:
        config.validate()
        config.check_trainable()
        self.worker_id = worker_id
        self.config = config
        self._server_info = list(server_info)
        self._model_builder = model_builder
        self._spark_hadoop = spark_hadoop
        self._file_systems = FileSystems(config.ps_config, spark_hadoop)
        self._client: PSWorkerClient | None = None
        self._step: Any = None
        self._wrapper: Any = None
        self._closed = False
        self._calls = 0

    def __enter__(self) -> WorkerTrainer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; idempotent."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def train_partitions(self, paths: Sequence[str]) -> WorkerTrainingResult:
        """Trains once on each of these Parquet files (or folders of them).

        When it returns all its pushes are applied. The same file given again trains again.

        Raises:
            InvalidArgumentError: a column or value that the configuration does not allow, by file.
            PSConnectionError, PSTimeoutError: the servers cannot be reached.
        """
        files = self._files_of(paths)
        seed = self.config.shuffle_seed
        day = DayPass(
            run=os.urandom(8).hex(),
            run_seed=int.from_bytes(os.urandom(7), "little") if seed is None else seed,
            pass_index=self._calls,
            date="",
        )
        self._calls += 1
        units = units_of_work(files, self.config.batch_size)
        start = time.perf_counter()
        report = self.run(WorkerTask(self.worker_id, day, tuple(units)))
        client = self._connected()
        client.end_streams([day.stream(unit) for unit in units])
        moving = report.moving_average()
        if moving:
            client.assign_weights(moving)
        return WorkerTrainingResult.of(self.worker_id, report, time.perf_counter() - start)

    def _files_of(self, paths: Sequence[str]) -> list[PartitionInfo]:
        """The Parquet files at the paths, each once."""
        if isinstance(paths, str):
            raise InvalidArgumentError(f"train_partitions takes a list of paths, not {paths!r}")
        loader = S3ParquetDataLoader(self.config.ps_config, self._spark_hadoop)
        files: dict[str, PartitionInfo] = {}
        for path in paths:
            found = loader.discover_partitions(str(path))
            if not found:
                raise NotFoundError(f"train_partitions: no Parquet file at {path!r}")
            files.update((info.path, info) for info in found)
        return list(files.values())

    def run(self, task: WorkerTask) -> TaskReport:
        """Does the worker's share of a pass over a day: trains, evaluates or predicts."""
        watch = StopWatch()
        start = time.perf_counter()
        with watch.measure("start"):
            client = self._connected()
            self._prepare_model(client, task)
        report = TaskReport(metrics=MetricState(self.config.target_config))
        if task.mode == TRAIN:
            self._train(task, client, report, watch)
        else:
            self._predict(task, client, report, watch)
        watch.add("total", time.perf_counter() - start)
        report.seconds = watch.seconds
        return report

    def _connected(self) -> PSWorkerClient:
        if self._closed:
            raise ClosedError(f"worker {self.worker_id} is closed; make a new WorkerTrainer")
        if self._client is None:
            self._client = PSWorkerClient(self._server_info, self.config.ps_config)
        return self._client

    def _prepare_model(self, client: PSWorkerClient, task: WorkerTask) -> None:
        """Builds and compiles once; then takes over the current dense weights."""
        if self._step is None:
            configure_threads(self.config.thread_config.within_cores())
            from distributed_trainer.step import TrainingStep
            from distributed_trainer.tf_model_wrapper import TFModelWrapper

            wrapper = TFModelWrapper(model_builder=self._model_builder)
            step = TrainingStep(wrapper, self.config)
            define_on_servers(client, self.config, wrapper)
            self._wrapper, self._step = wrapper, step
        names = [*self._wrapper.get_trainable_names(), *self._wrapper.get_moving_names()]
        _, weights = client.pull({}, names)
        self._wrapper.set_weights({**weights, **task.local_weights})

    # ---- training
    def _train(
        self, task: WorkerTask, client: PSWorkerClient, report: TaskReport, watch: StopWatch
    ) -> None:
        pipeline = Pipeline(client, self._wrapper.get_trainable_names(), self.config.prefetch_depth)
        clock = _UnitClock(report)

        def count(numbered: NumberedBatch, computed: ComputedBatch) -> None:
            self._count(report, numbered, computed.loss_sum, computed.predictions)
            clock.batch_done(numbered.unit)

        step = CountedStep(self._step, count)
        with contextlib.closing(read_ahead(self._batches(task), READ_AHEAD_BATCHES)) as batches:
            pipeline.train(iter(batches), step, watch)
        moving = self._wrapper.get_moving_names()
        if moving and report.samples:
            values = self._wrapper.get_weights()
            report.add_moving({name: values[name] for name in moving}, report.samples)
        report.local_weights = self._wrapper.get_local_weights()

    def _batches(self, task: WorkerTask) -> Iterator[NumberedBatch]:
        from distributed_trainer.schedule import rate_scale

        first_steps = task.first_steps or (0,) * len(task.units)
        first_step_of = {u.id: step for u, step in zip(task.units, first_steps, strict=True)}
        batches = unit_batches(
            task.units, self.config, task.day.unit_seed, file_systems=self._file_systems
        )
        with contextlib.closing(batches):
            for unit, index, batch in batches:
                step = first_step_of[unit.id] + index
                yield NumberedBatch(
                    batch=batch,
                    stream=task.day.stream(unit),
                    unit=unit.id,
                    rate_scale=task.rate_scale * rate_scale(self.config, step),
                    seed=task.day.batch_seed(unit, index),
                )

    def _count(
        self,
        report: TaskReport,
        numbered: NumberedBatch,
        loss_sum: float,
        predictions: NDArray[np.float32],
    ) -> None:
        batch = numbered.batch
        report.samples += batch.num_rows
        report.batches += 1
        report.loss_sum += loss_sum
        report.weight_sum += batch.weight_sum
        if report.metrics is not None and batch.targets is not None:
            report.metrics.update(batch.targets, predictions, batch.weights)
        if report.batches % self.config.log_every_n_batches == 0:
            logger.info(
                "worker %d: %d batches, %d samples, avg loss %.5f",
                self.worker_id,
                report.batches,
                report.samples,
                report.avg_loss,
            )

    # ---- evaluation and prediction: rows in the files' own order, no row is made
    def _predict(
        self, task: WorkerTask, client: PSWorkerClient, report: TaskReport, watch: StopWatch
    ) -> None:
        pipeline = Pipeline(client, [], self.config.prefetch_depth, create_rows=False)
        kept: dict[str, list[NDArray[np.float32]]] = {}
        folder = (
            PredictionWriter(task.output_path, self._file_systems) if task.output_path else None
        )

        def predict(numbered: NumberedBatch, rows: Rows, weights: Rows) -> None:
            predictions, loss_sum = self._step.predict(numbered.batch, rows)
            self._count(report, numbered, loss_sum, predictions)
            if folder is not None:
                folder.write(numbered.stream, predictions)
            elif task.mode == PREDICT:
                kept.setdefault(numbered.stream, []).append(np.array(predictions))

        with contextlib.closing(
            read_ahead(self._batches_to_look_at(task), READ_AHEAD_BATCHES)
        ) as ahead:
            pipeline.predict(iter(ahead), predict, watch)
        if folder is not None:
            folder.finish()
            report.prediction_files = folder.files
        report.predictions = {unit: np.concatenate(parts) for unit, parts in kept.items()}

    def _batches_to_look_at(self, task: WorkerTask) -> Iterator[NumberedBatch]:
        found = unit_batches(
            task.units,
            replace(self.config, shuffle_data=False),
            lambda unit: 0,
            with_targets=task.mode == EVALUATE,
            file_systems=self._file_systems,
        )
        with contextlib.closing(found):
            for unit, _, batch in found:
                yield NumberedBatch(batch=batch, stream=unit.id)


class CountedStep:
    """A `TrainingStep` as a pipeline runs it; `count` is told of each batch that was computed."""

    def __init__(
        self, step: TrainingStep, count: Callable[[NumberedBatch, ComputedBatch], None]
    ) -> None:
        self._step = step
        self._count = count

    def prepare(self, numbered: NumberedBatch, rows: Rows, weights: Rows) -> PreparedBatch:
        return self._step.prepare(numbered.batch, rows, weights, seed=numbered.seed)

    def compute(self, numbered: NumberedBatch, prepared: PreparedBatch) -> ComputedBatch:
        computed = self._step.compute(prepared)
        self._count(numbered, computed)
        return computed

    def finish(self, computed: ComputedBatch) -> StepResult:
        return self._step.finish(computed)


class _UnitClock:
    """Tells a report how long each unit took; the time between two batches is the later one's."""

    def __init__(self, report: TaskReport) -> None:
        self._seconds = report.unit_seconds
        self._last = time.perf_counter()

    def batch_done(self, unit: str) -> None:
        now = time.perf_counter()
        self._seconds[unit] = self._seconds.get(unit, 0.0) + now - self._last
        self._last = now


def define_on_servers(client: PSWorkerClient, config: TrainerConfig, wrapper: Any) -> None:
    """Makes the trainer's tables and dense weights where the servers do not have them yet.

    Never overwrites. Whoever comes first gives the values.

    Raises:
        InvalidArgumentError: a running table of another definition, a weight of another shape.
    """
    for name, table in config.get_table_configs().items():
        client.create_table(name, table)
    values = wrapper.get_weights()
    names = [*wrapper.get_trainable_names(), *wrapper.get_moving_names()]
    client.define_weights({name: values[name] for name in names})
