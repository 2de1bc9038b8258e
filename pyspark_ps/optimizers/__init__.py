"""The servers' optimizers on NumPy arrays: the same C++ code, no second implementation."""

from __future__ import annotations

from typing import Any

from pyspark_ps import _core
from pyspark_ps.errors import ConfigurationError
from pyspark_ps.optimizers.adagrad import AdagradOptimizer
from pyspark_ps.optimizers.adam import AdamOptimizer
from pyspark_ps.optimizers.base import BaseOptimizer, checked_params
from pyspark_ps.optimizers.ftrl import FTRLOptimizer
from pyspark_ps.optimizers.sgd import SGDOptimizer
from pyspark_ps.utils.validation import nearest_name

__all__ = [
    "AdagradOptimizer",
    "AdamOptimizer",
    "BaseOptimizer",
    "FTRLOptimizer",
    "SGDOptimizer",
    "create_optimizer",
]

_CLASSES: dict[str, type[BaseOptimizer]] = {
    cls.name: cls for cls in (SGDOptimizer, AdamOptimizer, AdagradOptimizer, FTRLOptimizer)
}


def create_optimizer(name: str, **kw: Any) -> BaseOptimizer:
    """An optimizer by name, in any case ("sgd", "Adam", "ADAGRAD", "ftrl").

    Args:
        name: which one.
        **kw: its hyper-parameters; those left out are as in the class's constructor.

    Raises:
        ConfigurationError: (a ValueError) an unknown name or hyper-parameter, with the nearest one,
            or a value out of range.
    """
    cls = _CLASSES.get(name.lower()) if isinstance(name, str) else None
    if cls is None:
        raise ConfigurationError(f"no optimizer {name!r}{nearest_name(name, _CLASSES)}")
    _core.optimizer_config(cls.name, checked_params(cls.name, kw))
    return cls(**kw)
