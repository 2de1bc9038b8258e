"""A training loop of one's own: NumPy only, no Spark, no TensorFlow.

    python -m pyspark_ps.examples.simple_training

Users like items; the data say who liked what. The model is the classic one: a user and an item have
an embedding each, and p(like) = sigmoid(user . item + bias). Two server processes hold the
embeddings and the bias, and apply the optimizers; this process computes gradients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient, TableConfig

DIM = 8
USERS, ITEMS = 2_000, 200
BATCH = 512
STEPS = 300


def make_batch(random: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """Users, items, and 1 where the user likes the item: those of the same taste mostly do."""
    users = (USERS * random.random(BATCH) ** 3).astype(np.int64)  # some come often, some seldom
    items = random.integers(ITEMS, size=BATCH)
    likes = (users % 4 == items % 4) ^ (random.random(BATCH) < 0.05)
    return users, items, likes.astype(np.int64)


def train_step(worker: PSWorkerClient, batch: tuple[NDArray[np.int64], ...]) -> float:
    """Pull, compute, push; the mean loss of the batch before the push."""
    users, items, likes = batch
    # Ids need no vocabulary: a row is made when it is first asked for. Repeated ids are fine.
    user_rows = worker.pull_embeddings(users, table="users")
    item_rows = worker.pull_embeddings(items, table="items")
    bias = worker.pull_model()["bias"]

    logits = (user_rows * item_rows).sum(axis=1) + bias
    likely = 1 / (1 + np.exp(-logits))
    loss = -np.log(np.where(likes == 1, likely, 1 - likely) + 1e-7).mean()

    error = (likely - likes)[:, None]
    worker.push_gradients(
        weight_gradients={"bias": error.sum(axis=0)},
        # Gradients of repeated ids are summed before the optimizer sees them.
        embedding_gradients={
            "users": (users, error * item_rows),
            "items": (items, error * user_rows),
        },
    )
    return float(loss)


def main() -> None:
    config = PSConfig(
        num_servers=2,
        embedding_init_scale=0.1,
        optimizer_configs={"adagrad": {"learning_rate": 0.2}, "adam": {"learning_rate": 0.01}},
        tables={"users": TableConfig(dim=DIM), "items": TableConfig(dim=DIM)},
    )
    random = np.random.default_rng(1)
    # The servers start with the block and end with it.
    with PSMainClient(None, config) as main_client:
        for server in main_client.get_server_info():
            print(f"server {server.server_id} at {server.address}")
        main_client.init_weights({"bias": (1,)}, init_strategy="zeros")

        with PSWorkerClient(main_client.get_server_info(), config) as worker:
            for step in range(STEPS):
                loss = train_step(worker, make_batch(random))
                if step % 50 == 0 or step == STEPS - 1:
                    print(f"step {step:4d}  loss {loss:.4f}")

        stats = main_client.get_cluster_stats()
        print(f"{stats['total_embeddings']} embeddings on {len(stats['servers'])} servers")
        pruned = main_client.decay_embeddings(method="prune", min_count=20)
        print(
            f"{sum(r['pruned'] for r in pruned['results'])} of them were seldom seen, and removed"
        )


if __name__ == "__main__":
    main()
