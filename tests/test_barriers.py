"""Barriers between a driver and workers that are processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyspark_ps import (
    ClosedError,
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    PSConfig,
    PSConnectionError,
    PSMainClient,
    PSTimeoutError,
    PSWorkerClient,
)
from pyspark_ps.client import BarrierCoordinator

CONFIG = PSConfig(
    num_servers=1,
    server_port_base=0,
    embedding_dim=4,
    num_worker_threads=1,
    timeout_seconds=60.0,
)

# Enters the barrier named first as the member named second, and tells how that ended.
WORKER = """
import json, sys
from pyspark_ps import PSConfig, PSWorkerClient
plain = json.loads(sys.stdin.readline())
name, member = sys.argv[1:]
with PSWorkerClient(plain["servers"], PSConfig.from_dict(plain["config"]), member) as worker:
    worker.pull_embeddings([1])
    print("entering", flush=True)
    try:
        worker.enter_barrier(name)
        print("released", flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.fixture(scope="module")
def main() -> Iterator[PSMainClient]:
    with PSMainClient(None, CONFIG) as cluster:
        yield cluster


@contextmanager
def workers(
    main: PSMainClient, barrier: str, members: list[str]
) -> Iterator[list[subprocess.Popen[str]]]:
    """One process for each member, on its way into the barrier."""
    plain = {
        "servers": [info.to_dict() for info in main.get_server_info()],
        "config": CONFIG.to_dict(),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, barrier, member],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for member in members
    ]
    try:
        for process in started:
            assert process.stdin is not None
            process.stdin.write(json.dumps(plain) + "\n")
            process.stdin.flush()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that runs `call`, and the list that gets its result or its error."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_workers_wait_for_the_driver_round_after_round(main: PSMainClient) -> None:
    main.create_barrier("rounds", num_workers=2)
    for _ in range(2):
        with workers(main, "rounds", ["a", "b"]) as both:
            assert main.wait_barrier("rounds", 60)
            assert [said(process) for process in both] == ["entering", "entering"]
            main.decay_embeddings("multiply", 0.5)  # both are paused
            assert not any(process.poll() is not None for process in both)
            main.release_barrier("rounds")
            assert [said(process) for process in both] == ["released", "released"]


def test_a_member_that_is_killed_frees_the_others_and_the_driver(main: PSMainClient) -> None:
    main.create_barrier("killed", 3)
    with workers(main, "killed", ["a", "b"]) as both:
        assert [said(process) for process in both] == ["entering", "entering"]
        waiting, told = in_thread(lambda: main.wait_barrier("killed", 60))
        # Both are inside when a third and a fourth find room for one of them only.
        with PSWorkerClient(main.get_server_info(), CONFIG, "c") as third:
            entering, outcome = in_thread(lambda: third.enter_barrier("killed"))
            waiting.join(60)
            assert told == [True]
            with (
                PSWorkerClient(main.get_server_info(), CONFIG, "d") as fourth,
                pytest.raises(InvalidArgumentError, match="'d' is one too many"),
            ):
                fourth.enter_barrier("killed")
            killed_at = time.monotonic()
            both[0].send_signal(signal.SIGKILL)
            entering.join(30)
            assert time.monotonic() - killed_at < 10
            assert isinstance(outcome[0], PSConnectionError)
            assert "member 'a' died" in str(outcome[0])
            assert said(both[1]).startswith("PSConnectionError")
            with pytest.raises(PSConnectionError, match="member 'a' died"):
                main.wait_barrier("killed", 60)
            # The name stands for the next round.
            entering, outcome = in_thread(lambda: third.enter_barrier("killed"))
            while not main.wait_barrier("killed", 0):
                main.release_barrier("killed")
                if outcome:
                    break
            assert outcome == [None]


def test_entering_again_counts_once_and_a_time_out_leaves(main: PSMainClient) -> None:
    main.create_barrier("again", 2)
    infos = main.get_server_info()
    with PSWorkerClient(infos, CONFIG, "a") as one, PSWorkerClient(infos, CONFIG, "a") as retried:
        first, first_outcome = in_thread(lambda: one.enter_barrier("again"))
        second, second_outcome = in_thread(lambda: retried.enter_barrier("again"))
        assert not main.wait_barrier("again", 0.5)
        with PSWorkerClient(infos, CONFIG, "b") as other:
            with pytest.raises(PSTimeoutError, match=r"2 of 2.*has left"):
                other.enter_barrier("again", timeout_seconds=0.2)
            assert not main.wait_barrier("again", 0)
        main.release_barrier("again")
        first.join(30)
        second.join(30)
        assert (first_outcome, second_outcome) == ([None], [None])


def test_wrong_names_and_numbers_are_refused(main: PSMainClient) -> None:
    with BarrierCoordinator(main.get_server_info(), CONFIG) as barriers:
        barriers.create("known", 2)
        barriers.create("known", 2)  # the same again: nothing
        with pytest.raises(InvalidArgumentError, match="exists for 2"):
            main.create_barrier("known", 3)
        for call in (barriers.wait, barriers.release, main.worker_client().enter_barrier):
            with pytest.raises(NotFoundError, match="'unknown' does not exist"):
                call("unknown")
            with pytest.raises(InvalidArgumentError, match="name"):
                call("")
        for number in (0, -1, 2.5, True, "2"):
            with pytest.raises(InvalidArgumentError, match="num_workers"):
                barriers.create("x", number)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="timeout_seconds"):
            barriers.wait("known", float("nan"))
        with pytest.raises(InvalidArgumentError, match="timeout_seconds"):
            main.worker_client().enter_barrier("known", 0)
    with pytest.raises(ConfigurationError, match="timeout_seconds"):
        BarrierCoordinator(main.get_server_info(), {**CONFIG.to_dict(), "timeout_seconds": -1})


def test_closing_a_client_and_ending_the_cluster_end_the_waits() -> None:
    with PSMainClient(None, CONFIG) as main:
        main.create_barrier("b", 2)
        worker = PSWorkerClient(main.get_server_info(), CONFIG, "a")
        entering, outcome = in_thread(lambda: worker.enter_barrier("b"))
        assert not main.wait_barrier("b", 0.2)
        worker.close()
        entering.join(20)
        assert isinstance(outcome[0], ClosedError)
        waiting, told = in_thread(lambda: main.wait_barrier("b"))
        other = PSWorkerClient(main.get_server_info(), CONFIG, "b")
        entering, outcome = in_thread(lambda: other.enter_barrier("b"))
        time.sleep(0.2)
        began = time.monotonic()
        main.shutdown_servers()
        waiting.join(20)
        entering.join(20)
        assert time.monotonic() - began < 20
        assert isinstance(told[0], (ClosedError, PSConnectionError))
        assert isinstance(outcome[0], PSConnectionError)
