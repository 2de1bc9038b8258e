"""A server's Prometheus endpoint: what the C++ server counts, as text over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pyspark_ps.errors import PSError

# A taken port moves on to the next free one, as those of the servers do.
PORTS_TRIED_MAX = 1_000

_COUNTERS = {
    "requests_total": "Requests answered, errors included.",
    "errors_total": "Requests answered with an error, refusals included.",
    "refusals_total": "Requests refused by a limit.",
    "bytes_received_total": "Bytes received from clients.",
    "bytes_sent_total": "Bytes sent to clients.",
    "authentication_failures_total": "Connections that did not know the secret.",
    "bad_frames_total": "Connections closed for a frame that breaks the protocol.",
    "stalled_total": "Connections closed for moving no byte amid a request or its reply.",
}
_GAUGES = {
    "uptime_seconds": "Seconds since the server started.",
    "embeddings": "Rows of all tables.",
    "weights": "Dense tensors whose first chunk is here.",
    "memory_bytes": "Bytes of rows, index and dense tensors.",
    "weights_memory_bytes": "Bytes of dense tensors and their optimizer states.",
    "connections_open": "Connections.",
    "requests_in_flight": "Requests being received or served.",
}
_TABLE_COUNTERS = {
    "created_total": "Rows made.",
    "pruned_total": "Rows taken out by prune.",
}


class StatsCollector(Collector):
    """Turns a server's statistics into metrics, each time somebody asks.

    Args:
        read: the statistics as JSON (`_core.Server.stats`); None while there are none yet.
    """

    def __init__(self, read: Callable[[], str | None]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        text = self._read()
        if text is None:
            return
        stats: dict[str, Any] = json.loads(text)
        server = str(stats["server_id"])
        for name, help_text in _COUNTERS.items():
            yield _one(CounterMetricFamily, name, help_text, server, stats[name])
        for name, help_text in _GAUGES.items():
            yield _one(GaugeMetricFamily, name, help_text, server, stats[name])
        yield from _tables(server, stats["tables"])
        yield _latencies(server, stats["latency_seconds"])


def serve_metrics(host: str, port: int, read: Callable[[], str | None]) -> tuple[int, WSGIServer]:
    """Serves `http://host:port/metrics` from a daemon thread until this process ends.

    Args:
        host: address to bind; "" = all.
        port: the first to try; 0 = ephemeral.
        read: as `StatsCollector`.

    Returns:
        The port, and the server (`shutdown()` and `server_close()` end it).

    Raises:
        PSError: no port was free.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatsCollector(read))
    last = port if port == 0 else min(port + PORTS_TRIED_MAX, 65_535)
    for candidate in range(port, last + 1):
        server = _listen(host or "0.0.0.0", candidate, registry)
        if server is not None:
            return int(server.server_port), server
    raise PSError(f"metrics_port: no free port from {port} to {last} on {host!r}")


def _listen(host: str, port: int, registry: CollectorRegistry) -> WSGIServer | None:
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError:  # taken
        return None
    return server


def _one(family: Any, name: str, help_text: str, server: str, value: float) -> Metric:
    metric: Metric = family(f"ps_{name}", help_text, labels=["server"])
    metric.add_metric([server], value)  # type: ignore[attr-defined]
    return metric


def _tables(server: str, tables: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    labels = ["server", "table"]
    rows = GaugeMetricFamily("ps_table_rows", "Rows.", labels=labels)
    memory = GaugeMetricFamily(
        "ps_table_memory_bytes",
        "Bytes of values, optimizer state and index.",
        labels=[*labels, "part"],
    )
    for table, stats in tables.items():
        rows.add_metric([server, table], stats["rows"])
        for part, size in stats["memory_bytes"].items():
            memory.add_metric([server, table, part], size)
    yield rows
    yield memory
    for name, help_text in _TABLE_COUNTERS.items():
        counter = CounterMetricFamily(f"ps_table_{name}", help_text, labels=labels)
        for table, stats in tables.items():
            counter.add_metric([server, table], stats[name])
        yield counter


def _latencies(server: str, latencies: dict[str, dict[str, Any]]) -> Metric:
    metric = HistogramMetricFamily(
        "ps_request_duration_seconds",
        "From the arrival of a request's last frame to its answer.",
        labels=["server", "type"],
    )
    for kind, latency in latencies.items():
        buckets = [
            (repr(bound), count)
            for bound, count in zip(latency["bounds"], latency["counts"], strict=True)
        ]
        buckets.append(("+Inf", latency["count"]))
        metric.add_metric([server, kind], buckets, latency["sum"])
    return metric
