"""The servers and workers of one run while they live: passes over units, weights, rows, decay."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distributed_trainer.config import TrainerConfig
from distributed_trainer.pools import TaskOutcome, WorkerPool, WorkerSpec
from distributed_trainer.run_state import RunState
from distributed_trainer.task import TRAIN, DayPass, TaskReport, WorkerTask
from distributed_trainer.units import UnitOfWork, distribute_units
from distributed_trainer.worker import define_on_servers
from pyspark_ps import PSMainClient

logger = logging.getLogger(__name__)


class Session:
    """Started servers and workers. For one thread, but for `pushes_done`.

    Args:
        spark_context: None = the workers are child processes.
        config: of the training.
        main_client: not started yet; ended by `close`.
        wrapper: the model in the driver; its weights are the start.
        builder: makes the model in the workers.

    Raises:
        ConfigurationError: Spark has no task slot left for workers.
    """

    def __init__(
        self,
        spark_context: Any,
        config: TrainerConfig,
        main_client: PSMainClient,
        wrapper: Any,
        builder: Callable[[], Any],
    ) -> None:
        self.config = config
        self.main_client = main_client
        self.wrapper = wrapper
        self.state = RunState.begin(config)
        self._context = spark_context
        self._builder = builder
        self._pool: WorkerPool | None = None
        self._check_slots()
        self._start()

    def _start(self) -> None:
        servers = self.main_client.start_servers()
        define_on_servers(self.main_client.worker_client(), self.config, self.wrapper)
        spec = WorkerSpec(
            run=self.state.run,
            config=self.config.to_dict(),
            server_info=[server.to_dict() for server in servers],
            model_builder=self._builder,
        )
        if self._context is None:
            from distributed_trainer.pools.processes import ProcessPool

            self._pool = ProcessPool(spec)
        else:
            from distributed_trainer.pools.spark import SparkPool

            self._pool = SparkPool(self._context, spec)

    def _check_slots(self) -> None:
        if self._context is not None:
            from distributed_trainer.pools.slots import check_slots

            check_slots(
                self._context, self.main_client.executor_slots_needed(), self.config.num_workers
            )

    def close(self) -> None:
        """Ends workers and servers."""
        pool, self._pool = self._pool, None
        try:
            if pool is not None:
                pool.close()
        except Exception:
            logger.exception("the workers could not be ended in order")
        finally:
            self.main_client.shutdown_servers()

    # ---- passes
    def train(self, date: str, units: Sequence[UnitOfWork]) -> tuple[TaskReport, list[TaskOutcome]]:
        """Trains once on the units of a day; the merged report and each worker's.

        Raises:
            TrainingError: a worker failed; the cause comes first.
        """
        day = self.state.next_pass(date)
        self.state.passes[date] = day.pass_index + 1
        report, outcomes = self._run(day, units, TRAIN, self._number_steps(units))
        client = self.main_client.worker_client()
        client.end_streams([day.stream(unit) for unit in units])
        # The workers' moving statistics, averaged by rows seen, become the servers'.
        moving = report.moving_average()
        if moving:
            client.assign_weights(moving)
        return report, outcomes

    def look(self, label: str, units: Sequence[UnitOfWork], mode: str) -> TaskReport:
        """Evaluates or predicts; changes nothing of how the model is trained."""
        report, _ = self._run(self.state.next_pass(label), units, mode, {})
        return report

    def _number_steps(self, units: Sequence[UnitOfWork]) -> dict[str, int]:
        """unit id -> steps of the run before it; what a learning-rate schedule counts by."""
        first: dict[str, int] = {}
        for unit in units:
            first[unit.id] = self.state.steps
            self.state.steps += math.ceil(unit.num_rows / self.config.batch_size)
        return first

    def _run(
        self,
        day: DayPass,
        units: Sequence[UnitOfWork],
        mode: str,
        first_steps: Mapping[str, int],
    ) -> tuple[TaskReport, list[TaskOutcome]]:
        assert self._pool is not None
        tasks = [
            WorkerTask(
                worker_id,
                day,
                tuple(share),
                mode,
                tuple(first_steps[unit.id] for unit in share) if first_steps else (),
                self.state.rate_scale,
            )
            for worker_id, share in enumerate(distribute_units(units, self.config.num_workers))
            if share
        ]
        outcomes = self._pool.run(tasks)
        merged = TaskReport()
        for outcome in outcomes:
            merged.merge(outcome.result())
        return merged, outcomes

    def pushes_done(self) -> int:
        """Batches pushed since the servers started. Thread-safe.

        Every batch pushes to the server that holds a dense weight, so the most that one server has
        received is the number of batches, for a model whose weights fill fewer chunks than that.
        """
        servers = self.main_client.get_cluster_stats()["servers"]
        counts = (server["latency_ms"].get("push", {}).get("count", 0) for server in servers)
        return max(counts, default=0)

    # ---- dense weights
    def _names(self) -> list[str]:
        return [*self.wrapper.get_trainable_names(), *self.wrapper.get_moving_names()]

    def fetch_weights(self) -> None:
        """Gives the driver's model the servers' weights of now."""
        _, weights = self.main_client.worker_client().pull({}, self._names())
        self.wrapper.set_weights(weights)

    def store_weights(self, names: Sequence[str]) -> None:
        """Gives the servers these weights of the driver's model; their optimizer starts fresh."""
        values = self.wrapper.get_weights()
        known = set(self._names())
        self.main_client.worker_client().assign_weights(
            {name: values[name] for name in names if name in known}
        )

    # ---- rows
    def decay(self) -> None:
        """Ages the rows as configured."""
        config = self.config
        if config.decay_after_each_day:
            self.main_client.decay_embeddings(
                method=config.decay_method,
                factor=config.decay_factor,
                min_count=config.prune_threshold,
            )
        self.state.decay_due = False

    def table_rows(self) -> dict[str, int]:
        """Rows on the servers by table of the trainer."""
        rows = dict.fromkeys(self.config.feature_config.get_tables(), 0)
        for server in self.main_client.get_cluster_stats()["servers"]:
            for name in rows:
                rows[name] += server["tables"].get(name, {}).get("rows", 0)
        return rows
