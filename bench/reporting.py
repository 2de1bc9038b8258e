"""What the benchmarks in Python print: the machine, and the lines that bench/run reads."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def facts() -> str:
    """Machine, commit and how busy the machine is."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    load = os.getloadavg()[0]
    return f"{platform.machine()}, {os.cpu_count()} cores, commit {commit}, load {load:.1f}"


def bar(what: str, measured: str, floor: str = "", aim: str = "") -> None:
    """A line of the results; floor and aim are empty for a figure that is only to be seen."""
    print(f"bar: {what} | {measured} | {floor} | {aim}", flush=True)


def share(ratios: Sequence[float]) -> str:
    """The median of ratios with their range, as percentages."""
    return f"{np.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%})"


def multiple(ratios: Sequence[float]) -> str:
    """The median of ratios with their range, as multiples."""
    return f"{np.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"


def cpu_seconds() -> tuple[float, float]:
    """(of this process, of its children: the servers) so far (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    children = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            children += (int(fields[11]) + int(fields[12])) / ticks
    return time.process_time(), children
