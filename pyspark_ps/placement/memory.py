"""What servers may take of an executor's container, and whether Spark was told.

A server's memory lies outside the JVM's heap. YARN and Kubernetes kill a container that takes more
than heap and `spark.executor.memoryOverhead` together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from pyspark_ps.utils.config import PSConfig, TableConfig

ROW_HEADER_BYTES = 16
INDEX_BYTES_PER_ROW = 16
MIB = 1 << 20
# Spark's own: the overhead is a tenth of the heap, and at least so much.
OVERHEAD_FACTOR = 0.10
OVERHEAD_BYTES_MIN = 384 * MIB

_UNITS = {"": MIB, "b": 1, "k": 1 << 10, "m": MIB, "g": 1 << 30, "t": 1 << 40}


def row_bytes(table: TableConfig) -> int:
    """Bytes of one row of a complete `TableConfig` with its optimizer state and index entry."""
    params = table.optimizer_params
    state_floats = {
        "sgd": table.dim if params.get("momentum") else 0,
        "adagrad": table.dim,
        "adam": table.dim * (3 if params.get("amsgrad") else 2) + 1,
        "ftrl": 2 * table.dim,
    }[str(table.optimizer)]
    row = ROW_HEADER_BYTES + 4 * (table.dim + state_floats)
    return math.ceil(row / 16) * 16 + INDEX_BYTES_PER_ROW


def server_bytes_max(config: PSConfig) -> int | None:
    """Bytes that the rows of one server may take; None = unlimited."""
    if config.max_embeddings_per_shard == 0:
        return None
    return config.max_embeddings_per_shard * max(map(row_bytes, config.all_tables().values()))


def memory_warning(
    config: PSConfig, master: str, executor_count: int, conf: Callable[[str], str | None]
) -> str | None:
    """A text that names the setting to change, where servers may outgrow their containers.

    Args:
        master: Spark's; only YARN and Kubernetes limit containers.
        executor_count: executors that the servers are spread over.
        conf: value of a Spark setting, None where it is not set.
    """
    if not master.startswith(("yarn", "k8s")):
        return None
    overhead = _overhead_bytes(conf)
    each = server_bytes_max(config)
    if each is None:
        return (
            "PSConfig.max_embeddings_per_shard = 0 lets servers grow without a limit, beyond "
            f"spark.executor.memoryOverhead ({overhead // MIB} MiB), where their container is "
            "killed: set a limit"
        )
    needed = each * math.ceil(config.num_servers / max(1, executor_count))
    if needed <= overhead:
        return None
    return (
        f"servers may take {needed // MIB} MiB of an executor's container "
        f"(PSConfig.max_embeddings_per_shard = {config.max_embeddings_per_shard}), but "
        f"spark.executor.memoryOverhead is {overhead // MIB} MiB: set it to "
        f"{math.ceil((needed + OVERHEAD_BYTES_MIN) / MIB)}m, or lower max_embeddings_per_shard"
    )


def _overhead_bytes(conf: Callable[[str], str | None]) -> int:
    explicit = conf("spark.executor.memoryOverhead")
    if explicit:
        return parse_bytes(explicit)
    heap = parse_bytes(conf("spark.executor.memory") or "1g")
    factor = float(conf("spark.executor.memoryOverheadFactor") or OVERHEAD_FACTOR)
    return max(OVERHEAD_BYTES_MIN, int(heap * factor))


def parse_bytes(text: str) -> int:
    """Bytes of a size as Spark writes it: "512m", "2g", "1024" (MiB). Unreadable ones are 0."""
    match = re.fullmatch(r"\s*(\d+)\s*([kmgtb]?)b?\s*", text.lower())
    return int(match.group(1)) * _UNITS[match.group(2)] if match else 0
