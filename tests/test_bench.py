"""The runner of the benchmarks knows only what is there, and contestants are told in turn."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers.passes import Contestant, ContestantFailed, in_turns

ROOT = Path(__file__).parents[1]
COUNTING = "from bench.peers.passes import serve; serve({'pass': lambda: print('working')})"


def test_every_benchmark_that_is_listed_has_its_program() -> None:
    listed = subprocess.run(
        [sys.executable, "bench/run", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    scripts = [found[1] for line in listed if (found := re.search(r"(bench/\S+\.py)", line))]
    programs = [found[1] for line in listed if (found := re.search(r"bench/ps_(\w+)", line))]
    assert len(scripts) + len(programs) == len(listed)
    assert [script for script in scripts if not (ROOT / script).exists()] == []
    assert [name for name in programs if not (ROOT / "bench" / f"{name}.cc").exists()] == []


def test_contestants_take_turns_and_the_first_round_is_not_counted() -> None:
    contestant = Contestant(sys.executable, "-c", COUNTING)
    turns: list[str] = []

    def ours() -> float:
        turns.append("ours")
        return 0.0

    def theirs() -> float:
        turns.append("theirs")
        return contestant.run("pass")

    seconds = in_turns({"ours": ours, "theirs": theirs}, rounds=2)
    contestant.close()
    assert turns == ["ours", "theirs"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"ours": 2, "theirs": 2}
    assert min(seconds["theirs"]) > 0


def test_a_contestant_that_cannot_start_says_why() -> None:
    with pytest.raises(ContestantFailed, match="no such peer here"):
        Contestant(sys.executable, "-c", "raise SystemExit('no such peer here')")
