"""A Keras model seen as named NumPy arrays. Imports TensorFlow when one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TFModelWrapper:
    """Weights by stable names: `<index in model.weights>/<variable name>`."""

    def __init__(self, model: Any = None, model_builder: Callable[[], Any] | None = None) -> None:
        raise NotImplementedError

    def get_model(self) -> Any:
        """The Keras model."""
        raise NotImplementedError

    def get_weights(self) -> dict[str, NDArray[Any]]:
        """All weights, trainable or not, as copies, in the model's order."""
        raise NotImplementedError

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Sets the named ones; others stay. Unknown names and wrong shapes change nothing."""
        raise NotImplementedError

    def get_weight_names(self) -> list[str]:
        """Names in the model's order."""
        raise NotImplementedError

    def get_weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape."""
        raise NotImplementedError

    def get_trainable_names(self) -> list[str]:
        """Names that the step has gradients of: what optimizers on the servers own."""
        raise NotImplementedError

    def get_moving_names(self) -> list[str]:
        """Float weights that are not trainable (BatchNorm statistics, frozen layers)."""
        raise NotImplementedError

    def get_local_names(self) -> list[str]:
        """Weights that are not float: they stay with the worker."""
        raise NotImplementedError

    def get_architecture(self) -> str:
        """The model's Keras configuration as JSON (no weights, no code).

        Raises:
            InvalidArgumentError: Keras cannot rebuild it; use `set_model_builder`.
        """
        raise NotImplementedError

    @classmethod
    def from_architecture(cls, text: str) -> TFModelWrapper:
        """A model of that architecture with fresh values."""
        raise NotImplementedError

    def predict(self, inputs: Any, batch_size: int = 1024) -> NDArray[np.float32]:
        """Model outputs (N, output_dim), training=False."""
        raise NotImplementedError
