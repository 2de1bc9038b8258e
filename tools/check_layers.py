"""Proves from the #include lines that no folder of src/ps reaches upward.

The law is src/ps/CMakeLists.txt: `ps_library(<folder> DEPS <folders>)`. A file may include its own
folder and what its folder reaches through DEPS; a *_test.cc or *_test.h may include what TEST_DEPS
reaches besides. Of the rest only bench/ may include `testing`.
Usage: check_layers.py [ROOT]. Prints one line per violation; exits 1 when there is one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

LIBRARY = re.compile(r"^\s*ps_library\(\s*(\w+)([^)]*)\)", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)
GENERATED = {"ps/base/version.h"}
# A folder that does not stand on `net` knows bytes only; no folder knows Python.
SOCKETS = re.compile(r"^(asio\b|sys/socket\.h|netinet/|sys/un\.h|openssl/ssl\.h)")
PYTHON = re.compile(r"^(Python\.h|nanobind/)")


def read_law(cmake: Path) -> dict[str, set[str]]:
    """Folder -> the folders that it names itself; "<folder>_test" -> those that its tests name."""
    law: dict[str, set[str]] = {}
    for folder, rest in LIBRARY.findall(cmake.read_text()):
        deps, _, test_deps = re.sub(r"THREADS|SIMD", "", rest).partition("TEST_DEPS")
        law[folder] = set(deps.split()) - {"DEPS"}
        law[f"{folder}_test"] = {folder, *test_deps.split()}
    unknown = set().union(*law.values()) - law.keys() if law else set()
    if not law or unknown:
        raise SystemExit(f"{cmake}: no ps_library lines, or DEPS unknown: {sorted(unknown)}")
    return law


def reach(law: dict[str, set[str]], folder: str) -> set[str]:
    """The folder and all that it may include, downwards through DEPS."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            waiting.extend(law[at])
    return seen


def cycles(law: dict[str, set[str]]) -> Iterator[str]:
    for folder, deps in sorted(law.items()):
        for dep in sorted(deps):
            if folder in reach(law, dep):
                yield f"src/ps/CMakeLists.txt: {folder} and {dep} depend on each other"


def includes(path: Path) -> list[tuple[int, str, bool]]:
    """(line number, what is included, quoted) of each #include of a file."""
    text = path.read_text()
    return [
        (text.count("\n", 0, m.start(2)) + 1, m[2], m[1] == '"') for m in INCLUDE.finditer(text)
    ]


def transitive(source: Path, start: str) -> dict[str, str]:
    """Header -> the header that brought it in, for all that `start` leads to."""
    came_from = {start: ""}
    waiting = [start]
    while waiting:
        at = waiting.pop()
        path = source / at
        for _, name, quoted in includes(path) if path.exists() else []:
            if quoted and name.startswith("ps/") and name not in came_from:
                came_from[name] = at
                waiting.append(name)
    return came_from


def chain(came_from: dict[str, str], header: str) -> str:
    steps = [header]
    while came_from[steps[-1]]:
        steps.append(came_from[steps[-1]])
    return " <- ".join(steps)


def check_file(root: Path, path: Path, law: dict[str, set[str]]) -> Iterator[str]:
    source = root / "src"
    where = path.relative_to(root)
    inside = path.is_relative_to(source)
    folder = path.relative_to(source / "ps").parts[0] if inside else ""
    is_test = path.name.endswith(("_test.cc", "_test.h")) or path.is_relative_to(root / "bench")
    if inside and folder not in law:
        yield f"{where}: src/ps/CMakeLists.txt has no ps_library({folder})"
        return
    if inside:
        allowed = reach(law, f"{folder}_test" if is_test else folder)
    else:
        allowed = set(law) if is_test else law.keys() - {"testing"}

    for line, name, quoted in includes(path):
        at = f"{where}:{line}"
        if inside and PYTHON.match(name):
            yield f"{at}: {name}: only bindings/ knows Python"
        if inside and SOCKETS.match(name) and "net" not in allowed and not is_test:
            yield f"{at}: {name}: {folder} does not stand on net, so it knows no sockets"
        if not quoted:
            continue
        if not name.startswith("ps/"):
            if inside or not (root / name).exists():
                yield f"{at}: {name}: include paths are rooted at src/, as in ps/base/status.h"
            continue
        if name not in GENERATED and not (source / name).exists():
            yield f"{at}: {name}: no such file"
            continue
        direct = name.split("/")[1]
        if direct not in allowed:
            yield f"{at}: {direct} is not below {folder or 'this'}: {name}"
        else:
            came_from = transitive(source, name)
            for header in came_from:
                if header.split("/")[1] not in allowed:
                    yield f"{at}: brings in {chain(came_from, header)}"


def violations(root: Path) -> list[str]:
    law = read_law(root / "src/ps/CMakeLists.txt")
    found = list(cycles(law))
    for base in (root / "src/ps", root / "bindings", root / "bench"):
        for path in sorted(p for suffix in ("*.h", "*.cc") for p in base.rglob(suffix)):
            found.extend(check_file(root, path, law))
    return found


if __name__ == "__main__":
    problems = violations(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]))
    print(*problems, sep="\n", end="\n" if problems else "")
    sys.exit(bool(problems))
