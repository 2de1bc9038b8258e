"""Python environments of the peers, apart from ours: build/peers/<name>.

    python -m bench.peers.environments        makes those that are not there; tells what failed

Each is what requirements/<name>.txt says.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class PeerMissing(RuntimeError):
    """A peer that cannot be had on this machine; the message says why."""


def interpreter(name: str) -> Path:
    """Of the environment, made at its first use (or when its requirements have changed).

    Raises:
        PeerMissing: pip could not install it.
    """
    folder = ROOT / "build" / "peers" / name
    requirements = HERE / "requirements" / f"{name}.txt"
    stamp = folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print(f"making {folder.relative_to(ROOT)}", flush=True)
        run(sys.executable, "-m", "venv", "--clear", str(folder))
        run(
            str(folder / "bin" / "python"),
            *("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install"),
            *("--requirement", str(requirements)),
        )
        stamp.write_text(requirements.read_text())
    return folder / "bin" / "python"


def main() -> None:
    for requirements in sorted((HERE / "requirements").glob("*.txt")):
        print(_told(requirements.stem))


def _told(name: str) -> str:
    try:
        return str(interpreter(name).relative_to(ROOT))
    except PeerMissing as error:
        return f"{name} cannot be installed here: {error}"


def run(*command: str) -> None:
    """Raises PeerMissing with the last lines that a failed command said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise PeerMissing("; ".join(lines[-3:]) or f"exit code {done.returncode}")


if __name__ == "__main__":
    main()
