"""Servers on Spark's executors: one long-running Spark job per server.

One job each, because in one job for all, a few deaths of a single task abort its siblings; no
barrier stage, so that dynamic allocation and retries go on working for the other jobs. The task
starts a child process that serves, watches over it, and ends with it.
"""

from __future__ import annotations

import functools
import os
import pickle
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark_ps.errors import ConfigurationError, PSError
from pyspark_ps.placement.interpreter import interpreter_problem
from pyspark_ps.placement.launch import (
    LaunchSpec,
    ServerProcess,
    make_socket_folder,
    remove_socket_folder,
)
from pyspark_ps.placement.memory import memory_warning
from pyspark_ps.utils.config import PSConfig
from pyspark_ps.utils.logging import get_logger

if TYPE_CHECKING:
    from pyspark import RDD, SparkContext

_logger = get_logger(__name__)

# How long to wait for executors that Spark was told to start.
EXECUTORS_WAIT_SECONDS = 60.0
# Without a number to wait for: executors are complete when none came for so long.
EXECUTORS_QUIET_SECONDS = 2.0
TASK_POLL_SECONDS = 0.5
WATCH_SECONDS = 1.0

_SLOT_SETTINGS = (
    "raise spark.executor.instances or spark.executor.cores (or lower spark.task.cpus), end other "
    "jobs, or lower PSConfig.num_servers"
)


@dataclass(frozen=True)
class Executor:
    """An executor as Spark's driver knows it."""

    executor_id: str
    host: str
    slots: int

    @property
    def location(self) -> str:
        """Spark's name for this executor as a task's preferred location."""
        return f"executor_{self.host}_{self.executor_id}"


