"""The places that name Python packages agree with each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return loaded


def read(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_requirements_txt_is_the_list_of_pyproject(project: dict[str, Any]) -> None:
    listed = [str(Requirement(line)) for line in project["dependencies"]]
    assert [str(line) for line in read("requirements.txt")] == listed


def test_the_promised_extras_exist(project: dict[str, Any]) -> None:
    assert project["optional-dependencies"].keys() == {"s3", "compression", "dev", "all", "demo"}


def test_the_pinned_versions_satisfy_what_the_package_asks_for(project: dict[str, Any]) -> None:
    pins = {canonicalize_name(pin.name): pin.specifier for pin in read("requirements-dev.lock")}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for line in wanted:
        asked = Requirement(line)
        name = canonicalize_name(asked.name)
        assert name in pins, f"{name} is not pinned"
        (pin,) = pins[name]
        assert pin.operator == "=="
        assert asked.specifier.contains(pin.version), f"{line} against {pin}"
