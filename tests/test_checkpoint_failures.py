"""Saves and loads that die or fail on the way: what was there before is there afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyspark_ps import PSConfig, PSMainClient, TableConfig
from pyspark_ps.client import checkpoints
from pyspark_ps.errors import ClosedError, PSConnectionError, PSError, PSTimeoutError, StorageError
from pyspark_ps.storage import CheckpointManager
from tests.checkpoint_driver import EXIT_SAVE_FAILED
from tests.processes import pids_of
from tests.warm_python import Template

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
EXIT_KILLED = 128 + signal.SIGKILL
IDS = np.arange(100)
LOST = (PSConnectionError, PSTimeoutError, ClosedError)


class Faults:
    """Sets what happens in servers (faults/sitecustomize.py)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        path = [str(HERE / "faults"), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))

    def of_next_servers(self, name: str) -> Path:
        """The file that says what happens in the servers started from now on."""
        file = self._folder / name
        self._monkeypatch.setenv("PS_TEST_FAULT", str(file))
        return file


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(tmp_path, monkeypatch)


def config(servers: int = 1, **fields: Any) -> PSConfig:
    # A server that is not there any more is given up after timeout_seconds.
    return PSConfig(
        num_servers=servers,
        embedding_dim=4,
        server_port_base=0,
        num_worker_threads=1,
        **{"timeout_seconds": 2.0, **fields},
    )


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.timeout(600)  # two dozen clusters, on a machine that may be busy
@pytest.mark.parametrize("who", ["server", "driver"])
def test_who_dies_while_saving_leaves_a_whole_checkpoint(
    tmp_path: Path, who: str, template: Template
) -> None:
    python = template.python

    def run(at: int) -> tuple[int, Path]:
        folder = tmp_path / str(at)
        folder.mkdir()
        command = [python, "-m", "tests.checkpoint_driver", who, str(folder), f"kill {at}"]
        done = subprocess.run(command, capture_output=True, timeout=300)
        assert done.returncode in (0, EXIT_KILLED, EXIT_SAVE_FAILED), done.stderr.decode()
        return done.returncode, folder / "place"

    # Most of the time each driver waits for its dead server: all at once.
    with ThreadPoolExecutor(12) as pool:
        ended = list(pool.map(run, range(1, 13)))
    manager = CheckpointManager()
    died = [place for code, place in ended if code != 0]
    assert len(died) >= (12 if who == "server" else 10)
    rows = {place: manager.info(str(place)).embedding_count for _, place in ended}
    # A server dies before the manifest is written; the driver, also after that.
    assert {rows[place] for place in died} == ({100} if who == "server" else {100, 150})
    assert all(rows[place] == 150 for code, place in ended if code == 0)
    # What was left over goes with the next save, or with the checkpoint.
    place = died[-1]
    manager.begin(str(place)).abandon()
    named = manager.manifest(str(place)).files
    assert files(place) == sorted(["manifest.json", *(file.path for file in named)])
    manager.delete(str(died[0]))
    assert files(died[0]) == []


@pytest.mark.timeout(300)
def test_a_full_disk_fails_the_save_and_nothing_else(tmp_path: Path, faults: Faults) -> None:
    place = tmp_path / "place"
    manager = CheckpointManager()
    fault = faults.of_next_servers("fault")
    with PSMainClient(None, config(2, timeout_seconds=30.0)) as main:
        worker = main.worker_client()
        worker.pull_embeddings(IDS)
        before = main.save_to_s3(str(place))
        kept = files(place)
        rows = worker.pull_embeddings(np.arange(130))
        for at in (1, 2, 4):
            fault.write_text(f"full {at}")
            with pytest.raises(StorageError, match="No space left"):
                main.save_to_s3(str(place))
            fault.unlink()
            assert manager.info(str(place)).to_dict() == before.to_dict()
            assert files(place) == kept
        np.testing.assert_array_equal(worker.pull_embeddings(np.arange(130)), rows)
        assert main.save_to_s3(str(place)).embedding_count == 130


@pytest.mark.timeout(300)
def test_a_server_killed_while_it_loads_loses_the_cluster_and_no_checkpoint(
    tmp_path: Path, faults: Faults
) -> None:
    place = tmp_path / "place"
    with PSMainClient(None, config()) as main:
        main.init_weights({"w": (10,)})
        main.worker_client().pull_embeddings(IDS)
        before = main.save_to_s3(str(place))

    def load(main: PSMainClient, fault: Path, at: int) -> None:
        fault.write_text(f"kill {at}")
        with pytest.raises(LOST):
            main.load_from_s3(str(place))

    # A load waits for the dead server and for the other, which waits for it too: all at once.
    with ExitStack() as clusters, ThreadPoolExecutor() as pool:
        started = []
        for at in (1, 2, 4):
            fault = faults.of_next_servers(f"fault {at}")
            started.append((clusters.enter_context(PSMainClient(None, config(2))), fault, at))
        for done in [pool.submit(load, *cluster) for cluster in started]:
            done.result()
    faults.of_next_servers("none")
    with PSMainClient(None, config(2)) as main:
        assert main.load_from_s3(str(place)).to_dict() == before.to_dict()
        assert main.get_cluster_stats()["total_embeddings"] == len(IDS)


@pytest.mark.timeout(300)
def test_a_failure_while_servers_switch_says_so_and_another_load_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "place")
    run_on_all = checkpoints.run_on_all

    def disturbed(act: Callable[[PSMainClient], None]) -> None:
        """Loads; `act` runs when the first server has switched and the second has not."""

        def run(client: Any, tasks: Any, progress: Any = None) -> Any:
            if tasks[0]["kind"] != "commit":
                return run_on_all(client, tasks, progress)
            run_on_all(client, tasks[:1])
            act(main)
            return run_on_all(client, tasks)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "run_on_all", run)
            with pytest.raises(PSError, match="others what they held"):
                main.load_from_s3(place)

    def kill_second(main: PSMainClient) -> None:
        os.kill(pids_of(main)[1], signal.SIGKILL)

    with PSMainClient(None, config(2)) as main:
        main.create_table("users", TableConfig(3))
        main.init_weights({"w": (10,)})
        rows = main.worker_client().pull_embeddings(IDS, table="users")
        main.save_to_s3(place)
    with PSMainClient(None, config(2)) as main:
        main.worker_client().pull_embeddings(np.arange(5))
        # The second commit finds nothing prepared on the first server.
        disturbed(lambda main: None)
        main.load_from_s3(place)
        np.testing.assert_array_equal(rows, main.worker_client().pull_embeddings(IDS, "users"))
        disturbed(kill_second)
        main.shutdown_servers(0)
        main.start_servers()
        main.load_from_s3(place)
        np.testing.assert_array_equal(rows, main.worker_client().pull_embeddings(IDS, "users"))
        assert main.get_cluster_stats()["total_embeddings"] == len(IDS)
