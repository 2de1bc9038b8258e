"""Servers on Spark's executors, tried out on two executors with two slots each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyspark_ps import ConfigurationError, PSConfig, PSMainClient, PSWorkerClient
from pyspark_ps.placement import interpreter
from pyspark_ps.placement.executors import list_executors
from tests.processes import is_running, pids_of, wait_until

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(300)]

SLOTS = 4


@pytest.fixture(scope="module")
def spark_context() -> Iterator[Any]:
    from pyspark import SparkConf, SparkContext

    conf = SparkConf().set("spark.ui.enabled", "false")
    conf.set("spark.ui.showConsoleProgress", "false")
    context = SparkContext("local-cluster[2,2,1024]", "test_spark_placement", conf=conf)
    yield context
    context.stop()


def config(**fields: object) -> PSConfig:
    values = {"num_servers": 2, "embedding_dim": 4, "num_worker_threads": 1, "timeout_seconds": 40}
    return PSConfig(**{**values, **fields})


def parents(pid: int) -> list[int]:
    """The process's ancestors, nearest first. A server's are: task, Python daemon, executor, ..."""
    found = []
    while pid > 1:
        try:
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rsplit(")", 1)[1].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


def active_tasks(context: Any) -> int:
    tracker = context.statusTracker()
    stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    return sum(stage.numActiveTasks for stage in stages if stage is not None)


def train_partition(
    numbers: Iterator[int], servers: list[dict[str, Any]], plain: dict[str, Any]
) -> Iterator[int]:
    with PSWorkerClient(servers, PSConfig.from_dict(plain)) as worker:
        ids = [int(number) for number in numbers]
        worker.pull_embeddings(ids)
        worker.push_gradients({"w": np.ones(2)}, (ids, np.ones((len(ids), 4))))
    yield len(ids)


def test_servers_run_on_different_executors_beside_workers_and_free_their_slots(
    spark_context: Any, tmp_path: Path
) -> None:
    settings = config(
        optimizer_configs={"sgd": {"learning_rate": 1.0, "momentum": 0}},
        weight_optimizer="sgd",
        embedding_optimizer="sgd",
        embedding_init="zeros",
        tls="on",
        transport="tcp",
    )
    with PSMainClient(spark_context, settings) as main:
        assert main.executor_slots_needed() == 2
        pids = pids_of(main)
        daemons = [parents(pid)[1] for pid in pids]
        assert daemons[0] != daemons[1]
        # The status tracker hears of a started task a moment after the task itself has begun.
        assert wait_until(lambda: active_tasks(spark_context) == 2)

        main.init_weights({"w": (2,)}, "zeros")
        servers = [info.to_dict() for info in main.get_server_info()]
        plain = settings.to_dict()
        trained = (
            spark_context.parallelize(range(100), 2)
            .mapPartitions(lambda numbers: train_partition(numbers, servers, plain))
            .sum()
        )
        assert trained == 100
        worker = main.worker_client()
        np.testing.assert_array_equal(worker.pull_embeddings(range(100)), -np.ones((100, 4)))
        np.testing.assert_array_equal(worker.pull_model()["w"], [-2.0, -2.0])
        stats = main.get_cluster_stats()
        assert all(server["embeddings"] > 20 for server in stats["servers"])
        shown = json.dumps(spark_context.getConf().getAll())
        # The servers, their tasks and the daemons of these.
        for process in {*pids, *(parent for pid in pids for parent in parents(pid)[:2])}:
            for name in ("cmdline", "environ"):
                shown += Path(f"/proc/{process}/{name}").read_text(errors="replace")
        assert servers[0]["metadata"]["secret"].reveal() not in shown
        assert "PRIVATE KEY" not in shown
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))
    assert wait_until(lambda: active_tasks(spark_context) == 0)
    # Every slot is free again: as many tasks as there are slots run at the same time.
    seen = str(tmp_path / "seen")

    def wait_until_seen(_: int) -> None:
        while not os.path.exists(seen):
            time.sleep(0.05)

    waiting = spark_context.parallelize(range(SLOTS), SLOTS).map(wait_until_seen)
    job = threading.Thread(target=waiting.count)
    job.start()
    try:
        assert wait_until(lambda: active_tasks(spark_context) == SLOTS, 60)
    finally:
        Path(seen).touch()
        job.join()


def test_spark_tasks_meet_at_a_barrier_while_the_driver_works(spark_context: Any) -> None:
    settings = config(num_servers=1)
    with PSMainClient(spark_context, settings) as main:
        servers = [info.to_dict() for info in main.get_server_info()]
        plain = settings.to_dict()
        main.create_barrier("epoch", 2)

        def run(number: int, _rows: Iterator[int]) -> Iterator[int]:
            with PSWorkerClient(servers, PSConfig.from_dict(plain), f"task-{number}") as worker:
                for step in range(2):
                    worker.pull_embeddings([1000 * step + number])
                    worker.enter_barrier("epoch")
                yield worker.get_embedding_count()

        counts: list[int] = []
        tasks = spark_context.parallelize(range(2), 2).mapPartitionsWithIndex(run)
        job = threading.Thread(target=lambda: counts.extend(tasks.collect()))
        job.start()
        for step in range(2):
            assert main.wait_barrier("epoch", 60)
            assert main.get_cluster_stats()["total_embeddings"] == 2 * (step + 1)
            main.release_barrier("epoch")
        job.join()
        assert counts == [4, 4]


def test_too_few_slots_fail_the_start_at_once_and_say_what_to_change(spark_context: Any) -> None:
    assert sum(executor.slots for executor in list_executors(spark_context)) == SLOTS
    main = PSMainClient(spark_context, config(num_servers=SLOTS + 1))
    started = time.monotonic()
    with pytest.raises(ConfigurationError, match=r"4 of 5 servers .*spark\.executor\.instances"):
        main.start_servers()
    assert time.monotonic() - started < 10
    assert wait_until(lambda: active_tasks(spark_context) == 0)


def test_a_server_that_dies_is_lost_and_its_slot_free(spark_context: Any) -> None:
    main = PSMainClient(spark_context, config())
    main.start_servers()
    try:
        os.kill(pids_of(main)[0], signal.SIGKILL)
        assert wait_until(lambda: main.get_server_info()[0].status == "lost")
        assert main.get_server_info()[1].status == "running"
        assert wait_until(lambda: active_tasks(spark_context) == 1)
    finally:
        main.shutdown_servers(grace_period_seconds=1)
    assert wait_until(lambda: active_tasks(spark_context) == 0)


def test_a_spark_session_does_as_well_as_a_context(spark_context: Any) -> None:
    from pyspark.sql import SparkSession

    session = SparkSession(spark_context)
    with PSMainClient(session, config(num_servers=1, placement="local")) as main:
        assert main.executor_slots_needed() == 0
        assert os.getpid() in parents(pids_of(main)[0])


def test_workers_that_run_a_bare_interpreter_are_noticed_at_once(
    spark_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An environment of its own, without anything in it.
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = str(bare / "bin" / "python")
    # Nor what the executors find where the tests' own path is in their environment.
    (packages,) = bare.glob("lib/python*/site-packages")
    root = str(Path(__file__).parents[1])
    forget = f"import sys\nsys.path[:] = [path for path in sys.path if path != {root!r}]\n"
    (packages / "sitecustomize.py").write_text(forget)
    monkeypatch.setattr(spark_context, "pythonExec", python)
    monkeypatch.setattr(interpreter, "_checked", set())  # as at the start of an application
    with pytest.raises(ConfigurationError) as refused:
        PSMainClient(spark_context, config(num_servers=1)).start_servers()
    for word in (python, sys.executable, "PYSPARK_PYTHON"):
        assert word in str(refused.value)
    assert wait_until(lambda: active_tasks(spark_context) == 0)


DRIVER = """
import json, time
from pyspark import SparkConf, SparkContext
from pyspark_ps import PSConfig, PSMainClient
conf = SparkConf().set("spark.ui.enabled", "false")
context = SparkContext("local-cluster[1,1,1024]", "killed", conf=conf)
main = PSMainClient(context, PSConfig(num_servers=1))
info = main.start_servers()[0]
pid = main._running.cluster.servers()[0]["pid"]
print(json.dumps([pid, info.metadata["unix_socket"]]), flush=True)
time.sleep(600)
"""


def test_servers_on_executors_end_with_a_driver_that_is_killed() -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    with driver.stdout:
        pid, path = json.loads(driver.stdout.readline())
    assert is_running(pid)
    assert os.path.exists(path)
    driver.kill()
    driver.wait()
    assert wait_until(lambda: not is_running(pid))
    assert wait_until(lambda: not os.path.exists(os.path.dirname(path)), 3)
