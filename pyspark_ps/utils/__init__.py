"""Configuration, placement of keys, loggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark_ps.utils.config import PSConfig, TableConfig
from pyspark_ps.utils.logging import get_logger

if TYPE_CHECKING:
    from pyspark_ps.utils.sharding import ConsistentHashRing

__all__ = ["ConsistentHashRing", "PSConfig", "TableConfig", "get_logger"]


def __getattr__(name: str) -> Any:
    # Loads NumPy and the native core, which configurations do not need.
    if name == "ConsistentHashRing":
        from pyspark_ps.utils.sharding import ConsistentHashRing

        return ConsistentHashRing
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
