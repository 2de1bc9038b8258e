"""Adagrad."""

from __future__ import annotations

from pyspark_ps.optimizers.base import RowOptimizer


class AdagradOptimizer(RowOptimizer):
    """g' = g + weight_decay * p; acc += g'^2, from initial_accumulator;
    p -= learning_rate * g' / (sqrt(acc) + epsilon) (Duchi, Hazan, Singer 2011).

    Raises:
        ConfigurationError: a value out of range.
    """

    name = "adagrad"

    def __init__(
        self,
        learning_rate: float = 0.01,
        epsilon: float = 1e-10,
        initial_accumulator: float = 0.1,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            epsilon=epsilon,
            initial_accumulator=initial_accumulator,
            weight_decay=weight_decay,
        )
