"""A cluster's tables and dense weights, as a client knows them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyspark_ps.errors import NotFoundError
from pyspark_ps.utils.config import OPTIMIZER_DEFAULTS, TableConfig


@dataclass(frozen=True)
class Table:
    id: int
    dim: int
    definition: dict[str, Any]

    def config(self) -> TableConfig:
        """The complete definition."""
        optimizer = self.definition["optimizer"]
        defaults = OPTIMIZER_DEFAULTS.get(optimizer["name"], {})
        params = {
            name: bool(value) if isinstance(defaults.get(name), bool) else value
            for name, value in optimizer["params"].items()
        }
        return TableConfig(
            dim=self.dim,
            optimizer=optimizer["name"],
            optimizer_params=params,
            init=self.definition["init"],
            init_scale=self.definition["init_scale"],
        )


@dataclass(frozen=True)
class Weight:
    id: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Definition:
    """Immutable; a client replaces it by a newer one."""

    tables: dict[str, Table]
    weights: dict[str, Weight]

    @classmethod
    def parse(cls, text: str) -> Definition:
        """From the core's JSON."""
        raw = json.loads(text)
        return cls(
            {t["name"]: Table(t["id"], t["dim"], t) for t in raw["tables"]},
            {w["name"]: Weight(w["id"], tuple(w["shape"])) for w in raw["tensors"]},
        )

    def require_tables(self, names: Iterable[str]) -> None:
        """Raises NotFoundError for a name that does not exist, naming those that do."""
        _require("table", names, self.tables)

    def require_weights(self, names: Iterable[str]) -> None:
        """Raises NotFoundError for a name that does not exist, naming those that do."""
        _require("dense weight", names, self.weights)


def _require(kind: str, names: Iterable[str], known: dict[str, Any]) -> None:
    for name in names:
        if name not in known:
            shown = ", ".join(repr(other) for other in sorted(known)[:50]) or "none"
            raise NotFoundError(f"{kind} {name!r} does not exist; there are: {shown}")
