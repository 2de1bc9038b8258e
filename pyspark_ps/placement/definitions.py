"""Tables and optimizers of a configuration as the core reads them."""

from __future__ import annotations

from typing import Any

from pyspark_ps.utils.config import TableConfig


def table_definition(name: str, table: TableConfig) -> dict[str, Any]:
    """A complete `TableConfig` as the core reads it."""
    assert table.optimizer is not None
    return {
        "name": name,
        "dim": table.dim,
        "optimizer": optimizer_definition(table.optimizer, table.optimizer_params),
        "init": table.init,
        "init_scale": table.init_scale,
    }


def optimizer_definition(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """An optimizer as the core reads it; booleans are 0 and 1."""
    return {"name": name, "params": {key: float(value) for key, value in params.items()}}
