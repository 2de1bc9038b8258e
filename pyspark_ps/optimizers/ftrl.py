"""FTRL-Proximal."""

from __future__ import annotations

from pyspark_ps.optimizers.base import RowOptimizer


class FTRLOptimizer(RowOptimizer):
    """Follow the regularized leader (McMahan et al. 2013): l1 keeps values at exactly 0 until their
    gradients say enough. A parameter starts from the z that yields its value, so that pretrained
    values stay.

    Args:
        alpha: learning rate, 0.05 when neither it nor `learning_rate` is given.
        beta, l1, l2: see the formula in src/ps/optimizers/ftrl.h.
        learning_rate_power: <= 0.
        learning_rate: another name for alpha.

    Raises:
        ConfigurationError: a value out of range; alpha and learning_rate both given.
    """

    name = "ftrl"

    def __init__(
        self,
        alpha: float | None = None,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        learning_rate_power: float = -0.5,
        learning_rate: float | None = None,
    ) -> None:
        rates = {"alpha": alpha, "learning_rate": learning_rate}
        given = {name: rate for name, rate in rates.items() if rate is not None}
        super().__init__(**given, beta=beta, l1=l1, l2=l2, learning_rate_power=learning_rate_power)