class ExecutorPlacement:
    """One Spark job per server, spread over the executors. See `Placement` for the methods.

    Args:
        spark_context: runs the jobs.
        specs: the servers; `advertised_host` "" = each executor's own address.
        cluster_name: tells this cluster's jobs from those of others.
        lost_servers: ids of servers that are known to be lost; their jobs are cancelled.
        config: of the cluster.
    """

    def __init__(
        self,
        spark_context: SparkContext,
        specs: Sequence[LaunchSpec],
        cluster_name: str,
        lost_servers: Callable[[], set[int]],
        config: PSConfig,
    ) -> None:
        self._context = spark_context
        self._config = config
        self._specs = list(specs)
        self._cluster_name = cluster_name
        self._lost_servers = lost_servers
        self._failures: dict[int, str] = {}
        self._jobs: dict[int, threading.Thread] = {}
        self._ending = threading.Event()

    def start(self) -> None:
        executors = wait_for_executors(self._context)
        self._check_slots(executors)
        warning = memory_warning(
            self._config,
            str(self._context.master),
            len(executors),
            lambda name: self._context.getConf().get(name, None),
        )
        if warning:
            _logger.warning("%s", warning)
        locations = spread(executors, len(self._specs))
        for spec, location in zip(self._specs, locations, strict=True):
            self._jobs[spec.server_id] = self._start_job(spec, location)
        threading.Thread(target=self._watch, name="ps-watch-jobs", daemon=True).start()

    def failures(self) -> dict[int, str]:
        return dict(self._failures)

    def describe_missing(self, missing: Sequence[int]) -> str:
        running = {server for server in missing if self._has_slot(server)}
        waiting = len(missing) - len(running)
        started = len(self._specs) - waiting
        text = f"{started} of {len(self._specs)} servers got a task slot of Spark"
        if waiting:
            return f"{text}; {_SLOT_SETTINGS}"
        return (
            f"{text}, but did not reach the driver at {self._specs[0].options['coordinator']}: "
            "check spark.driver.host and the network between executors and driver"
        )

    def end(self, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        self._ending.set()
        for job in self._jobs.values():
            job.join(max(0.0, deadline - time.monotonic()))
        for server, job in self._jobs.items():
            if job.is_alive():
                self._cancel(server)
                job.join(wait_seconds)
        self._jobs = {}

    def _check_slots(self, executors: Sequence[Executor]) -> None:
        slots = sum(executor.slots for executor in executors)
        may_grow = allocates_dynamically(self._context)
        may_grow |= len(executors) < (expected_executors(self._context) or 1)
        if slots < len(self._specs) and not may_grow:
            raise ConfigurationError(
                f"{slots} of {len(self._specs)} servers would get a task slot: Spark has "
                f"{len(executors)} executors with {slots} slots in all, and each server holds one; "
                f"{_SLOT_SETTINGS}"
            )

    def _start_job(self, spec: LaunchSpec, location: str | None) -> threading.Thread:
        from pyspark import InheritableThread

        job = InheritableThread(
            target=self._run_job,
            args=(spec, location),
            name=f"ps-server-{spec.server_id}-job",
            daemon=True,
        )
        job.start()
        return job

    def _run_job(self, spec: LaunchSpec, location: str | None) -> None:
        description = f"parameter server {spec.server_id} of {len(self._specs)}"
        try:
            self._context.setJobGroup(self._group(spec.server_id), description, True)
            task = _located_rdd(self._context, location)
            (how,) = task.mapPartitions(functools.partial(_serve, spec)).collect()
        except Exception as error:
            how = _explain(error, self._context)
        if not self._ending.is_set():
            _logger.error("server %d ended: %s", spec.server_id, how)
        self._failures[spec.server_id] = how

    def _watch(self) -> None:
        """Cancels the jobs of lost servers: a task that Spark retried waits for nothing."""
        while not self._ending.wait(WATCH_SECONDS):
            try:
                lost = self._lost_servers()
            except PSError:
                return
            for server in lost & {s for s, job in self._jobs.items() if job.is_alive()}:
                self._cancel(server)

    def _group(self, server: int) -> str:
        return f"pyspark-ps-{self._cluster_name}-{server}"

    def _has_slot(self, server: int) -> bool:
        try:
            tracker = self._context.statusTracker()
            for job in tracker.getJobIdsForGroup(self._group(server)):
                info = tracker.getJobInfo(job)
                stages = [tracker.getStageInfo(stage) for stage in (info.stageIds if info else [])]
                if any(stage is not None and stage.numActiveTasks > 0 for stage in stages):
                    return True
        except Exception as error:  # Spark is gone: Py4J errors of several classes
            _logger.debug("no job status: %s", error)
        return False

    def _cancel(self, server: int) -> None:
        try:
            self._context.cancelJobGroup(self._group(server))
        except Exception as error:  # Spark is gone, and its jobs with it
            _logger.debug("job of server %d not cancelled: %s", server, error)


# --- in the driver


def wait_for_executors(spark_context: SparkContext) -> list[Executor]:
    """Executors that have registered, once those that are on their way have (within a bound).

    Servers that are submitted earlier all land on the first executor.
    """
    expected = expected_executors(spark_context)
    deadline = time.monotonic() + EXECUTORS_WAIT_SECONDS
    quiet_since, seen = time.monotonic(), -1
    while True:
        executors = list_executors(spark_context)
        now = time.monotonic()
        if len(executors) != seen:
            quiet_since, seen = now, len(executors)
        if expected is not None and seen >= expected:
            return executors
        quiet = now - quiet_since >= EXECUTORS_QUIET_SECONDS
        if expected is None and seen > 0 and quiet:
            return executors
        if now >= deadline:
            _logger.warning("%d executors have registered, %s were expected", seen, expected)
            return executors
        time.sleep(0.1)


def expected_executors(spark_context: SparkContext) -> int | None:
    """Executors that the application was configured to have; None = nothing says how many."""
    if is_local(spark_context):
        return 1
    conf = spark_context.getConf()
    local_cluster = re.match(r"local-cluster\[\s*(\d+)", str(spark_context.master))
    if local_cluster:
        return int(local_cluster.group(1))
    if allocates_dynamically(spark_context):
        first = conf.get("spark.dynamicAllocation.initialExecutors", None)
        return int(first or conf.get("spark.dynamicAllocation.minExecutors", "0") or 0)
    instances = conf.get("spark.executor.instances", None)
    if instances:
        return int(instances)
    cores_max = conf.get("spark.cores.max", None)
    cores_each = conf.get("spark.executor.cores", None)
    if cores_max and cores_each:
        return max(1, int(cores_max) // int(cores_each))
    return None


def list_executors(spark_context: SparkContext) -> list[Executor]:
    """Live executors with their task slots; of `local[...]`, the driver that acts as one."""
    # The public status tracker does not tell executors' ids; Spark's REST API reads this store.
    summaries = spark_context._jsc.sc().statusStore().executorList(True)
    executors = []
    for index in range(summaries.size()):
        summary = summaries.apply(index)
        if (summary.id() == "driver") == is_local(spark_context):
            host = summary.hostPort().rsplit(":", 1)[0]
            executors.append(Executor(summary.id(), host, int(summary.maxTasks())))
    return executors


def spread(executors: Sequence[Executor], server_count: int) -> list[str | None]:
    """A preferred location for each server: hosts in turn, executors of a host in turn.

    None where there is nothing to choose from.
    """
    by_host: dict[str, list[Executor]] = {}
    for executor in sorted(executors, key=lambda executor: executor.executor_id):
        by_host.setdefault(executor.host, []).append(executor)
    rounds = max((len(group) for group in by_host.values()), default=0)
    order = [
        group[turn] for turn in range(rounds) for group in by_host.values() if turn < len(group)
    ]
    taken = {executor.executor_id: 0 for executor in order}
    chosen: list[str | None] = []
    while len(chosen) < server_count:
        free = [executor for executor in order if taken[executor.executor_id] < executor.slots]
        if not free:
            return chosen + [None] * (server_count - len(chosen))
        executor = min(free, key=lambda executor: taken[executor.executor_id])
        taken[executor.executor_id] += 1
        chosen.append(executor.location)
    return chosen


def is_local(spark_context: SparkContext) -> bool:
    """Whether tasks run inside the driver's own process (`local`, `local[...]`)."""
    master = str(spark_context.master)
    return master == "local" or master.startswith("local[")


def allocates_dynamically(spark_context: SparkContext) -> bool:
    """Whether Spark starts and ends executors as jobs need them."""
    conf = spark_context.getConf()
    return str(conf.get("spark.dynamicAllocation.enabled", "false")).lower() == "true"


def _located_rdd(spark_context: SparkContext, location: str | None) -> RDD[Any]:
    """An RDD of one partition that prefers to be computed at `location`."""
    if location is None:
        return spark_context.parallelize([0], 1)
    from pyspark import RDD
    from pyspark.serializers import CPickleSerializer

    jvm: Any = spark_context._jvm
    context = spark_context._jsc
    element = jvm.scala.Tuple2(bytearray(pickle.dumps(0)), jvm.PythonUtils.toSeq([location]))
    any_class = context.emptyRDD().classTag()
    located = context.sc().makeRDD(jvm.PythonUtils.toSeq([element]), any_class)
    return RDD(located.toJavaRDD(), spark_context, CPickleSerializer())


def _explain(error: Exception, spark_context: SparkContext) -> str:
    problem = interpreter_problem(error, str(spark_context.pythonExec))
    return problem or f"its Spark job failed: {type(error).__name__}: {str(error)[:2000]}"


# --- in the executor's task


def _serve(spec: LaunchSpec, _partition: Iterable[Any]) -> Iterator[str]:
    """Runs one server until its process ends; yields how it ended."""
    from pyspark import TaskContext

    context = TaskContext.get()
    if context is not None and context.attemptNumber() > 0:
        # A second server with empty rows must not take the first one's place. The driver cancels
        # this job when the first is lost; a speculative copy must not win by finishing.
        while True:
            time.sleep(TASK_POLL_SECONDS)
    try:
        yield from _run_server(spec)
    except OSError as error:
        # As a result: an error would make Spark repeat the task, which must not happen.
        yield f"it could not be started on {socket.gethostname()}: {error}"


def _run_server(spec: LaunchSpec) -> Iterator[str]:
    folder = make_socket_folder() if spec.use_unix_socket else ""
    host = spec.options["advertised_host"] or own_address(spec.options["coordinator"])
    spec = spec.with_options(unix_dir=folder, advertised_host=host)
    try:
        process = ServerProcess(spec, _to_executor_log)
        try:
            while not process.wait(TASK_POLL_SECONDS):
                pass
            yield process.describe_end()
        finally:
            process.end()
    finally:
        remove_socket_folder(folder)


def own_address(coordinator: str) -> str:
    """This host's address as the driver's network sees it.

    `SPARK_LOCAL_IP` where it is set, else the address that packets to the coordinator leave from
    (connecting a UDP socket sends none).
    """
    configured = os.environ.get("SPARK_LOCAL_IP", "")
    if configured and configured not in ("0.0.0.0", "::"):
        return configured
    host, _, port = coordinator.rpartition(":")
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def _to_executor_log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
