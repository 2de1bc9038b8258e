"""What 100 servers, 1,000 workers and 10 billion rows would need, from what one server costs.

    python bench/scale_model.py                    the table of docs/scale.md, and the check
    python bench/scale_model.py --measure          costs measured here first (a minute)
    python bench/scale_model.py --servers 20 --workers 100 --rows 1e9 --steps 50

The model is sums: use of each resource by one step of one worker, and how many steps a second that
leaves. The simulation puts batches of ids on the real partition map and lets requests wait in line
at the threads of every server; it shares with the model only the costs, and checks its balance and
its waiting times. No sockets, one process.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.reporting import cpu_seconds
from pyspark_ps import PSConfig, PSMainClient, _core
from pyspark_ps.utils.sharding import PARTITION_COUNT, _partitions

VIRTUAL_NODES = 150  # the default of PSConfig.virtual_nodes_per_server
PARTITION_CAP = 1.05  # times its share: the most partitions that a server gets
KEY_BYTES, FLOAT_BYTES, HEAD_BYTES = 8, 4, 64  # of the wire; the head is a frame's and a section's


@dataclass(frozen=True)
class Costs:
    """Of one server's processor, for rows of dim 16 under Adagrad: seconds.

    Measured by `--measure` on the reference machine (2 cores); `request` is what a request costs
    beside its rows, `hop` what each shard thread beyond the first adds to it.
    """

    pulled_row: float = 52e-9
    pushed_row: float = 88e-9
    request: float = 11e-6
    hop: float = 3e-6
    dense_float: float = 2e-9  # of a dense tensor, pulled and pushed once
    row_overhead_bytes: float = 27.0  # header, index and slab space (tests/count_limits.py)


@dataclass(frozen=True)
class Scale:
    """A cluster and its work."""

    servers: int = 100
    threads: int = 8  # shard threads of a server
    workers: int = 1_000
    rows: float = 10e9
    dim: int = 16
    lookups: int = 16_384  # of a step: 8 features x 2,048 samples
    zipf: float = 1.05
    dense_floats: tuple[int, ...] = (128 * 128, 128, 128 * 64, 64, 64, 1)  # tensors of the network
    steps: float = 10.0  # a second, of each worker
    network_gbit: float = 25.0  # of each host, in each direction
    memory_gib: float = 32.0  # of a server, for rows

    @property
    def batches(self) -> float:
        """Steps a second of all workers."""
        return self.workers * self.steps


@dataclass(frozen=True)
class Use:
    """One resource: what it is used and has, in `unit`. Use grows with steps unless `is_fixed`."""

    what: str
    used: float
    has: float
    unit: str
    is_fixed: bool = False

    @property
    def share(self) -> float:
        """1 = saturated."""
        return self.used / self.has


# --- the model


def zipf_ids(random: np.random.Generator, scale: Scale, count: int) -> NDArray[np.uint64]:
    """Ids by a Zipf law over all rows: the continuous law's inverse, rounded down."""
    s = 1.0 - scale.zipf
    u = random.random(count)
    return np.floor((1.0 + u * (scale.rows**s - 1.0)) ** (1.0 / s)).astype(np.uint64)


def asked_of_a_step(scale: Scale, power: int = 1) -> float:
    """Sum over all rows of q ** power, q = the chance that a step asks for the row. With power 1:
    the rows that a step pulls and pushes (its look-ups without repetition, the client's part).

    A row with share p of the look-ups is among n of them with q = 1 - (1 - p)^n; the sum over ranks
    is an integral in the logarithm of the rank.
    """
    ranks = np.exp(np.linspace(0.0, np.log(scale.rows), 20_001))
    s = 1.0 - scale.zipf
    share = ranks**-scale.zipf * s / (scale.rows**s - 1.0)
    asked = -np.expm1(scale.lookups * np.log1p(-share))
    return float(np.trapezoid(asked**power * ranks, np.log(ranks)))


