"""The model of large clusters and the simulation on the real partition map agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench import scale_model
from bench.scale_model import (
    Costs,
    Scale,
    asked_of_a_step,
    load_balance,
    rows_balance,
    simulate,
    uses,
    waiting_seconds,
)

COSTS = Costs()
SMALL = Scale(servers=10, threads=4, workers=100, rows=1e8, lookups=4_096, steps=150.0)
LARGE = Scale(steps=40.0)


@pytest.mark.parametrize("scale", [SMALL, LARGE], ids=["10 servers", "100 servers"])
def test_the_simulation_confirms_the_model(scale: Scale) -> None:
    found = simulate(scale, COSTS, batches=32)
    utilization, waiting = waiting_seconds(scale, COSTS)
    assert 0.1 < utilization < 0.8  # where lines form and end
    assert found.distinct == pytest.approx(asked_of_a_step(scale), rel=0.02)
    assert 1.0 <= found.rows_balance <= rows_balance(scale)
    assert 1.0 <= found.load_balance <= load_balance(scale)
    assert found.utilization == pytest.approx(utilization, rel=0.02)
    assert found.waiting == pytest.approx(waiting, rel=0.2)


def test_a_partition_map_out_of_balance_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = np.asarray(scale_model._core.partition_owners(10, 150, 4_096)).copy()
    owners[owners == 9] = 0  # one server has the share of two
    monkeypatch.setattr(scale_model._core, "partition_owners", lambda *_: owners)
    found = simulate(SMALL, COSTS, batches=4, requests=100)
    assert found.rows_balance > rows_balance(SMALL)
    assert found.load_balance > load_balance(SMALL)


def test_what_saturates_is_used_up_at_the_steps_that_are_told() -> None:
    for index, use in enumerate(uses(LARGE, COSTS)):
        if not use.is_fixed:
            at_limit = replace(LARGE, steps=LARGE.steps / use.share)
            assert uses(at_limit, COSTS)[index].share == pytest.approx(1.0, rel=1e-6)


def test_more_servers_help_rows_and_not_one_dense_tensor() -> None:
    before, after = (
        {use.what: use.share for use in uses(replace(LARGE, servers=servers), COSTS)}
        for servers in (50, 100)
    )
    assert after["memory of a server"] < 0.6 * before["memory of a server"]
    dense = "network out of the largest dense tensor's server"
    assert after[dense] == before[dense]
