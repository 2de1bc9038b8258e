"""The closing count of `make test` cannot call a failed or empty run a success."""

from __future__ import annotations

import json
from pathlib import Path

import count_tests
import pytest

PASSED = {"status": "RUN", "result": "COMPLETED"}
FAILED = PASSED | {"failures": [{"failure": "1 != 2"}]}
SKIPPED = {"status": "RUN", "result": "SKIPPED"}
DISABLED = {"status": "NOTRUN", "result": "SUPPRESSED"}


def write_gtest(results: Path, preset: str, cases: list[dict[str, object]]) -> None:
    (results / preset).mkdir()
    report = {"testsuites": [{"testsuite": cases}]}
    (results / preset / "ps_base_test.json").write_text(json.dumps(report))


def write_junit(
    results: Path, stage: str, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0
) -> None:
    (results / f"{stage}.xml").write_text(
        f'<testsuites><testsuite tests="{tests}" failures="{failures}" errors="{errors}" '
        f'skipped="{skipped}"/></testsuites>'
    )


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_cases_of_all_stages_are_summed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gtest(tmp_path, "release", [PASSED, PASSED, DISABLED])
    write_gtest(tmp_path, "asan", [PASSED, SKIPPED])
    write_junit(tmp_path, "fuzz", tests=3)
    write_junit(tmp_path, "pytest", tests=5, skipped=1)
    assert count_tests.main(tmp_path) == 0
    assert last_line(capsys) == "10 passed, 0 failed, 2 skipped"


def test_a_failed_fuzz_target_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_junit(tmp_path, "fuzz", tests=3, failures=1)
    assert count_tests.main(tmp_path) == 1
    assert last_line(capsys) == "2 passed, 1 failed"


def test_a_failed_case_fails_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gtest(tmp_path, "release", [PASSED, FAILED])
    assert count_tests.main(tmp_path) == 1
    assert last_line(capsys) == "1 passed, 1 failed"


def test_a_stage_that_died_without_a_report_is_one_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gtest(tmp_path, "release", [PASSED])
    (tmp_path / "tsan.failed").touch()
    assert count_tests.main(tmp_path) == 1
    assert last_line(capsys) == "1 passed, 1 failed"


def test_a_run_without_tests_is_no_success(tmp_path: Path) -> None:
    assert count_tests.main(tmp_path) == 1
