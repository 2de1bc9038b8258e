"""Speed along each axis, one at a time: rows, dim, batch, ids, threads, servers, clients, load.

    python bench/curves.py                  all of it, some 20 minutes   (`make bench CURVES=1`)
    python bench/curves.py --small          the same curves of few, small points, a minute
    python bench/curves.py dim clients      only these axes

Real servers on this host, pulled from and pushed to (Adagrad) by the C++ client over Unix sockets;
each point has a cluster of its own. Latency against load is open loop: requests arrive by a Poisson
process whoever is busy, and their time runs from when they were meant to start.

Writes bench/curves.svg and bench/curves.json, and prints every point.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.reporting import bar, facts
from pyspark_ps import PSConfig, PSMainClient
from pyspark_ps.client.options import client_options

ROOT = Path(__file__).parent.parent
LOAD = ROOT / "build" / "release" / "bench" / "ps_load"
FILL_KEYS = 65_536
ZIPF = 1.05


@dataclass(frozen=True)
class Point:
    """What is measured; an axis changes one of these."""

    rows: int = 1_000_000
    dim: int = 16
    batch: int = 16_384
    zipf: float = 0.0
    threads: int = 2
    servers: int = 1
    clients: int = 1
    load: float = 0.0  # of the closed loop's requests/s; 0 = the closed loop itself


@dataclass(frozen=True)
class Axis:
    """The field of a point that varies, its values, and what stays different from the usual."""

    name: str
    title: str
    values: list[Any]
    small: list[Any]
    base: Point = field(default_factory=Point)
    is_log: bool = True


AXES = [
    Axis(
        "rows",
        "rows of the table (dim 4)",
        [1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000],
        [100_000, 300_000],
        Point(dim=4),
    ),
    Axis("dim", "floats of a row", [4, 16, 64, 128], [4, 16]),
    Axis(
        "batch",
        "keys of a request",
        [256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576],
        [256, 4_096],
        Point(rows=4_000_000),
    ),
    Axis("zipf", "ids: uniform, Zipf 1.05", [0.0, ZIPF], [0.0, ZIPF], is_log=False),
    Axis("threads", "shard threads of a server", [1, 2], [1, 2], is_log=False),
    Axis("servers", "servers (1 thread each)", [1, 2, 4], [1, 2], Point(threads=1), is_log=False),
    Axis("clients", "clients", [1, 2, 4, 8], [1, 2], is_log=False),
    Axis(
        "load",
        "share of the closed loop's requests/s (256 keys, 4 clients)",
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        [0.3, 0.8],
        Point(batch=256, clients=4),
        is_log=False,
    ),
]


class Load:
    """Clients on a running cluster."""

    def __init__(self, cluster: PSMainClient, point: Point) -> None:
        options, secret = client_options(cluster.get_server_info(), cluster.config)
        self._point = point
        self._common = {"client": json.loads(options), "secret": secret.hex(), "table": 0}

    def run(self, op: str, seconds: float, rate: float = 0.0, batch: int = 0) -> dict[str, float]:
        """What ps_load found."""
        point = self._point
        work = {
            **self._common,
            "dim": point.dim,
            "rows": point.rows,
            "batch": batch or point.batch,
            "zipf": point.zipf,
            "clients": point.clients,
            "op": op,
            "seconds": seconds,
            "rate": rate,
        }
        done = subprocess.run([str(LOAD)], input=json.dumps(work), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{LOAD.name} failed: {done.stderr.strip()}")
        found: dict[str, float] = json.loads(done.stdout)
        return found


@contextmanager
def cluster_of(point: Point) -> Iterator[Load]:
    """A cluster with all rows of the point."""
    config = PSConfig(
        num_servers=point.servers,
        embedding_dim=point.dim,
        server_port_base=0,
        num_worker_threads=point.threads,
        max_embeddings_per_shard=0,
        timeout_seconds=300.0,
    )
    with PSMainClient(None, config) as cluster:
        load = Load(cluster, point)
        load.run("fill", 0.0, batch=FILL_KEYS)
        yield load


def measure(axis: Axis, values: list[Any], seconds: float) -> list[dict[str, Any]]:
    """A record for each value: the point, and what pulls and pushes did."""
    points = [replace(axis.base, **{axis.name: value}) for value in values]
    if axis.name == "load":
        return measure_load(points, seconds)
    records = []
    for point in points:
        with cluster_of(point) as load:
            found = {op: load.run(op, seconds) for op in ("pull", "push")}
        records.append({"axis": axis.name, **asdict(point), **found})
        print_record(axis, records[-1])
    return records


def measure_load(points: list[Point], seconds: float) -> list[dict[str, Any]]:
    """One cluster for all shares of what its closed loop does."""
    records = []
    with cluster_of(points[0]) as load:
        most = {op: load.run(op, seconds)["requests_per_second"] for op in ("pull", "push")}
        for point in points:
            found = {op: load.run(op, seconds, most[op] * point.load) for op in most}
            records.append({"axis": "load", **asdict(point), **found})
            print_record(next(axis for axis in AXES if axis.name == "load"), records[-1])
    return records


def print_record(axis: Axis, record: dict[str, Any]) -> None:
    parts = [
        f"{op} {found['rows_per_second'] / 1e6:.2f} M rows/s, us p50 {found['p50_us']:.0f} "
        f"p99 {found['p99_us']:.0f} p99.9 {found['p999_us']:.0f}"
        for op, found in record.items()
        if isinstance(found, dict)
    ]
    bar(f"{axis.title}: {record[axis.name]:,}", "; ".join(parts))


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """A panel for each axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = [axis for axis in AXES if any(record["axis"] == axis.name for record in records)]
    columns = min(2, len(axes))
    lines = -(-len(axes) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(6 * columns, 3.4 * lines), squeeze=False)
    for panel, axis in zip(panels.flat, axes, strict=False):
        mine = [record for record in records if record["axis"] == axis.name]
        x = [record[axis.name] for record in mine]
        if axis.name == "load":
            draw_latencies(panel, x, mine)
        else:
            draw_speeds(panel, x, mine)
        if axis.is_log:
            panel.set_xscale("log", base=10 if axis.name == "rows" else 2)
        else:
            panel.set_xticks(x)
        panel.set_xlabel(axis.title)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    for panel in panels.flat[len(axes) :]:
        panel.set_axis_off()
    figure.suptitle(facts(), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def draw_speeds(panel: Any, x: list[Any], records: list[dict[str, Any]]) -> None:
    for op, color in (("pull", "tab:blue"), ("push", "tab:orange")):
        panel.plot(
            x, [r[op]["rows_per_second"] / 1e6 for r in records], "o-", color=color, label=op
        )
    panel.set_ylim(bottom=0)
    panel.set_ylabel("million rows/s")


def draw_latencies(panel: Any, x: list[Any], records: list[dict[str, Any]]) -> None:
    for op, color in (("pull", "tab:blue"), ("push", "tab:orange")):
        for share, style in (("p50", "-"), ("p99", "--"), ("p999", ":")):
            y = [record[op][f"{share}_us"] for record in records]
            panel.plot(
                x, y, style, marker=".", color=color, label=f"{op} {share.replace('p999', 'p99.9')}"
            )
    panel.set_yscale("log")
    panel.set_ylabel("microseconds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [axis.name for axis in AXES]
    parser.add_argument("axes", nargs="*", help=f"of: {', '.join(names)} (default: all)")
    parser.add_argument("--small", action="store_true", help="few and small points, to try it out")
    parser.add_argument("--seconds", type=float, default=None, help="of each measurement")
    parser.add_argument("--folder", type=Path, default=ROOT / "bench", help="where to write")
    options = parser.parse_args()
    if unknown := set(options.axes) - set(names):
        parser.error(f"no axis {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    seconds = options.seconds or (0.3 if options.small else 4.0)
    print(facts())
    records: list[dict[str, Any]] = []
    for axis in AXES:
        if not options.axes or axis.name in options.axes:
            records += measure(axis, axis.small if options.small else axis.values, seconds)
    options.folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": facts(), "seconds": seconds, "points": records}
    (options.folder / "curves.json").write_text(json.dumps(document, indent=1) + "\n")
    draw(records, options.folder / "curves.svg")


if __name__ == "__main__":
    main()
