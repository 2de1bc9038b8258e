"""Counts the tests whose results lie in a folder, and prints the closing lines of `make test`.

Usage: count_tests.py RESULTS. There: <preset>/*.json by GoogleTest, fuzz.xml by ctest, pytest.xml
by pytest, and an empty <stage>.failed for a stage that failed. A failed stage without a failed test
(a crash, a build that broke) counts as one failure. Exits 1 when nothing ran, or anything failed.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple


class Count(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: object) -> Count:
        if not isinstance(other, Count):
            return NotImplemented
        return Count(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        tail = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{tail}"


def count_gtest(path: Path) -> Count:
    """One program's JSON report. A case counts by what it did; disabled ones do not count."""
    total = Count()
    for suite in json.loads(path.read_text())["testsuites"]:
        for case in suite["testsuite"]:
            if case.get("failures"):
                total += Count(failed=1)
            elif case["result"] == "SKIPPED":
                total += Count(skipped=1)
            elif case["status"] == "RUN":
                total += Count(passed=1)
    return total


def count_junit(path: Path) -> Count:
    """A JUnit report: of pytest a case is a test, of ctest a program."""
    total = Count()
    for suite in ET.parse(path).getroot().iter("testsuite"):
        ran, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        total += Count(ran - skipped - failed, failed, skipped)
    return total


def main(results: Path) -> int:
    stages = {
        preset: sum((count_gtest(p) for p in sorted((results / preset).glob("*.json"))), Count())
        for preset in ("release", "asan", "tsan")
        if (results / preset).is_dir() or (results / f"{preset}.failed").exists()
    }
    for stage in ("fuzz", "pytest"):
        if (results / f"{stage}.xml").exists():
            stages[stage] = count_junit(results / f"{stage}.xml")
    for stage in results.glob("*.failed"):
        if stages.setdefault(stage.stem, Count()).failed == 0:
            stages[stage.stem] += Count(failed=1)

    print()
    for name, count in stages.items():
        print(f"{name if name == 'pytest' else f'C++ {name}'}: {count}")
    total = sum(stages.values(), Count())
    print(total)
    return int(total.failed > 0 or total.passed == 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