def rows_balance(scale: Scale) -> float:
    """Rows of the fullest server over the mean: the cap on its partitions, whole ones."""
    mean = PARTITION_COUNT / scale.servers
    return float(np.ceil(PARTITION_CAP * mean) / mean)


def load_balance(scale: Scale) -> float:
    """Rows asked of the busiest server over the mean, at most: to its partitions comes the luck of
    which frequent rows they hold, the largest of `servers` draws of that sum's deviation."""
    mean = asked_of_a_step(scale) / scale.servers
    deviation = np.sqrt(asked_of_a_step(scale, power=2) / scale.servers)
    return float(rows_balance(scale) + np.sqrt(2 * np.log(scale.servers)) * deviation / mean)


def service_seconds(scale: Scale, costs: Costs, rows: float, row_cost: float) -> float:
    """Of a request's part at one shard thread, `rows` of it."""
    shared = (costs.request + costs.hop * (scale.threads - 1)) / scale.threads
    return shared + rows * row_cost


def uses(scale: Scale, costs: Costs) -> list[Use]:
    """Every resource, of the busiest host of its kind."""
    most = load_balance(scale)
    rows = asked_of_a_step(scale)  # of a step, over all servers
    rows_of_server = rows / scale.servers * most * scale.batches
    row_bytes = scale.dim * FLOAT_BYTES
    requests = scale.batches  # of each kind at each server: a step asks all servers
    stored = 2 * row_bytes + costs.row_overhead_bytes
    threads_busy = scale.threads * sum(
        requests * service_seconds(scale, costs, rows_of_server / requests / scale.threads, cost)
        for cost in (costs.pulled_row, costs.pushed_row)
    )
    link = scale.network_gbit / 8 * 1e9
    pushed = rows_of_server * (KEY_BYTES + row_bytes) + requests * HEAD_BYTES
    asked = rows_of_server * KEY_BYTES + requests * HEAD_BYTES
    dense = max(scale.dense_floats) * FLOAT_BYTES * scale.batches
    of_worker = (rows * row_bytes + sum(scale.dense_floats) * FLOAT_BYTES) * scale.steps
    return [
        Use(
            "memory of a server",
            scale.rows / scale.servers * rows_balance(scale) * stored / 2**30,
            scale.memory_gib,
            "GiB",
            is_fixed=True,
        ),
        Use("processors of a server", threads_busy, float(scale.threads), "threads"),
        Use(
            "shard thread of the largest dense tensor",
            threads_busy / scale.threads
            + max(scale.dense_floats) * costs.dense_float * scale.batches,
            1.0,
            "threads",
        ),
        Use("network into a server", (pushed + asked) / 1e9, link / 1e9, "GB/s"),
        Use("network out of a server", rows_of_server * row_bytes / 1e9, link / 1e9, "GB/s"),
        Use("network out of the largest dense tensor's server", dense / 1e9, link / 1e9, "GB/s"),
        Use("network into a worker", of_worker / 1e9, link / 1e9, "GB/s"),
    ]


def waiting_seconds(scale: Scale, costs: Costs) -> tuple[float, float]:
    """(utilization, mean time in line) of a shard thread with its mean share of rows.

    Pollaczek and Khinchine for Poisson arrivals: W = rate * E[S^2] / (2 (1 - utilization)).
    """
    rows = asked_of_a_step(scale) / scale.servers / scale.threads
    services = np.array(
        [service_seconds(scale, costs, rows, c) for c in (costs.pulled_row, costs.pushed_row)]
    )
    rate = 2 * scale.batches
    utilization = rate * services.mean()
    if utilization >= 1:
        return float(utilization), float("inf")
    return float(utilization), float(rate * np.mean(services**2) / (2 * (1 - utilization)))


# --- the simulation


