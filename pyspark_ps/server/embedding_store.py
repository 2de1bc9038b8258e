"""One table of embeddings in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyspark_ps import _core
from pyspark_ps.client.gradients import as_float32, by_table
from pyspark_ps.errors import InvalidArgumentError, ResourceExhaustedError
from pyspark_ps.keys import keys_of
from pyspark_ps.server._checks import factor_of, number
from pyspark_ps.utils.config import DEFAULT_TABLE, PSConfig, TableConfig

Floats = NDArray[np.float32]


class EmbeddingStore:
    """The store that a shard of a server keeps a table in, for inspection and tests.

    Rows are as a server makes and updates them: new ones depend on (seed, id) alone; a count is 1
    at creation and grows by one with each update. Ids are whatever `pyspark_ps.keys_of` takes;
    methods that list ids give their keys. Thread-safe.

    Args:
        embedding_dim: floats per row.
        init_strategy: "zeros", "random" = uniform(-init_scale, init_scale) or "normal" =
            N(0, init_scale^2).
        init_scale: see `init_strategy`.
        optimizer_name: "sgd", "adam", "adagrad" or "ftrl".
        optimizer_config: hyper-parameters, over `PSConfig`'s defaults.
        max_embeddings: rows at most; None = unlimited.
        seed: of initial values, as `PSConfig.seed`.

    Raises:
        ConfigurationError: a value that a table cannot have.
    """

    def __init__(
        self,
        embedding_dim: int,
        init_strategy: str = "normal",
        init_scale: float = 0.01,
        optimizer_name: str = "adagrad",
        optimizer_config: Mapping[str, Any] | None = None,
        max_embeddings: int | None = None,
        *,
        seed: int = 0,
    ) -> None:
        given = dict(optimizer_config or {})
        table = TableConfig(embedding_dim, optimizer_name, given, init_strategy, init_scale)
        limit = 0 if max_embeddings is None else int(number("max_embeddings", max_embeddings))
        self._table = PSConfig(seed=seed).fill_table(table)
        params = {name: float(value) for name, value in self._table.optimizer_params.items()}
        self._optimizer = _core.Optimizer(optimizer_name, params)
        self._limit = limit
        self._rows = _core.EmbeddingRows(
            name=DEFAULT_TABLE,
            dim=self.embedding_dim,
            init=init_strategy,
            init_scale=float(init_scale),
            optimizer=optimizer_name,
            params=params,
            seed=seed,
            rows_max=limit,
        )

    @property
    def embedding_dim(self) -> int:
        """Floats per row."""
        return self._table.dim

    @property
    def table_config(self) -> TableConfig:
        """The table's complete definition."""
        return TableConfig.from_dict(self._table.to_dict())

    def get(self, token_id: Any, create_if_missing: bool = True) -> Floats | None:
        """A copy of one row, float32 (dim,); None when there is none and none shall be made.

        Raises:
            ResourceExhaustedError: a new row does not fit `max_embeddings`.
        """
        rows, found = self.get_batch([token_id], create_if_missing)
        return rows[0] if found else None

    def get_batch(self, token_ids: Any, create_if_missing: bool = True) -> tuple[Floats, list[Any]]:
        """Rows of those ids that have one, or get one.

        Returns:
            float32 (f, dim), and the f ids, both in input order; repeated ids repeat.

        Raises:
            ResourceExhaustedError: new rows do not fit `max_embeddings`; none is made.
        """
        keys = keys_of(token_ids)
        ids = token_ids.to_pylist() if hasattr(token_ids, "to_pylist") else list(token_ids)
        if not create_if_missing:
            known = self._rows.contains(keys)
            keys, ids = keys[known], [i for i, k in zip(ids, known, strict=True) if k]
        rows = np.empty((len(keys), self.embedding_dim), np.float32)
        self._rows.gather(keys, rows, create_if_missing)
        return rows, ids

    def update(self, token_id: Any, gradient: ArrayLike) -> None:
        """Applies one gradient (dim,); the row is made first when there is none."""
        self.update_batch({token_id: gradient})

    def update_batch(self, gradients: Any) -> None:
        """Applies gradients; those of ids that mean the same row are summed first.

        Args:
            gradients: `{id: gradient}`, or `(ids, gradients)` arrays.

        Raises:
            InvalidArgumentError: wrong shapes or dtypes, values that are not finite.
            ResourceExhaustedError: new rows do not fit `max_embeddings`. Nothing is changed then.
        """
        pair = by_table(gradients).get(DEFAULT_TABLE)
        if pair is None or len(pair[0]) == 0:
            return
        keys, grads = pair[0], self._checked_rows("gradients", pair[0], pair[1])
        distinct, place = _core.unique(keys)
        sums = np.zeros((len(distinct), self.embedding_dim), np.float32)
        with np.errstate(over="ignore"):  # refused below
            np.add.at(sums, place, grads)
        self._rows.apply(distinct, _finite("sums of gradients", sums))

    def set(self, token_id: Any, embedding: ArrayLike) -> None:
        """Overwrites or makes a row, (dim,); its optimizer state starts fresh, its count stays (1
        when new)."""
        keys = keys_of([token_id])
        values = self._checked_rows("embedding", keys, [embedding])
        counts = np.where(self._rows.contains(keys), self._rows.counts(keys), np.float32(1))
        self._rows.set(keys, counts, np.zeros(1, np.uint32), values, np.empty((1, 0), np.float32))

    def remove(self, token_id: Any) -> bool:
        """Takes out one row; whether there was one."""
        return self.remove_batch([token_id]) == 1

    def remove_batch(self, token_ids: Any) -> int:
        """Takes out rows; how many there were."""
        return self._rows.remove(keys_of(token_ids))

    def decay(self, factor: float) -> None:
        """Multiplies every value and count by `factor`, 0 < factor <= 1."""
        self._rows.decay(factor_of(factor))

    def prune(self, min_count: float) -> int:
        """Takes out the rows with count < min_count; how many went."""
        return self._rows.prune(number("min_count", min_count))

    def get_update_count(self, token_id: Any) -> float:
        """1 at creation, plus 1 for each update, decayed; 0 without a row."""
        return float(self._rows.counts(keys_of([token_id]))[0])

    def get_all_token_ids(self) -> list[int]:
        """The keys of all rows, ascending."""
        return sorted(self._rows.rows()[0].tolist())

    def get_stats(self) -> dict[str, Any]:
        """`{"rows", "dim", "optimizer", "max_embeddings", "created_total", "pruned_total",
        "memory_bytes": {"values", "state", "index"}}`."""
        stats = self._rows.stats()
        return {
            "rows": stats["rows"],
            "dim": self.embedding_dim,
            "optimizer": self._table.optimizer,
            "max_embeddings": self._limit or None,
            "created_total": stats["created_total"],
            "pruned_total": stats["pruned_total"],
            "memory_bytes": {part: stats[f"{part}_bytes"] for part in ("values", "state", "index")},
        }

    def get_state(self) -> dict[str, Any]:
        """A copy of everything: `{"table": definition, "keys" uint64 (n,), "counts" (n,),
        "last_days" uint32 (n,), "values" (n, dim), "state": {part: (n, width)}}`, by ascending key.
        """
        keys, counts, days, values, states = self._rows.rows()
        order, n = np.argsort(keys), len(keys)
        parts, at = {}, 0
        states = states.reshape(n, -1)[order] if n else states.reshape(0, 0)
        for name, floats in self._optimizer.state_parts(self.embedding_dim):
            parts[name] = states[:, at : at + floats].copy()
            at += floats
        return {
            "table": self._table.to_dict(),
            "keys": keys[order],
            "counts": counts[order],
            "last_days": days[order],
            "values": values.reshape(n, self.embedding_dim)[order],
            "state": parts,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `get_state()` gave, in place of all rows that are there.

        Raises:
            InvalidArgumentError: it is of a table of another dim or optimizer, or lacks something.
            ResourceExhaustedError: it does not fit `max_embeddings`. Nothing is changed then.
        """
        try:
            table = TableConfig.from_dict(state["table"])
            keys = np.ascontiguousarray(state["keys"], np.uint64)
            counts = as_float32(state["counts"], "counts")
            days = np.ascontiguousarray(state["last_days"], np.uint32)
            parts = [state["state"][name] for name, _ in self._optimizer.state_parts(table.dim)]
            values = state["values"]
        except KeyError as error:
            raise InvalidArgumentError(f"the state of a table lacks {error}") from None
        if (table.dim, table.optimizer) != (self.embedding_dim, self._table.optimizer):
            raise InvalidArgumentError(
                f"a state of dim {table.dim} and {table.optimizer} for a table of dim "
                f"{self.embedding_dim} and {self._table.optimizer}"
            )
        values = self._checked_rows("values", keys, values)
        blocks = [_finite(f"state {i}", part) for i, part in enumerate(parts)]
        states = np.concatenate(blocks, axis=1) if blocks else values[:, :0]
        if self._limit and len(keys) > self._limit:
            raise ResourceExhaustedError(
                f"a state of {len(keys)} rows is above max_embeddings = {self._limit}"
            )
        self._rows.clear()
        self._rows.set(keys, counts, days, values, np.ascontiguousarray(states))

    def clear(self) -> None:
        """Takes out all rows."""
        self._rows.clear()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, token_id: Any) -> bool:
        return bool(self._rows.contains(keys_of([token_id]))[0])

    def _checked_rows(self, what: str, keys: NDArray[np.uint64], values: Any) -> Floats:
        rows = _finite(what, values)
        if rows.shape != (len(keys), self.embedding_dim):
            raise InvalidArgumentError(
                f"{what} of the shape {rows.shape} for {len(keys)} ids; "
                f"{(len(keys), self.embedding_dim)} is needed"
            )
        return rows


def _finite(what: str, values: Any) -> Floats:
    array = as_float32(values, what)
    if not np.isfinite(array).all():
        raise InvalidArgumentError(f"{what} hold NaN or infinity")
    return array
