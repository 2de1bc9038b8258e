"""A server in this process, for inspection and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from socketserver import BaseServer
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyspark_ps import _core
from pyspark_ps.client.main_client import PSMainClient
from pyspark_ps.client.options import checked_config
from pyspark_ps.communication import ServerInfo
from pyspark_ps.errors import ConfigurationError
from pyspark_ps.placement.cluster import Cluster
from pyspark_ps.placement.credentials import Credentials
from pyspark_ps.placement.external import ExternalCluster
from pyspark_ps.placement.launch import LaunchSpec
from pyspark_ps.placement.plan import make_cluster
from pyspark_ps.server._checks import factor_of, number
from pyspark_ps.server.host import start_server
from pyspark_ps.server.shard_manager import ShardManager
from pyspark_ps.utils.config import DEFAULT_TABLE, PSConfig

Floats = NDArray[np.float32]


class PSServer:
    """A whole cluster of one server in this process: the C++ server with its threads and sockets.

        with PSServer(0, 1, config) as server:
            worker = PSWorkerClient([server.get_server_info()], config)

    Of a running server `shard_manager.get_embeddings(ids, create_if_missing=False)` gives zeros for
    ids without a row, as pulls do. The servers of larger clusters are processes of their own:
    `PSMainClient` starts them.

    Args:
        server_id: 0.
        total_servers: 1.
        config: of the cluster; its own `num_servers` and `placement` are not looked at.
        host, port: instead of `config.server_host` and `config.server_port_base`.

    Raises:
        ConfigurationError: a field of `config` is not valid, or more than one server is asked for.
    """

    def __init__(
        self,
        server_id: int,
        total_servers: int,
        config: PSConfig,
        host: str | None = None,
        port: int | None = None,
    ) -> None:
        if (server_id, total_servers) != (0, 1):
            raise ConfigurationError(
                f"PSServer(server_id={server_id!r}, total_servers={total_servers!r}): allowed is "
                "server 0 of 1; PSMainClient starts the servers of larger clusters"
            )
        given = checked_config(config, "PSServer")
        self.config = given.replace(
            num_servers=1,
            placement="local",
            server_host=given.server_host if host is None else host,
            server_port_base=given.server_port_base if port is None else port,
        )
        self._main = _OneServer(None, self.config)
        self.shard_manager = ShardManager(
            0, 1, self.config, rows=_ServedRows(self._main), weights=_ServedWeights(self._main)
        )

    def __enter__(self) -> PSServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    def start(self) -> ServerInfo:
        """Serves, until `shutdown` or the end of this process; does nothing when it does already.

        Raises:
            PSError: it cannot listen.
        """
        return self._main.start_servers()[0]

    def shutdown(self, grace_period_seconds: float = 30) -> None:
        """Ends the server; requests under way get the grace period. Rows and weights are gone."""
        self._main.shutdown_servers(grace_period_seconds)

    def get_server_info(self) -> ServerInfo | None:
        """What clients need; None before the first start."""
        infos = self._main.get_server_info()
        return infos[0] if infos else None

    def get_stats(self) -> dict[str, Any]:
        """The server's record of `PSMainClient.get_cluster_stats`."""
        stats: dict[str, Any] = self._main.get_cluster_stats()["servers"][0]
        return stats

    def is_running(self) -> bool:
        """Whether it serves."""
        info = self.get_server_info()
        return info is not None and info.status == "running"


class _OneServer(PSMainClient):
    def _new_cluster(self) -> tuple[Cluster | ExternalCluster, Credentials]:
        return make_cluster(None, self.config, _InProcess)


class _InProcess:
    """Servers in this process. See `Placement` for the methods."""

    def __init__(self, specs: Sequence[LaunchSpec]) -> None:
        self._specs = specs
        self._servers: list[tuple[_core.Server, BaseServer | None]] = []

    def start(self) -> None:
        for spec in self._specs:
            self._servers.append(start_server(spec.options, spec.credentials))

    def failures(self) -> dict[int, str]:
        return {}

    def describe_missing(self, missing: Sequence[int]) -> str:
        return "they run in this process"

    def end(self, wait_seconds: float) -> None:
        for server, endpoint in self._servers:
            server.wait_ended(wait_seconds)
            server.stop(0.0)
            if endpoint is not None:
                endpoint.shutdown()
                endpoint.server_close()
        self._servers = []


class _ServedRows:
    """Rows of a running server. See `EmbeddingStore` for the methods."""

    def __init__(self, main: PSMainClient) -> None:
        self._main = main

    def get_batch(self, token_ids: Any, create_if_missing: bool = True) -> tuple[Floats, list[Any]]:
        ids = token_ids.to_pylist() if hasattr(token_ids, "to_pylist") else list(token_ids)
        worker = self._main.worker_client()
        return worker.pull_embeddings(token_ids, create_if_missing=create_if_missing), ids

    def update_batch(self, gradients: Any) -> None:
        self._main.worker_client().push_embedding_gradients(gradients)

    def decay(self, factor: float) -> None:
        self._main.decay_embeddings("multiply", factor=factor_of(factor))

    def prune(self, min_count: float) -> int:
        result = self._main.decay_embeddings("prune", min_count=number("min_count", min_count))
        return sum(int(of["pruned"]) for of in result["results"])

    def get_stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self._main.get_cluster_stats()["servers"][0]["tables"]
        return dict(stats[DEFAULT_TABLE])

    def __len__(self) -> int:
        return int(self.get_stats()["rows"])


class _ServedWeights:
    """Dense weights of a running server. See `WeightStore` for the methods."""

    def __init__(self, main: PSMainClient) -> None:
        self._main = main

    def init_weights(
        self, name: str, shape: Sequence[int], init_strategy: str, init_scale: float
    ) -> None:
        self._main.init_weights({name: shape}, init_strategy, init_scale)

    def get_batch(self, names: Iterable[str]) -> dict[str, Floats]:
        return self._main.worker_client().pull_model(list(names))

    def get_all(self) -> dict[str, Floats]:
        return self._main.worker_client().pull_model()

    def update_batch(self, gradients: Mapping[str, ArrayLike]) -> None:
        self._main.worker_client().push_weight_gradients(gradients)

    def get_stats(self) -> dict[str, Any]:
        stats = self._main.get_cluster_stats()
        server = stats["servers"][0]
        return {
            "weights": stats["total_weights"],
            "parameters": stats["total_parameters"],
            "memory_bytes": server["weights_memory_bytes"],
        }

    def __len__(self) -> int:
        return int(self._main.get_cluster_stats()["total_weights"])