@dataclass(frozen=True)
class Simulated:
    """What the simulation found."""

    rows_balance: float  # partitions of the fullest server over the mean
    load_balance: float  # rows asked of the busiest server over the mean
    distinct: float  # rows of a step
    utilization: float  # mean over all threads
    waiting: float  # mean seconds in line, over all threads and requests
    step_p50: float  # seconds until the last server has answered a request of a step
    step_p99: float


def simulate(scale: Scale, costs: Costs, batches: int = 64, requests: int = 40_000) -> Simulated:
    """Real placement of `batches` drawn batches, then `requests` requests that wait in line."""
    random = np.random.default_rng(5)
    owners = np.asarray(_core.partition_owners(scale.servers, VIRTUAL_NODES, PARTITION_COUNT))
    queues = scale.servers * scale.threads
    queue_of_partition = owners * scale.threads + turn_in_server(owners) % scale.threads
    rows = np.zeros((batches, queues))
    for number in range(batches):
        keys = np.unique(zipf_ids(random, scale, scale.lookups))
        places = queue_of_partition[_partitions("default", keys)]
        rows[number] = np.bincount(places, minlength=queues)
    of_server = rows.sum(0).reshape(scale.servers, scale.threads).sum(1)
    in_line, services, latest = line_up(scale, costs, rows, requests, random)
    rate = 2 * scale.batches
    return Simulated(
        rows_balance=float(np.bincount(owners).max() / (PARTITION_COUNT / scale.servers)),
        load_balance=float(of_server.max() / of_server.mean()),
        distinct=float(rows.sum() / batches),
        utilization=float(rate * services),
        waiting=float(in_line),
        step_p50=float(np.quantile(latest, 0.5)),
        step_p99=float(np.quantile(latest, 0.99)),
    )


