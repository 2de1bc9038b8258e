"""A cluster's tables and dense weights, as a client knows them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyspark_ps.errors import NotFoundError
from pyspark_ps.utils.config import OPTIMIZER_DEFAULTS, TableConfig

# Floats of one chunk of a dense tensor (limits::kTensorChunkFloats).
TENSOR_CHUNK_FLOATS = 262_144


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

    @property
    def chunks(self) -> int:
        """In how many pieces the servers hold it; an empty one is one piece too."""
        return max(1, -(-math.prod(self.shape) // TENSOR_CHUNK_FLOATS))


@dataclass(frozen=True)
class Definition:
    """Immutable; a client replaces it by a newer one."""

    tables: dict[str, Table]
    weights: dict[str, Weight]
    weight_optimizer: dict[str, Any]
    seed: int
    partition_count: int

    @classmethod
    def parse(cls, text: str) -> Definition:
        """From the core's JSON."""
        raw = json.loads(text)
        tables = [t for t in raw["tables"] if not t.get("dropped")]
        tensors = [w for w in raw["tensors"] if not w.get("dropped")]
        return cls(
            tables={t["name"]: Table(t["id"], t["dim"], t) for t in tables},
            weights={w["name"]: Weight(w["id"], tuple(w["shape"])) for w in tensors},
            weight_optimizer=raw["weight_optimizer"],
            seed=int(raw["seed"]),
            partition_count=len(raw["map"]["owner"]),
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
