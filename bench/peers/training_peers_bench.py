"""Training samples/s against TensorFlow's own distributed and dynamic embeddings, in turns.

    python bench/peers/training_peers_bench.py tfra [--rounds 5] [--batches 96]
    python bench/peers/training_peers_bench.py strategy [--workers 1]

The work of the bars: 8 features of 200,000 ids, dim 16, Adagrad 0.05 for rows and Adam for a dense
128-64-1 network, batches of 2,048. Ours reads Parquet and counts metrics; the peers get arrays in
memory and count none. bench/peers/README.md tells how each is set up.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bench.peers.columns import save
from bench.peers.environments import PeerMissing, interpreter
from bench.peers.our_workers import OurWorkers
from bench.peers.passes import Contestant, ContestantFailed, in_turns
from bench.reporting import bar, facts, multiple
from bench.training_work import Work

BARS = {  # peer: (its name, its program, floor, aim)
    "tfra": ("tensorflow-recommenders-addons 0.8.1", "tfra_training.py", "2x", "4x"),
    "strategy": ("ParameterServerStrategy", "strategy_training.py", "1.5x", "2.5x"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=sorted(BARS))
    parser.add_argument("--workers", type=int, default=1, help="of ours and of the strategy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=96)
    options = parser.parse_args()
    name, program, floor, aim = BARS[options.peer]
    if options.peer == "tfra" and options.workers > 1:
        parser.error("--workers: tfra trains in one process")
    print(f"{facts()}: {options}")
    what = f"against {name}, {options.workers} worker{'s' * (options.workers > 1)}"
    work = Work(batches=options.batches)
    try:
        with ExitStack() as life:
            folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
            theirs = contestant(options, program, work, folder, life)
            ours = OurWorkers(work, options.workers, folder, life)
            took = in_turns(
                {"ours": ours.run, "theirs": lambda: theirs.run("pass")}, options.rounds
            )
    except (PeerMissing, ContestantFailed) as error:
        bar(what, f"not measured: {error}", floor, aim)
        return
    ratios = [t / o for t, o in zip(took["theirs"], took["ours"], strict=True)]
    ours_rate, their_rate = (work.rows / float(np.median(seconds)) for seconds in took.values())
    bar(
        what,
        f"{multiple(ratios)}; {ours_rate:,.0f} samples/s against {their_rate:,.0f}",
        floor,
        aim,
    )


def contestant(
    options: argparse.Namespace, program: str, work: Work, folder: Path, life: ExitStack
) -> Contestant:
    """The peer's process, in its own environment."""
    python = interpreter("tf216")
    columns = save(work.write(folder), folder)
    command = [str(python), f"bench/peers/{program}", str(columns)]
    command += [str(size) for size in (work.ids, work.dim, work.batch_size)]
    if options.peer == "strategy":
        command.append(str(options.workers))
    peer = Contestant(*command)
    life.callback(peer.close)
    return peer


if __name__ == "__main__":
    main()