def turn_in_server(owners: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Of each partition, how many of its server come before it: shards get theirs in turn."""
    turn = np.zeros(len(owners), np.intp)
    for server in np.unique(owners):
        (mine,) = np.nonzero(owners == server)
        turn[mine] = np.arange(len(mine))
    return turn


def line_up(
    scale: Scale,
    costs: Costs,
    rows: NDArray[np.float64],
    requests: int,
    random: np.random.Generator,
) -> tuple[float, float, NDArray[np.float64]]:
    """(mean time in line, mean service, each request's time until its last part is done).

    Every request has a part at every queue. Lindley: who arrives waits for what the one before
    waited and took, less the time between the two. The first half fills the lines.
    """
    fixed = service_seconds(scale, costs, 0.0, 0.0)
    services = [fixed + rows * cost for cost in (costs.pulled_row, costs.pushed_row)]
    waiting = np.zeros(rows.shape[1])
    total_waiting = total_service = 0.0
    latest = []
    for number in range(requests):
        service = services[random.integers(2)][random.integers(len(rows))]
        if number >= requests // 2:
            total_waiting += waiting.mean()
            total_service += service.mean()
            latest.append((waiting + service).max())
        gap = random.exponential(1 / (2 * scale.batches))
        waiting = np.maximum(0.0, waiting + service - gap)
    return total_waiting / len(latest), total_service / len(latest), np.array(latest)


# --- costs, measured


def measure() -> Costs:
    """On this machine: a line through requests of 16 and of 16,384 rows, one and two threads."""
    from bench.curves import Point, cluster_of

    usual = Costs()
    found: dict[tuple[str, int, int], float] = {}
    for threads in (1, 2):
        for batch in (16, 16_384):
            point = Point(threads=threads, batch=batch)
            with cluster_of(point) as load:
                for op in ("pull", "push"):
                    _, before = cpu_seconds()
                    requests = load.run(op, 2.0)["requests"]
                    _, after = cpu_seconds()
                    found[op, threads, batch] = (after - before) / requests
    row = {op: (found[op, 1, 16_384] - found[op, 1, 16]) / (16_384 - 16) for op in ("pull", "push")}
    request = (found["pull", 1, 16] + found["push", 1, 16]) / 2 - 16 * sum(row.values()) / 2
    two = (found["pull", 2, 16] + found["push", 2, 16]) / 2 - 16 * sum(row.values()) / 2
    return replace(
        usual,
        pulled_row=row["pull"],
        pushed_row=row["push"],
        request=request,
        hop=max(0.0, two - request),
        dense_float=measure_dense(),
    )


def measure_dense(floats: int = 128 * 128, steps: int = 3_000) -> float:
    """Server seconds for a float of a dense tensor that is pushed and pulled in turn."""
    config = PSConfig(num_servers=1, server_port_base=0, num_worker_threads=1)
    spent = []
    with PSMainClient(None, config) as cluster:
        worker = cluster.worker_client()
        for size in (1, floats):
            name, gradient = f"dense {size}", np.full(size, 1e-3, np.float32)
            worker.define_weights({name: np.zeros(size, np.float32)})
            _, before = cpu_seconds()
            for _ in range(steps):
                worker.push_weight_gradients({name: gradient})
                worker.pull_model([name])
            spent.append((cpu_seconds()[1] - before) / steps)
    return (spent[1] - spent[0]) / floats


# --- the report


def report(scale: Scale, costs: Costs) -> None:
    found = uses(scale, costs)
    rows = asked_of_a_step(scale)
    print(
        f"{scale.servers} servers x {scale.threads} threads, {scale.workers:,} workers, "
        f"{scale.rows:,.0f} rows of dim {scale.dim}; {scale.steps:g} steps/s a worker, "
        f"{scale.lookups:,} look-ups each, {rows:,.0f} distinct (Zipf {scale.zipf})"
    )
    print(
        f"rows/s pulled and pushed: {rows * scale.batches / 1e6:,.0f} M in all; requests/s at each "
        f"server: {2 * scale.batches:,.0f}, of {rows / scale.servers:,.0f} rows"
    )
    print("\n| | used | has | saturates at, steps/s a worker |\n|---|---|---|---|")
    for use in found:
        limit = "" if use.is_fixed else f"{scale.steps / use.share:,.0f}"
        print(f"| {use.what} | {use.used:.2f} {use.unit} | {use.has:.2f} | {limit} |")
    moving = [use for use in found if not use.is_fixed]
    first = max(moving, key=lambda use: use.share)
    print(
        f"\nfirst to saturate: {first.what}, at {scale.steps / first.share:,.0f} steps/s a worker"
    )
    utilization, waiting = waiting_seconds(scale, costs)
    checked = simulate(scale, costs)
    print("\n| | model | simulation |\n|---|---|---|")
    print(f"| distinct rows of a step | {rows:,.0f} | {checked.distinct:,.0f} |")
    print(
        f"| rows of the fullest server over the mean | {rows_balance(scale):.3f} (the most) | "
        f"{checked.rows_balance:.3f} |"
    )
    print(
        "| rows asked of the busiest server over the mean | "
        f"{load_balance(scale):.3f} (the most) | {checked.load_balance:.3f} |"
    )
    print(f"| utilization of a shard thread | {utilization:.1%} | {checked.utilization:.1%} |")
    print(f"| mean time in line | {waiting * 1e6:.1f} us | {checked.waiting * 1e6:.1f} us |")
    print(
        f"| a request of a step until the last server is done, p50 / p99 | | "
        f"{checked.step_p50 * 1e6:.0f} / {checked.step_p99 * 1e6:.0f} us |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Scale()
    for name in ("servers", "threads", "workers", "dim", "lookups"):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name))
    for name in ("rows", "zipf", "steps", "network_gbit", "memory_gib"):
        parser.add_argument(f"--{name}", type=float, default=getattr(usual, name))
    parser.add_argument("--measure", action="store_true", help="the costs on this machine first")
    options = vars(parser.parse_args())
    costs = Costs()
    if options.pop("measure"):
        costs = measure()
        print(f"{costs}\n")
    report(Scale(**options), costs)


if __name__ == "__main__":
    main()
