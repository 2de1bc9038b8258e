"""A parameter server for PySpark: growing tables of embeddings and dense weights.

    with PSMainClient(spark_context, PSConfig(num_servers=4)) as main:    # on the driver
        info = main.get_server_info()
        ...
    worker = PSWorkerClient(info, config)                                 # on executors

Names are loaded when they are first used, so that a server process starts quickly: importing the
package starts nothing and imports neither NumPy nor the native core.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pyspark_ps.errors import (
    AuthenticationError,
    ClosedError,
    ConfigurationError,
    DataCorruptionError,
    InvalidArgumentError,
    NotFoundError,
    PSConnectionError,
    PSError,
    PSTimeoutError,
    ResourceExhaustedError,
    StorageError,
)

if TYPE_CHECKING:
    from pyspark_ps.client.main_client import PSMainClient
    from pyspark_ps.client.worker_client import PSWorkerClient
    from pyspark_ps.communication import CheckpointInfo, ServerInfo
    from pyspark_ps.keys import NULL_KEY, keys_of
    from pyspark_ps.utils.config import PSConfig, TableConfig

__all__ = [
    "NULL_KEY",
    "AuthenticationError",
    "CheckpointInfo",
    "ClosedError",
    "ConfigurationError",
    "DataCorruptionError",
    "InvalidArgumentError",
    "NotFoundError",
    "PSConfig",
    "PSConnectionError",
    "PSError",
    "PSMainClient",
    "PSTimeoutError",
    "PSWorkerClient",
    "ResourceExhaustedError",
    "ServerInfo",
    "StorageError",
    "TableConfig",
    "keys_of",
]

__version__ = "0.1.0"

_LAZY = {
    "CheckpointInfo": "pyspark_ps.communication",
    "NULL_KEY": "pyspark_ps.keys",
    "PSConfig": "pyspark_ps.utils.config",
    "PSMainClient": "pyspark_ps.client.main_client",
    "PSWorkerClient": "pyspark_ps.client.worker_client",
    "ServerInfo": "pyspark_ps.communication",
    "TableConfig": "pyspark_ps.utils.config",
    "keys_of": "pyspark_ps.keys",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
