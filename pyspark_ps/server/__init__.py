"""The server process, and what it holds as classes of this process for inspection and tests.

`python -m pyspark_ps.server` is started by whoever places servers; it loads none of these classes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark_ps.server.embedding_store import EmbeddingStore
    from pyspark_ps.server.ps_server import PSServer
    from pyspark_ps.server.shard_manager import ShardManager
    from pyspark_ps.server.update_counter import UpdateCounter
    from pyspark_ps.server.weight_store import WeightStore

__all__ = ["EmbeddingStore", "PSServer", "ShardManager", "UpdateCounter", "WeightStore"]

_LAZY = {
    "EmbeddingStore": "embedding_store",
    "PSServer": "ps_server",
    "ShardManager": "shard_manager",
    "UpdateCounter": "update_counter",
    "WeightStore": "weight_store",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
