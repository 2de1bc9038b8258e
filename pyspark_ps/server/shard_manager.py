"""What one server of a cluster holds, and whether it is that server's to hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyspark_ps.client.gradients import by_table
from pyspark_ps.errors import ConfigurationError, InvalidArgumentError
from pyspark_ps.server.embedding_store import EmbeddingStore
from pyspark_ps.server.weight_store import WeightStore
from pyspark_ps.utils.config import DEFAULT_TABLE, PSConfig
from pyspark_ps.utils.sharding import ConsistentHashRing

Floats = NDArray[np.float32]


class Rows(Protocol):
    """A table's rows, in this process or on a server. See `EmbeddingStore` for the methods."""

    def get_batch(
        self, token_ids: Any, create_if_missing: bool = True
    ) -> tuple[Floats, list[Any]]: ...
    def update_batch(self, gradients: Any) -> None: ...
    def decay(self, factor: float) -> None: ...
    def prune(self, min_count: float) -> int: ...
    def get_stats(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...


class Weights(Protocol):
    """Dense weights, in this process or on a server. See `WeightStore` for the methods."""

    def init_weights(
        self, name: str, shape: Sequence[int], init_strategy: str, init_scale: float
    ) -> None: ...
    def get_batch(self, names: Iterable[str]) -> dict[str, Floats]: ...
    def get_all(self) -> dict[str, Floats]: ...
    def update_batch(self, gradients: Mapping[str, ArrayLike]) -> None: ...
    def get_stats(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...


class ShardManager:
    """The part of the table "default" that one server of a cluster holds, and dense weights.

    Ids belong to servers as the cluster's partition map says (`ConsistentHashRing`).

    Args:
        server_id: 0 .. total_servers - 1.
        total_servers: of the cluster.
        config: of the cluster; its own `num_servers` is not looked at.
        rows, weights: where they lie; None = stores of this process, made as `config` says.

    Raises:
        ConfigurationError: a field of `config` is not valid, or `server_id` is no server.
    """

    def __init__(
        self,
        server_id: int,
        total_servers: int,
        config: PSConfig,
        *,
        rows: Rows | None = None,
        weights: Weights | None = None,
    ) -> None:
        config = config.replace(num_servers=total_servers)
        config.validate()
        if isinstance(server_id, bool) or server_id not in range(total_servers):
            raise ConfigurationError(
                f"server_id = {server_id!r}: allowed is 0 to {total_servers - 1}"
            )
        self.server_id = int(server_id)
        self.total_servers = int(total_servers)
        self.config = config
        self._ring = ConsistentHashRing(total_servers, config.virtual_nodes_per_server)
        self._rows = _rows_of(config) if rows is None else rows
        self._weights = _weights_of(config) if weights is None else weights

    # --- whose

    def owns_token(self, token_id: Any) -> bool:
        """Whether the id is this server's."""
        return self.get_owner(token_id) == self.server_id

    def get_owner(self, token_id: Any) -> int:
        """The server of an id."""
        return self._ring.get_server(token_id)

    def filter_owned_tokens(self, token_ids: Any) -> list[Any]:
        """Those ids that are this server's, in input order."""
        return self.partition_tokens(token_ids)[self.server_id]

    def partition_tokens(self, token_ids: Any) -> dict[int, list[Any]]:
        """server -> its ids, in input order; every server is present."""
        return self._ring.get_servers_batch(token_ids)

    # --- rows

    def get_embeddings(
        self, token_ids: Any, create_if_missing: bool = True
    ) -> tuple[Floats, list[Any]]:
        """Rows of those ids that have one, or get one: float32 (f, dim) and the f ids.

        Raises:
            InvalidArgumentError: an id is another server's.
            ResourceExhaustedError: new rows do not fit.
        """
        self._check_owned(token_ids)
        return self._rows.get_batch(token_ids, create_if_missing)

    def update_embeddings(self, gradients: Any) -> None:
        """Applies gradients, `{id: gradient}` or `(ids, gradients)`.

        Raises:
            InvalidArgumentError: an id is another server's; wrong shapes, dtypes or values.
            ResourceExhaustedError: new rows do not fit. Nothing is changed then.
        """
        pair = by_table(gradients).get(DEFAULT_TABLE)
        if pair is not None:
            self._check_owned(pair[0])
            self._rows.update_batch(pair)

    def decay_embeddings(self, factor: float = 0.99) -> None:
        """Multiplies every value and count by `factor`, 0 < factor <= 1."""
        self._rows.decay(factor)

    def prune_embeddings(self, min_count: float = 5) -> int:
        """Takes out the rows with count < min_count; how many went."""
        return self._rows.prune(min_count)

    def get_embedding_count(self) -> int:
        """Rows."""
        return len(self._rows)

    # --- dense weights

    def init_weights(
        self,
        weight_shapes: Mapping[str, Sequence[int]],
        init_strategy: str = "normal",
        init_scale: float = 0.01,
    ) -> None:
        """Makes weights with initial values, as `PSMainClient.init_weights`."""
        for name, shape in weight_shapes.items():
            self._weights.init_weights(name, shape, init_strategy, init_scale)

    def get_weights(self, names: Iterable[str] | None = None) -> dict[str, Floats]:
        """Copies by name; of all when no names are given.

        Raises:
            NotFoundError: a name that does not exist.
        """
        return self._weights.get_all() if names is None else self._weights.get_batch(names)

    def update_weights(self, gradients: Mapping[str, ArrayLike]) -> None:
        """Applies gradients by name.

        Raises:
            NotFoundError: a name that does not exist.
            InvalidArgumentError: wrong shapes, dtypes or values. Nothing is changed then.
        """
        self._weights.update_batch(gradients)

    def get_weight_count(self) -> int:
        """Dense weights."""
        return len(self._weights)

    def get_stats(self) -> dict[str, Any]:
        """`{"server_id", "total_servers", "embeddings": of the rows, "weights": of the weights}`,
        the parts as the stores give them."""
        return {
            "server_id": self.server_id,
            "total_servers": self.total_servers,
            "embeddings": self._rows.get_stats(),
            "weights": self._weights.get_stats(),
        }

    def _check_owned(self, token_ids: Any) -> None:
        for server, ids in self.partition_tokens(token_ids).items():
            if ids and server != self.server_id:
                raise InvalidArgumentError(
                    f"id {ids[0]!r} belongs to server {server}, not to server {self.server_id}; "
                    "see filter_owned_tokens"
                )


def _rows_of(config: PSConfig) -> EmbeddingStore:
    table = config.default_table()
    assert table.optimizer is not None
    assert table.init is not None
    assert table.init_scale is not None
    return EmbeddingStore(
        table.dim,
        table.init,
        table.init_scale,
        table.optimizer,
        table.optimizer_params,
        config.max_embeddings_per_shard or None,
        seed=config.seed,
    )


def _weights_of(config: PSConfig) -> WeightStore:
    name = config.weight_optimizer
    return WeightStore(name, config.get_optimizer_config(name), seed=config.seed)
