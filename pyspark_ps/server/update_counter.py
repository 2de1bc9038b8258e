"""How often ids were seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyspark_ps import _core
from pyspark_ps.keys import keys_of
from pyspark_ps.server._checks import factor_of, number


class UpdateCounter:
    """Counts by id, kept as a table keeps those of its rows: float32, exact to 2**24, where adding
    one has no effect any more.

    Ids are whatever `pyspark_ps.keys_of` takes. Methods that list ids give their keys: of an id
    from 0 to 2**64 - 1 the number itself, of others what `keys_of` makes of them.

    Args:
        default_count: of ids that were never counted, and where counting begins.
    """

    def __init__(self, default_count: float = 0) -> None:
        self._default = number("default_count", default_count)
        self._counts = _core.UpdateCounts(self._default)

    def increment(self, token_id: Any, by: float = 1) -> float:
        """Adds to one id; the new count."""
        keys = keys_of([token_id])
        self._counts.add(keys, number("by", by))
        return float(self._counts.get(keys)[0])

    def increment_batch(self, token_ids: Any, by: float = 1) -> None:
        """Adds to each id; a repeated one counts repeatedly."""
        self._counts.add(keys_of(token_ids), number("by", by))

    def get_count(self, token_id: Any) -> float:
        """The count of one id."""
        return float(self._counts.get(keys_of([token_id]))[0])

    def get_counts(self, token_ids: Iterable[Any]) -> dict[Any, float]:
        """id -> count."""
        ids = list(token_ids)
        return dict(zip(ids, self._counts.get(keys_of(ids)).tolist(), strict=True))

    def set_count(self, token_id: Any, count: float) -> None:
        """Overwrites one count, a number >= 0."""
        self._counts.set(_key(token_id), number("count", count))

    def remove(self, token_id: Any) -> bool:
        """Forgets one id; whether it was counted."""
        return self._counts.remove(_key(token_id))

    def decay(self, factor: float) -> None:
        """Multiplies every count by `factor`, 0 < factor <= 1."""
        self._counts.decay(factor_of(factor))

    def prune(self, min_count: float) -> list[int]:
        """Forgets the ids with count < min_count; their keys, ascending."""
        return sorted(self._counts.prune(number("min_count", min_count)).tolist())

    def get_below_threshold(self, threshold: float) -> list[int]:
        """Keys with count < threshold, ascending: what `prune(threshold)` would forget."""
        keys, counts = self._all()
        below: list[int] = keys[counts < number("threshold", threshold)].tolist()
        return below

    def get_above_threshold(self, threshold: float) -> list[int]:
        """Keys with count >= threshold, ascending: what `prune(threshold)` would keep."""
        keys, counts = self._all()
        above: list[int] = keys[counts >= number("threshold", threshold)].tolist()
        return above

    def get_top_k(self, k: int) -> list[tuple[int, float]]:
        """The k most counted (key, count), most first; of equal counts the smaller key first."""
        keys, counts = self._all()
        top = np.argsort(-counts, kind="stable")[: int(number("k", k))]
        return list(zip(keys[top].tolist(), counts[top].tolist(), strict=True))

    def get_stats(self) -> dict[str, float]:
        """`{"tokens", "total", "mean", "min", "max"}`; of an empty counter all are 0."""
        _, counts = self._all()
        if len(counts) == 0:
            return {"tokens": 0, "total": 0.0, "mean": 0.0, "min": 0.0, "max": 0.0}
        total = float(counts.sum(dtype=np.float64))
        return {
            "tokens": len(counts),
            "total": total,
            "mean": total / len(counts),
            "min": float(counts.min()),
            "max": float(counts.max()),
        }

    def clear(self) -> None:
        """Forgets everything."""
        self._counts.clear()

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, token_id: Any) -> bool:
        return self._counts.contains(_key(token_id))

    def _all(self) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Keys, ascending, and counts."""
        keys, counts = self._counts.all()
        order = np.argsort(keys)
        return keys[order], counts[order]


def _key(token_id: Any) -> int:
    return int(keys_of([token_id])[0])
