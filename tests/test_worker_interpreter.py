"""The interpreter of Spark's Python workers is checked before servers are started."""

from __future__ import annotations

import sys
from typing import Any

import pyspark_ps
from pyspark_ps.placement.interpreter import (
    WorkerPython,
    interpreter_problem,
    worker_problem,
)


def worker(**fields: Any) -> WorkerPython:
    values = {
        "executable": "/usr/bin/python3",
        "prefix": "/usr",
        "python": "3.11.2",
        "host": "node7",
        "package_version": "",
        "problem": "ModuleNotFoundError: No module named 'pyspark_ps'",
    }
    return WorkerPython(**{**values, **fields})


def test_a_worker_that_has_everything_is_no_problem() -> None:
    assert worker_problem(worker(package_version=pyspark_ps.__version__, problem="")) == ""


def test_another_interpreter_is_named_with_the_drivers_and_the_setting() -> None:
    said = worker_problem(worker())
    for word in ("node7", "/usr/bin/python3", "3.11.2", sys.executable, "PYSPARK_PYTHON"):
        assert word in said
    assert "spark.pyspark.python" in said


def test_an_executor_without_the_package_is_told_how_to_ship_it() -> None:
    same = worker(executable=sys.executable, prefix=sys.prefix)
    py_files = worker(package_version="0.1.0", problem="ImportError: no _core")
    for said in (worker_problem(same), worker_problem(py_files)):
        for word in ("--py-files is not enough", "venv-pack", "spark.archives"):
            assert word in said
        assert "the driver's is" not in said


def test_another_version_is_named() -> None:
    said = worker_problem(worker(package_version="0.0.1", problem=""))
    assert "0.0.1" in said
    assert pyspark_ps.__version__ in said


def test_what_spark_itself_says_of_an_interpreter_is_understood() -> None:
    for text in (
        "...\nModuleNotFoundError: No module named 'pyspark_ps'\n...",
        "[PYTHON_VERSION_MISMATCH] Python in worker has different version",
        'java.io.IOException: Cannot run program "nowhere/python": error=2',
    ):
        said = interpreter_problem(RuntimeError(text), "python3")
        assert said is not None
        assert "'python3'" in said
        assert sys.executable in said
    assert interpreter_problem(RuntimeError("out of memory"), "python3") is None
