"""Fixtures of the tests with real processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.warm_workers import Template, popen_of


@pytest.fixture(scope="session")
def worker_template() -> Iterator[Template]:
    template = Template()
    yield template
    template.close()


@pytest.fixture(scope="module")
def warm_workers(worker_template: Template) -> Iterator[None]:
    """Trainers without Spark start their workers as forks of a template (tests/warm_workers.py)."""
    from distributed_trainer.pools import processes

    names = {**vars(subprocess), "Popen": popen_of(worker_template)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "subprocess", SimpleNamespace(**names))
        yield
