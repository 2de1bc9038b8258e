"""Dense weights on several server processes: what is left when one of them is killed."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from pyspark_ps import PSConfig, PSConnectionError, PSMainClient, PSWorkerClient

PUSHERS = 3
NAMES = [f"layer {i}/kernel" for i in range(12)]
SHAPE = (5, 3)


def counting_config() -> PSConfig:
    """SGD at rate 1 without momentum: a gradient of ones counts down by one."""
    return PSConfig(
        num_servers=2,
        server_port_base=0,
        embedding_dim=4,
        num_worker_threads=2,
        weight_optimizer="sgd",
        optimizer_configs={"sgd": {"learning_rate": 1.0, "momentum": 0.0}},
    )


def test_kill_minus_9_of_an_owner_loses_no_acknowledged_dense_push_and_repeats_none() -> None:
    config = counting_config()
    main = PSMainClient(None, config)
    servers = main.start_servers()
    try:
        main.init_weights(dict.fromkeys(NAMES, SHAPE), "zeros")
        assert main.get_cluster_stats()["total_weights"] == len(NAMES)
        held = [server["weights"] for server in main.get_cluster_stats()["servers"]]
        assert sum(held) == len(NAMES)  # copies are not counted
        assert all(held)  # each server owns some of them
        ones = {name: np.ones(SHAPE, np.float32) for name in NAMES}
        acknowledged = [0] * PUSHERS
        failures: list[BaseException] = []
        done = threading.Event()
        some_are_in = threading.Semaphore(0)

        def push(number: int) -> None:
            try:
                with PSWorkerClient(servers, config) as worker:
                    while not done.is_set():
                        worker.push_weight_gradients(ones)
                        acknowledged[number] += 1
                        some_are_in.release()
            except BaseException as error:
                failures.append(error)
                some_are_in.release()

        pushers = [threading.Thread(target=push, args=(i,)) for i in range(PUSHERS)]
        for pusher in pushers:
            pusher.start()
        running = main._running
        assert running is not None
        for _ in range(60):
            assert some_are_in.acquire(timeout=60)
        os.kill(int(running.cluster.servers()[1]["pid"]), signal.SIGKILL)
        for _ in range(60):
            assert some_are_in.acquire(timeout=60)
        done.set()
        for pusher in pushers:
            pusher.join(timeout=60)
        assert not failures
        expected = np.full(SHAPE, -float(sum(acknowledged)), np.float32)
        with PSWorkerClient(servers, config) as late:
            for weights in (main.worker_client().pull_model(), late.pull_model()):
                assert sorted(weights) == sorted(NAMES)
                for name in NAMES:
                    np.testing.assert_array_equal(weights[name], expected, err_msg=name)
            with pytest.raises(PSConnectionError, match="server 1"):
                late.pull_embeddings(np.arange(200))
    finally:
        main.shutdown_servers(grace_period_seconds=1)


def test_one_server_has_one_copy_and_more_copies_than_servers_are_refused() -> None:
    config = counting_config()
    config.num_servers = 1
    with PSMainClient(None, config) as main:
        main.set_weights({"bias": np.arange(3.0)})
        main.worker_client().push_weight_gradients({"bias": np.ones(3)})
        assert main.worker_client().pull_model()["bias"].tolist() == [-1.0, 0.0, 1.0]
    config.weight_replicas = 3
    with pytest.raises(ValueError, match=r"PSConfig\.weight_replicas = 3: allowed is at most"):
        config.validate()
