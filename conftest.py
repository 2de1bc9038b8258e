"""The environment that the tests need, whichever way pytest was started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
