"""The folders of src/ps only reach downward, and the check that says so can fail."""

from __future__ import annotations

from pathlib import Path

import check_layers
import pytest

ROOT = Path(__file__).parents[1]


def test_no_folder_of_this_tree_reaches_upward() -> None:
    assert check_layers.violations(ROOT) == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree: store over base, testing over store."""
    folder = tmp_path / "src/ps"
    files = {
        "CMakeLists.txt": "ps_library(base DEPS)\n"
        "ps_library(store DEPS base TEST_DEPS testing THREADS)\n"
        "ps_library(testing DEPS store)\n",
        "base/a.h": "#pragma once\n#include <vector>\n",
        "store/b.h": '#include "ps/base/a.h"\n',
        "store/b_test.cc": '#include "ps/store/b.h"\n#include "ps/testing/t.h"\n',
        "testing/t.h": '#include "ps/store/b.h"\n',
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return tmp_path


def test_a_tree_that_keeps_the_rules_passes(tree: Path) -> None:
    assert check_layers.violations(tree) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("base/up.h", '#include "ps/store/b.h"', "store is not below base"),
        ("store/c.cc", '#include "ps/testing/t.h"', "testing is not below store"),
        ("store/c.cc", '#include "b.h"', "rooted at src/"),
        ("store/c.cc", '#include "ps/base/gone.h"', "no such file"),
        ("base/c.cc", "#include <asio.hpp>", "knows no sockets"),
        ("store/c.cc", "#include <nanobind/nanobind.h>", "only bindings/ knows Python"),
        ("base/a_test.cc", '#include "ps/testing/t.h"', "testing is not below base"),
        ("other/c.cc", "", "no ps_library(other)"),
    ],
)
def test_a_broken_rule_is_named(tree: Path, name: str, text: str, complaint: str) -> None:
    path = tree / "src/ps" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    (found,) = check_layers.violations(tree)
    assert complaint in found


def test_an_upward_include_behind_an_allowed_one_is_named(tree: Path) -> None:
    (tree / "src/ps/base/a.h").write_text('#include "ps/testing/t.h"\n')
    found = check_layers.violations(tree)
    assert any("src/ps/store/b.h" in line and "ps/testing/t.h" in line for line in found)


def test_folders_that_depend_on_each_other_are_named(tree: Path) -> None:
    law = tree / "src/ps/CMakeLists.txt"
    law.write_text(law.read_text().replace("base DEPS)", "base DEPS store)"))
    assert any("depend on each other" in line for line in check_layers.violations(tree))
