"""Workers as child processes of the driver: what a trainer without Spark uses."""

from __future__ import annotations

import collections
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import cast

from distributed_trainer.errors import TrainingError
from distributed_trainer.pools.base import (
    PickledSpec,
    TaskOutcome,
    WorkerFailure,
    WorkerSpec,
    run_in_this_process,
)
from distributed_trainer.task import WorkerTask

STOP_SECONDS = 10.0
LAST_WORDS_LINES = 40


class ProcessPool:
    """One process per worker, started with the first tasks and kept until `close`.

    Each is a fresh interpreter: nothing of the driver's threads or TensorFlow is inherited, and the
    driver's main module is not run again.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec.pickled()
        self._workers: dict[int, _Child] = {}

    def run(self, tasks: Sequence[WorkerTask]) -> list[TaskOutcome]:
        """See `WorkerPool.run`. After any error the next call starts with new processes, so that no
        answer of this call is taken for one of the next."""
        try:
            return self._run(tasks)
        except BaseException:
            self._drop()
            raise

    def _run(self, tasks: Sequence[WorkerTask]) -> list[TaskOutcome]:
        for task in tasks:
            if task.worker_id not in self._workers:
                self._workers[task.worker_id] = _Child(task.worker_id, self._spec)
        waiting = {}
        for task in tasks:
            child = self._workers[task.worker_id]
            child.send(task)
            waiting[child.pipe] = child
        outcomes: dict[int, TaskOutcome] = {}
        while waiting:
            for pipe in wait(list(waiting)):
                outcome = waiting.pop(cast(Connection, pipe)).receive()
                outcomes[outcome.worker_id] = outcome
        return [outcomes[task.worker_id] for task in tasks]

    def _drop(self) -> None:
        """Ends the processes in the middle of their work: nobody will ask for its result."""
        for worker in self._workers.values():
            worker.kill()
        self._workers.clear()

    def cancel(self) -> None:
        """See `WorkerPool.cancel`."""
        for worker in list(self._workers.values()):
            worker.interrupt()

    def close(self) -> None:
        """See `WorkerPool.close`."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()


class _Child:
    def __init__(self, worker_id: int, spec: PickledSpec) -> None:
        self._worker_id = worker_id
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "distributed_trainer.pools.processes", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                },
            )
        self.pipe = Connection(ours.detach())
        self._last_lines: collections.deque[bytes] = collections.deque(maxlen=LAST_WORDS_LINES)
        self._relay = threading.Thread(target=self._relay_lines, daemon=True)
        self._relay.start()
        self.pipe.send(spec)

    def _relay_lines(self) -> None:
        """The child's standard error goes on to ours; its last lines are kept."""
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._last_lines.append(line)
                sys.stderr.write(line.decode(errors="replace"))

    def send(self, task: WorkerTask) -> None:
        try:
            self.pipe.send(task)
        except OSError as error:
            raise self._died() from error

    def receive(self) -> TaskOutcome:
        try:
            outcome: TaskOutcome = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        return outcome

    def _died(self) -> TrainingError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._relay.join(STOP_SECONDS)
        words = b"  ".join(self._last_lines).decode(errors="replace")
        return TrainingError(
            f"worker {self._worker_id} (process {self._process.pid}) ended unexpectedly with exit "
            f"code {self._process.poll()}; "
            + (f"its last lines:\n  {words}" if words else "it wrote nothing")
        )

    def interrupt(self) -> None:
        """Ends the process in the middle of its work; who waits for its result sees that."""
        self._process.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.pipe.close()

    def close(self) -> None:
        self.pipe.close()  # the child sees the end and goes
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _serve(pipe: Connection) -> None:
    """The child's life: a specification, then tasks, until the driver closes its end or dies."""
    spec: PickledSpec = pipe.recv()
    while True:
        try:
            task: WorkerTask = pipe.recv()
        except (EOFError, OSError):  # the driver has closed its end, or is gone
            return
        try:
            outcome = run_in_this_process(spec, task)
        except WorkerFailure as failure:
            cause = failure.__cause__
            assert isinstance(cause, Exception)
            outcome = TaskOutcome.failed(task, cause, f"process {os.getpid()}")
        pipe.send(outcome)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
