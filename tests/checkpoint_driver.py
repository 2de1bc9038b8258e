"""A driver that saves twice to one place, for tests that let it, or its server, die meanwhile."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from pyspark_ps import PSConfig, PSMainClient
from pyspark_ps.errors import PSError

FAULTS = Path(__file__).parent / "faults"
EXIT_SAVE_FAILED = 3


def main(who: str, folder: Path, fault: str) -> int:
    """Saves 100 rows, then 150 while `who` ("server" or "driver") has the fault."""
    os.environ["PS_TEST_FAULT"] = str(folder / "fault")
    if who == "server":
        os.environ["PYTHONPATH"] = str(FAULTS)
    else:
        spec = importlib.util.spec_from_file_location("faults", FAULTS / "sitecustomize.py")
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    config = PSConfig(
        num_servers=1,
        embedding_dim=4,
        server_port_base=0,
        num_worker_threads=1,
        timeout_seconds=20.0,
    )
    place = str(folder / "place")
    with PSMainClient(None, config) as client:
        client.init_weights({"w": (300_000,)})
        client.worker_client().pull_embeddings(list(range(100)))
        client.save_to_s3(place)
        client.worker_client().pull_embeddings(list(range(150)))
        (folder / "fault").write_text(fault)
        try:
            client.save_to_s3(place)
        except PSError as error:
            print(type(error).__name__, error, file=sys.stderr)
            return EXIT_SAVE_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
