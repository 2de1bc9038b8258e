"""What `pip install .` gives a user: both packages, and a native module that works anywhere.

Fast because the compiler cache already holds every object of `make build`: the copy of the tree is
built in a folder of the same relative name, by a compiler called by the same name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.packaging, pytest.mark.timeout(900)]


def run(*command: object, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree without its build products."""
    copy = tmp_path_factory.mktemp("tree")
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    # fmt: off
    run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "-C", "build-dir=build/release", "-w", out, copy,
        cwd=out, CC="cc", CXX="c++", CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count() or 1),
    )
    # fmt: on
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_both_packages_typed_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {
        "pyspark_ps/__init__.py",
        "pyspark_ps/py.typed",
        f"pyspark_ps/_core{suffix}",
        "distributed_trainer/__init__.py",
        "distributed_trainer/py.typed",
    } <= names
    assert [name for name in names if "/tests/" in name] == []
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "pyspark_ps",
        "distributed_trainer",
    }


def test_wheel_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=tmp_path)
    python = fresh / "bin/python"
    run(
        *(sys.executable, "-m", "pip", "--python", python),
        *("install", "-q", "--no-deps", "--no-index", wheel),
        cwd=tmp_path,
    )
    # The dependencies are those of the environment that runs this test, without its .pth files.
    (purelib,) = fresh.glob("lib/python*/site-packages")
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = """
import sys
from importlib.metadata import version
import distributed_trainer, pyspark_ps, pyspark_ps._core as core
print(version("pyspark-ml-ps"), pyspark_ps.__version__, core.__version__)
print(pyspark_ps.__file__, distributed_trainer.__file__, core.__file__)
print([name for name in ("tensorflow", "pyspark") if name in sys.modules])
"""
    versions, files, heavy = run(python, "-I", "-c", program, cwd=tmp_path).splitlines()
    assert len(set(versions.split())) == 1, versions
    assert all(Path(name).is_relative_to(purelib) for name in files.split()), files
    assert heavy == "[]"
