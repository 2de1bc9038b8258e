"""`PSMainClient` and `BarrierCoordinator` on the driver, `PSWorkerClient` on workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark_ps.client.barrier import BarrierCoordinator
    from pyspark_ps.client.main_client import PSMainClient
    from pyspark_ps.client.worker_client import PSWorkerClient

__all__ = ["BarrierCoordinator", "PSMainClient", "PSWorkerClient"]


def __getattr__(name: str) -> Any:
    if name == "BarrierCoordinator":
        from pyspark_ps.client.barrier import BarrierCoordinator

        return BarrierCoordinator
    if name == "PSMainClient":
        from pyspark_ps.client.main_client import PSMainClient

        return PSMainClient
    if name == "PSWorkerClient":
        from pyspark_ps.client.worker_client import PSWorkerClient

        return PSWorkerClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
