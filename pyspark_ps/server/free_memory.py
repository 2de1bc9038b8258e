"""Whether this machine's memory, or this container's, can take what a load is about to build."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark_ps.errors import ResourceExhaustedError
from pyspark_ps.placement.memory import MIB, row_bytes
from pyspark_ps.utils.config import TableConfig

if TYPE_CHECKING:
    from pyspark_ps.storage import Manifest

# Batches on their way from the storage.
WORKING_BYTES = 128 * MIB


def check_memory(
    plan: dict[str, Any], manifest: Manifest, share: float, task: dict[str, Any]
) -> None:
    """Refuses a load that would not fit beside what is served.

    Args:
        plan: of the load: tables as they will run, what is loaded.
        share: of the cluster's partitions that this server holds.
        task: says how many servers of the cluster load on this machine at once.

    Raises:
        ResourceExhaustedError: names the bytes needed and those there are.
    """
    needed = needed_bytes(plan, manifest, share) * int(task["servers_on_host"])
    available = available_bytes()
    if available is not None and needed > available:
        raise ResourceExhaustedError(
            f"loading takes {needed} bytes on this machine beside what its servers hold already; "
            f"{available} are available: give the machine more memory, load with more servers on "
            "further machines, or start the cluster anew and load before training"
        )


def needed_bytes(plan: dict[str, Any], manifest: Manifest, share: float) -> int:
    """Of one server for what it will hold of the checkpoint, about."""
    needed = WORKING_BYTES
    if plan["rows"]:
        rows = {table.name: table.rows for table in manifest.tables}
        for table in plan["tables"]:
            config = TableConfig(
                dim=table["dim"],
                optimizer=table["optimizer"]["name"],
                optimizer_params=table["optimizer"]["params"],
            )
            needed += int(rows.get(table["name"], 0) * share * row_bytes(config))
    if plan["weights"]:
        needed += int(manifest.model_bytes * share)
    return needed


def available_bytes() -> int | None:
    """Bytes that can still be taken without swapping or being killed; None where nobody tells."""
    found = [value for value in (_of_machine(), _of_container()) if value is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_container() -> int | None:
    """What the control group's limit leaves (cgroup v2, then v1); pages of files can be dropped."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            at = Path(folder)
            bound, taken = int((at / limit).read_text()), int((at / used).read_text())
            stat = dict(line.split() for line in (at / "memory.stat").read_text().splitlines())
            return bound - taken + int(stat.get("inactive_file", 0))
    return None
