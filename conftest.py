"""The environment that the tests need, whichever way pytest was started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import java_archive
from tests.warm_python import OF_ITS_OWN, Template

# Spark's Python workers are this interpreter, and not whatever python3 is on the path.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def find_java() -> None:
    """Sets JAVA_HOME to a Java that Spark can use; tools/env knows where they are."""
    root = Path(__file__).parent
    found = subprocess.run(
        ["bash", "-c", '. tools/env && echo "${JAVA_HOME:-}"'],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if found:
        os.environ["JAVA_HOME"] = found


find_java()
# A test's Java lives for seconds: the quick compiler, one collector thread and bytecode that is not
# verified, being Spark's own, take less than half of its processor time.
JAVA_OPTIONS = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC "
    "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
os.environ.setdefault("JAVA_TOOL_OPTIONS", JAVA_OPTIONS + java_archive.options())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Spark come first, then other slow ones: no long file is left for the end."""
    ranks: dict[Path, int] = {}
    for item in items:
        rank = (
            0 if item.get_closest_marker("spark") else 1 if item.get_closest_marker("slow") else 2
        )
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """The processes of pytest-xdist are forks of one that has imported TensorFlow.

    Their Sparks load classes from an archive.
    """
    if all(argument.startswith("pyspark_ps") for argument in config.args):
        return
    template = Template()
    config.add_cleanup(template.close)
    for spec in specs:
        spec.python = f"env {OF_ITS_OWN}=1 {template.python}"
    if os.environ["JAVA_TOOL_OPTIONS"] == JAVA_OPTIONS:  # there is no archive yet
        java_archive.make(JAVA_OPTIONS)  # while the template imports
        os.environ["JAVA_TOOL_OPTIONS"] += java_archive.options()
