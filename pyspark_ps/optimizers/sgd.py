"""Stochastic gradient descent, with momentum if wanted."""

from __future__ import annotations

from pyspark_ps.optimizers.base import BaseOptimizer


class SGDOptimizer(BaseOptimizer):
    """g' = g + weight_decay * p. Without momentum p -= learning_rate * g'. With it
    v = momentum * v + (1 - dampening) * g', and p -= learning_rate * v, or of nesterov
    p -= learning_rate * (g' + momentum * v). v starts at 0 (PyTorch's form).

    Raises:
        ConfigurationError: a value out of range; nesterov without momentum or with dampening.
    """

    name = "sgd"

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        dampening: float = 0.0,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            dampening=dampening,
        )
