"""Day-by-day training of Keras models whose embeddings live on a parameter server.

Names are loaded when first used: importing this package imports neither TensorFlow nor pyspark.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed_trainer.batch_iterator import Batch, BatchIterator
    from distributed_trainer.config import (
        FeatureConfig,
        TargetConfig,
        TrainerConfig,
        WeightConfig,
    )
    from distributed_trainer.data_loader import (
        S3ParquetDataLoader,
        format_date_path,
        parse_date_range,
    )
    from distributed_trainer.errors import TrainingError
    from distributed_trainer.results import DayTrainingResult
    from distributed_trainer.tf_model_wrapper import TFModelWrapper
    from distributed_trainer.thread_config import (
        ThreadConfig,
        configure_threads,
        get_optimal_thread_config,
    )
    from distributed_trainer.trainer import DistributedTrainer
    from distributed_trainer.worker import WorkerTrainer, WorkerTrainingResult

_MODULES = {
    "batch_iterator": ("Batch", "BatchIterator"),
    "config": ("FeatureConfig", "TargetConfig", "TrainerConfig", "WeightConfig"),
    "data_loader": ("S3ParquetDataLoader", "format_date_path", "parse_date_range"),
    "errors": ("TrainingError",),
    "tf_model_wrapper": ("TFModelWrapper",),
    "thread_config": ("ThreadConfig", "configure_threads", "get_optimal_thread_config"),
    "results": ("DayTrainingResult",),
    "trainer": ("DistributedTrainer",),
    "worker": ("WorkerTrainer", "WorkerTrainingResult"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Batch",
    "BatchIterator",
    "DayTrainingResult",
    "DistributedTrainer",
    "FeatureConfig",
    "S3ParquetDataLoader",
    "TFModelWrapper",
    "TargetConfig",
    "ThreadConfig",
    "TrainerConfig",
    "TrainingError",
    "WeightConfig",
    "WorkerTrainer",
    "WorkerTrainingResult",
    "configure_threads",
    "format_date_path",
    "get_optimal_thread_config",
    "parse_date_range",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
