"""Whether Spark's Python workers can run this package, asked before anything is started.

Spark starts its Python workers as `python3` from the PATH unless told otherwise: who works in a
virtual environment would meet "No module named ..." from an executor, minutes later.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark_ps.errors import ConfigurationError
from pyspark_ps.utils.logging import get_logger

if TYPE_CHECKING:
    from pyspark import SparkContext

_logger = get_logger(__name__)

PROBES_MAX = 8
# Without a free task slot for so long the question stays open.
PROBE_SECONDS = 60.0
_GROUP = "pyspark-ps-interpreter-check"

_SHIP = (
    "pyspark_ps has a native module, for which --py-files is not enough: pack the environment "
    "(venv-pack or conda-pack), ship it with spark.archives=environment.tar.gz#environment and set "
    "PYSPARK_PYTHON (or spark.pyspark.python) to ./environment/bin/python, or install pyspark_ps "
    "on every host"
)


@dataclass(frozen=True)
class WorkerPython:
    """What one Python worker says of itself.

    Attributes:
        executable, prefix, python, host: `sys.executable`, `sys.prefix`, version, host name.
        package_version: of `pyspark_ps`; "" = it cannot be imported.
        problem: why the package or its native module cannot be imported; "" = it can.
    """

    executable: str
    prefix: str
    python: str
    host: str
    package_version: str
    problem: str


_checked: set[str] = set()


def check_workers(spark_context: SparkContext) -> None:
    """Runs a tiny Spark job that tries to import the package; once for each Spark application.

    Raises:
        ConfigurationError: naming the workers' interpreter, the driver's and the setting.
    """
    application = str(spark_context.applicationId)
    if application in _checked:
        return
    try:
        answers = _ask(spark_context)
    except Exception as error:
        problem = interpreter_problem(error, str(spark_context.pythonExec))
        if problem is None:
            raise
        raise ConfigurationError(problem) from error
    for answer in answers:
        problem = worker_problem(answer)
        if problem:
            raise ConfigurationError(problem)
    if answers:
        _checked.add(application)


def worker_problem(worker: WorkerPython) -> str:
    """What is wrong with a worker's Python, and what to do; "" = nothing."""
    import pyspark_ps

    where = f"Spark's Python worker on {worker.host} runs {worker.executable!r} (Python "
    where += f"{worker.python})"
    if not worker.problem:
        if worker.package_version == pyspark_ps.__version__:
            return ""
        return (
            f"{where}, which has pyspark_ps {worker.package_version}, but the driver has "
            f"{pyspark_ps.__version__}: install the same version everywhere"
        )
    same_environment = worker.prefix == sys.prefix
    if worker.package_version or same_environment:
        return f"{where}, which cannot use pyspark_ps ({worker.problem}): {_SHIP}"
    return f"{where}, which cannot use pyspark_ps ({worker.problem}): {_settings()}; {_SHIP}"


def interpreter_problem(error: Exception, worker_python: str) -> str | None:
    """What a failed Spark job says about the workers' interpreter; None = something else."""
    found = re.search(
        r"No module named [^\n]*|PYTHON_VERSION_MISMATCH|Cannot run program \"[^\n]*", str(error)
    )
    if found is None:
        return None
    return (
        f"Spark's Python workers run {worker_python!r}, which cannot run this package "
        f"({found.group(0)}): {_settings()}"
    )


def _settings() -> str:
    return (
        "set PYSPARK_PYTHON (or spark.pyspark.python), before the SparkContext is made, to an "
        f"interpreter that has pyspark_ps on every executor; the driver's is {sys.executable!r} "
        f"(Python {sys.version.split()[0]})"
    )


def _ask(spark_context: SparkContext) -> list[WorkerPython]:
    """The answers of a few workers; none when there was no free slot in time."""
    from pyspark import InheritableThread

    count = max(1, min(int(spark_context.defaultParallelism), PROBES_MAX))
    outcome: list[Any] = []

    def run() -> None:
        try:
            spark_context.setJobGroup(_GROUP, "asks the Python workers for pyspark_ps", True)
            asked = spark_context.parallelize(range(count), count).mapPartitions(_probe())
            outcome.append(asked.collect())
        except Exception as error:
            outcome.append(error)

    job = InheritableThread(target=run, name="ps-interpreter-check", daemon=True)
    job.start()
    job.join(PROBE_SECONDS)
    if job.is_alive():
        spark_context.cancelJobGroup(_GROUP)
        _logger.warning("no free task slot within %g s to ask Spark's Python", PROBE_SECONDS)
        return []
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return [WorkerPython(**answer) for answer in outcome[0]]


def _probe() -> Callable[[Iterable[Any]], Iterator[dict[str, str]]]:
    """A function that Spark ships by value: a worker without the package can run it."""

    def probe(_rows: Iterable[Any]) -> Iterator[dict[str, str]]:
        import importlib
        import socket
        import sys

        version, problem = "", ""
        try:
            version = str(importlib.import_module("pyspark_ps").__version__)
            importlib.import_module("pyspark_ps._core")
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        yield {
            "executable": sys.executable,
            "prefix": sys.prefix,
            "python": sys.version.split()[0],
            "host": socket.gethostname(),
            "package_version": version,
            "problem": problem,
        }

    return probe
