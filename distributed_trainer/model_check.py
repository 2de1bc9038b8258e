"""Whether a model fits the configuration: sizes of its inputs and outputs."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from distributed_trainer.config import TrainerConfig
from distributed_trainer.tf_model_wrapper import (
    TFModelWrapper,
    assemble_inputs,
    input_names,
    input_tensors,
    takes_features_by_name,
)
from pyspark_ps.errors import ConfigurationError


def check_model(wrapper: TFModelWrapper, config: TrainerConfig) -> None:
    """Refuses a model whose inputs or outputs do not fit the configuration; builds it if need be.

    Raises:
        ConfigurationError: names the size found, the size needed and where it comes from.
    """
    features = config.feature_config
    width = features.get_model_input_dim()
    if width == 0:
        raise ConfigurationError("FeatureConfig has no features: name sparse or dense ones")
    model = wrapper.get_model()
    needed = (
        f"{width} = {features.get_total_embedding_dim()} of the embeddings "
        f"+ {features.get_total_dense_dim()} dense features"
    )
    names = [*sorted(features.sparse_features), *sorted(features.dense_features)]
    if takes_features_by_name(model, names):
        _check_named_inputs(model, config)
    else:
        _check_matrix_input(model, width, needed, names)
    _check_output(model, _call(model, config, needed), config)


def _call(model: Any, config: TrainerConfig, needed: str) -> Any:
    """The model's outputs for two rows of zeros.

    A subclassed model that was never called says only so what it takes: the matrix is tried first,
    then a dict of the features by name.
    """
    features = config.feature_config
    pieces = {
        name: np.zeros((2, features.get_embedding_dim(name)), np.float32)
        for name in sorted(features.sparse_features)
    }
    dense_names = sorted(features.dense_features)
    dense = np.zeros((2, len(dense_names)), np.float32)
    try:
        return model(assemble_inputs(model, pieces, dense, dense_names), training=False)
    except Exception as error:
        first = error
    if not model.built and not input_names(model):
        columns = {name: dense[:, i : i + 1] for i, name in enumerate(dense_names)}
        with contextlib.suppress(Exception):
            return model({**pieces, **columns}, training=False)
    raise ConfigurationError(
        f"the model {model.name!r} takes neither a matrix (B, {needed}) nor a dict of the "
        f"features by name, {[*pieces, *dense_names]}; with the matrix: {first}"
    ) from first


def _check_matrix_input(model: Any, width: int, needed: str, names: list[str]) -> None:
    found = input_names(model)
    tensors = input_tensors(model)
    if len(found) > 1 or (found and not tensors):
        raise ConfigurationError(
            f"the model {model.name!r} has the inputs {sorted(found)}: allowed is one input of "
            f"width {needed}, or inputs named after all features: {names}"
        )
    if not found:
        return
    shape = tuple(tensors[0].shape)
    if len(shape) != 2 or shape[1] not in (None, width):
        raise ConfigurationError(
            f"the model {model.name!r} takes an input of shape {shape}; FeatureConfig yields "
            f"(B, {width}): {needed}. Use "
            "Input(shape=(feature_config.get_model_input_dim(),))"
        )


def _check_named_inputs(model: Any, config: TrainerConfig) -> None:
    features = config.feature_config
    for tensor in input_tensors(model):
        shape = tuple(tensor.shape)
        if tensor.name in features.sparse_features:
            dim = features.get_embedding_dim(tensor.name)
            allowed: list[tuple[int | None, ...]] = [(dim,), (None,)]
        else:
            allowed = [(1,), (None,), ()]
        if shape[1:] not in allowed:
            raise ConfigurationError(
                f"the model {model.name!r} takes {shape} as its input {tensor.name!r}; "
                f"FeatureConfig yields (B, {allowed[0][0]})"
            )


def _check_output(model: Any, outputs: Any, config: TrainerConfig) -> None:
    target = config.target_config
    size = target.get_output_dim()
    shape = tuple(getattr(outputs, "shape", ()))
    if shape != (2, size):
        found = f"shape {(None, *shape[1:])}" if shape else f"a {type(outputs).__name__}"
        raise ConfigurationError(
            f"the model {model.name!r} yields {found}; task_type {target.task_type!r} with "
            f"targets {target.target_columns} needs (None, {size}), activation "
            f"{target.get_output_activation()!r}"
        )
