"""The runner of the benchmarks knows only what is there, and contestants are told in turn."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import curves
from bench.peers import environments
from bench.peers.passes import Contestant, ContestantFailed, in_turns

ROOT = Path(__file__).parents[1]
COUNTING = """
from bench.peers.passes import serve
serve({"pass": lambda: print("working"), "telling": lambda: {"cpu": [1.5, 0.0]}})
"""


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


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bench/run as a module, whose results go into a file of the test's own."""
    loader = importlib.machinery.SourceFileLoader("bench_run", str(ROOT / "bench" / "run"))
    spec = importlib.util.spec_from_loader("bench_run", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_run", module)
    loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "RESULTS.md")
    return module


def test_a_section_is_replaced_where_it_was_and_a_new_one_has_its_place(
    runner: ModuleType,
) -> None:
    runner.RESULTS.write_text("# Results\n")
    runner.write({"wire": "first\n", "quality": "last\n"})
    runner.write({"client": "between\n", "wire": "first again\n", "store": "before\n"})
    found = runner.RESULTS.read_text()
    words = ["first again", "between", "last"]
    assert [found.count(word) for word in words] == [1, 1, 1]
    assert sorted(words, key=found.index) == words
    assert "first\n" not in found


def test_all_benchmarks_together_keep_to_their_time(runner: ModuleType) -> None:
    assert sum(one.minutes_max for one in runner.BENCHMARKS) <= 90


def test_time_in_line_is_counted() -> None:
    if not curves.LOAD.exists():
        pytest.skip(f"{curves.LOAD} is not built (tools/build release does)")
    with curves.cluster_of(curves.Point(rows=20_000, batch=256, threads=1)) as load:
        closed = load.run("pull", 0.3)
        beyond = load.run("pull", 0.3, rate=20 * closed["requests_per_second"])
    assert beyond["p50_us"] > 10 * closed["p50_us"]


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


def test_a_contestant_tells_what_its_last_run_returned() -> None:
    contestant = Contestant(sys.executable, "-c", COUNTING)
    contestant.run("telling")
    told = contestant.told
    contestant.run("pass")
    contestant.close()
    assert (told, contestant.told) == ({"cpu": [1.5, 0.0]}, {})


def test_a_contestant_that_cannot_start_says_why() -> None:
    with pytest.raises(ContestantFailed, match="no such peer here"):
        Contestant(sys.executable, "-c", "raise SystemExit('no such peer here')")


def test_a_peer_that_cannot_be_installed_is_missing_and_says_why() -> None:
    with pytest.raises(environments.PeerMissing, match=r"No matching distribution.*gone==1\.0"):
        environments.run(sys.executable, "-m", "pip", "install", "--no-index", "gone==1.0")
