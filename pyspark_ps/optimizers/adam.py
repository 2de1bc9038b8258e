"""Adam with decoupled weight decay."""

from __future__ import annotations

from pyspark_ps.optimizers.base import BaseOptimizer


class AdamOptimizer(BaseOptimizer):
    """Moving averages m and v with bias correction, and a step counter of each parameter's own:
    p -= learning_rate * m^ / (sqrt(v^) + epsilon) + learning_rate * weight_decay * p; amsgrad keeps
    the largest v^ (Kingma, Ba 2015; Loshchilov, Hutter 2019; Reddi, Kale, Kumar 2018).

    Raises:
        ConfigurationError: a value out of range.
    """

    name = "adam"

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
        )
