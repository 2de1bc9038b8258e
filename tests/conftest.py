"""Fixtures of the tests with real processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests import warm_python


@pytest.fixture(scope="session")
def template() -> Iterator[warm_python.Template]:
    template = warm_python.own or warm_python.Template()
    yield template
    template.close()


@pytest.fixture(scope="module")
def warm_workers(template: warm_python.Template) -> Iterator[None]:
    """Trainers without Spark start their workers as forks of the template."""
    from distributed_trainer.pools import processes

    names = {**vars(subprocess), "Popen": warm_python.popen_of(template)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "subprocess", SimpleNamespace(**names))
        yield


@pytest.fixture(scope="module")
def warm_spark(template: warm_python.Template) -> Iterator[None]:
    """Sparks started from here on have forks of the template for Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", template.python)
        yield
