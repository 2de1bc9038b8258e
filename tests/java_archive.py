"""Spark's classes as Java's class data sharing keeps them: a Java starts with 3 s of CPU less.

The archive is made once per checkout, for this Java and this PySpark, by a Spark that runs one job;
that costs 16 s of CPU, and two dozens of Java processes start in a run of all tests. A Java whose
class path is another one goes without.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

BUILD = Path(__file__).parents[1] / "build"
# Where classes are missing or an archive does not fit, Java is to say nothing and go on.
QUIET = "-Xlog:disable -Xlog:all=error:stderr"

ONE_JOB = """
from pyspark import SparkContext
from pyspark.sql import SparkSession
session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
numbers = session.sparkContext.parallelize(range(4), 2)
assert numbers.mapPartitions(lambda part: [sum(part)]).collect() == [1, 5]
session.stop()
java = SparkContext._gateway.proc
SparkContext._gateway.shutdown()
java.stdin.close()  # it ends with its standard input, and writes the archive
java.wait()
"""


def archive_path() -> Path:
    """Where the archive for this Java and this PySpark is, or would be."""
    java = Path(os.environ.get("JAVA_HOME", "/nowhere"), "release")
    release = java.read_bytes() if java.exists() else b""
    key = hashlib.sha256(release + version("pyspark").encode()).hexdigest()[:16]
    return BUILD / f"spark-classes-{key}.jsa"


def options() -> str:
    """What a Java is told that uses the archive; nothing while there is none."""
    path = archive_path()
    return f" {QUIET} -Xshare:auto -XX:SharedArchiveFile={path}" if path.exists() else ""


def make(java_options: str) -> None:
    """Makes the archive with a Java of these options; where that fails, there is none."""
    path = archive_path()
    half = path.with_name(f"{path.name}.{os.getpid()}")
    told = f"{java_options} {QUIET} -XX:ArchiveClassesAtExit={half}"
    BUILD.mkdir(exist_ok=True)
    with contextlib.suppress(subprocess.SubprocessError, FileNotFoundError):
        subprocess.run(
            [sys.executable, "-c", ONE_JOB],
            env={**os.environ, "JAVA_TOOL_OPTIONS": told},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=300,
        )
        half.rename(path)  # whole, though two test runs make it at once
    half.unlink(missing_ok=True)
