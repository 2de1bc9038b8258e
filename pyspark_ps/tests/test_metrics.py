"""Statistics and the Prometheus endpoint: they count what happened."""

from __future__ import annotations

import socket
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyspark_ps import (
    PSConfig,
    PSMainClient,
    PSWorkerClient,
    ResourceExhaustedError,
    TableConfig,
)
from pyspark_ps.server import PSServer

CONFIG = PSConfig(
    embedding_dim=4,
    num_worker_threads=2,
    tables={"clicks": TableConfig(8, "adam")},
    metrics_port=0,
)


def scrape(info):
    """{(name, other labels by their names): value} of one server's endpoint."""
    url = f"http://{info.host}:{info.metadata['metrics_port']}/metrics"
    with urllib.request.urlopen(url, timeout=30) as reply:
        text = reply.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("server") == str(info.server_id)
            samples[(sample.name, *sample.labels.values())] = sample.value
    return samples


def test_metrics_are_the_statistics_and_count_what_happened():
    with PSServer(0, 1, CONFIG, port=0) as server:
        info = server.get_server_info()
        with PSWorkerClient([info], CONFIG) as worker:
            for _ in range(3):
                worker.pull_embeddings(range(100), "clicks")
            worker.push_embedding_gradients((range(50), np.ones((50, 8))), "clicks")
            worker.pull_embeddings(["a"])
        server.shard_manager.prune_embeddings(2)
        server.shard_manager.init_weights({"w": (10, 10)})
        stats, metrics = server.get_stats(), scrape(info)
    assert metrics["ps_embeddings",] == stats["embeddings"] == 50
    assert metrics["ps_weights",] == 1
    assert metrics["ps_table_rows", "clicks"] == 50
    assert metrics["ps_table_created_total", "clicks"] == 100
    assert metrics["ps_table_pruned_total", "clicks"] == 50
    assert metrics["ps_table_pruned_total", "default"] == 1
    for part in ("values", "state", "index"):
        wanted = stats["tables"]["clicks"]["memory_bytes"][part]
        assert metrics["ps_table_memory_bytes", part, "clicks"] == wanted
    assert metrics["ps_memory_bytes",] == stats["memory_bytes"]
    assert metrics["ps_weights_memory_bytes",] >= 100 * 4 * 3  # adam: values, m, v
    assert metrics["ps_refusals_total",] == metrics["ps_errors_total",] == 0
    assert metrics["ps_requests_total",] >= stats["requests_total"]
    assert metrics["ps_bytes_received_total",] >= stats["bytes_received_total"] > 50 * 8 * 4
    assert metrics["ps_bytes_sent_total",] >= stats["bytes_sent_total"] > 300 * 8 * 4
    for kind, count in (("pull", 4), ("push", 1)):
        assert stats["latency_ms"][kind]["count"] == count
        assert metrics["ps_request_duration_seconds_count", kind] == count
        assert metrics["ps_request_duration_seconds_bucket", "+Inf", kind] == count
        latency = stats["latency_ms"][kind]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"] <= latency["max"]
        total = metrics["ps_request_duration_seconds_sum", kind]
        assert latency["max"] <= total * 1e3 * 1.001 <= latency["max"] * count * 1.01
        bounds = sorted(
            (float(labels[0]), value)
            for (name, *labels), value in metrics.items()
            if name == "ps_request_duration_seconds_bucket" and labels[1] == kind
        )
        counts = [value for _, value in bounds]
        assert counts == sorted(counts)
        assert len(bounds) == 28


def test_every_server_has_an_endpoint_and_taken_ports_move_on():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = CONFIG.replace(num_servers=2, server_port_base=0, metrics_port=port)
        with PSMainClient(None, config) as main:
            infos = main.get_server_info()
            ports = [info.metadata["metrics_port"] for info in infos]
            assert len(set(ports)) == 2
            assert all(port < each <= port + 1_000 for each in ports)
            main.worker_client().pull_embeddings(range(100))
            assert sum(scrape(info)["ps_embeddings",] for info in infos) == 100
    with pytest.raises(OSError, match="refused"):
        scrape(infos[0])


def test_there_is_no_endpoint_unless_it_is_asked_for():
    with PSServer(0, 1, CONFIG.replace(metrics_port=None), port=0) as server:
        assert server.get_server_info().metadata["metrics_port"] is None


def test_a_servers_log_names_server_request_and_table(caplog):
    config = CONFIG.replace(
        num_servers=2, server_port_base=0, metrics_port=None, max_embeddings_per_shard=20
    )
    with (
        caplog.at_level("INFO", logger="pyspark_ps.server"),
        PSMainClient(None, config) as main,
    ):
        with pytest.raises(ResourceExhaustedError):
            main.worker_client().pull_embeddings(range(1000), "clicks")
        main.decay_embeddings("prune", min_count=1)
    lines = {
        (record.levelname, record.getMessage().partition(" why=")[0]) for record in caplog.records
    }
    for server in (0, 1):
        made = f"INFO server={server} event=table_made table=clicks dim=8 optimizer=adam"
        assert ("INFO", made) in lines
        refused = [
            (level, line)
            for level, line in lines
            if f"server={server} event=request_refused request=pull" in line
        ]
        assert refused
        assert all(level == "WARNING" for level, _ in refused)
        assert any(f"server={server} event=rows_pruned pruned=0" in line for _, line in lines)
