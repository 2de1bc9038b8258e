"""The compiled training step: rows gathered, one forward and one backward pass, in one function.

A plain function of a batch, its rows and the dense weights; it knows nothing of servers or Spark.

What crosses into TensorFlow is few and large: the rows of all tables of one dim as one matrix, one
matrix of positions, the dense weights as one vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.batch_iterator import KeyBatch
from distributed_trainer.config import TrainerConfig
from distributed_trainer.errors import TrainingError
from distributed_trainer.lookups import Lookups
from distributed_trainer.tf_model_wrapper import (
    TFModelWrapper,
    assemble_inputs,
    input_names,
    matrix_input,
    takes_features_by_name,
)
from pyspark_ps.errors import ConfigurationError

_ALIGNMENT_BYTES = 64  # TensorFlow takes NumPy memory so aligned without a copy


@dataclass
class StepResult:
    """What one step yields. The arrays are read-only views of memory that is theirs alone.

    Attributes:
        loss: sum(per-sample loss x weight) / B + regularisation losses: what was differentiated.
        loss_sum: sum(per-sample loss x weight).
        weight_gradients: name -> float32 of the weight's shape; trainable weights that the loss
            depends on.
        row_gradients: table -> float32 (U, dim), aligned with `KeyBatch.keys[table]`.
        predictions: float32 (B, output_dim).
    """

    loss: float
    loss_sum: float
    weight_gradients: dict[str, NDArray[np.float32]]
    row_gradients: dict[str, NDArray[np.float32]]
    predictions: NDArray[np.float32]


class TrainingStep:
    """Compiled once per model; no new trace for a short batch. For one thread at a time.

    Args:
        wrapper: the model; it is changed in place (weights given to `train`, moving statistics).
        config: features, target, clipping.

    Raises:
        ConfigurationError: wrong input or output size (see `check_model`).
    """

    def __init__(self, wrapper: TFModelWrapper, config: TrainerConfig) -> None:
        check_model(wrapper, config)
        self._graph = _Graph(wrapper, config)
        self._wrapper = wrapper
        self._trainable = wrapper.get_trainable_names()
        shapes = wrapper.get_weight_shapes()
        self._shapes = {name: shapes[name] for name in self._trainable}
        self._tables_of_dim: dict[int, list[str]] = {}
        for table, dim in config.feature_config.get_tables().items():
            self._tables_of_dim.setdefault(dim, []).append(table)
        self._dims = sorted(self._tables_of_dim)
        self._buffers = {dim: np.empty(0, np.float32) for dim in self._dims}
        self._functions: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def train(
        self,
        batch: KeyBatch,
        rows: Mapping[str, NDArray[np.float32]],
        weights: Mapping[str, NDArray[np.float32]] | None = None,
        *,
        seed: int = 0,
    ) -> StepResult:
        """One step: forward with training=True, loss, gradients. Applies no optimizer.

        Args:
            rows: table -> float32 (U, dim) of `batch.keys`.
            weights: values to give the dense weights before the step (only those that changed);
                None or empty = as they are.
            seed: of dropout and the like (`DayPass.batch_seed`).

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        flat = self._take_weights(weights)
        function = self._function("train", flat is not None, batch)
        inputs = self._inputs(batch, rows)
        inputs.extend(self._graph.seeds(seed))
        if flat is not None:
            inputs.append(flat)
        losses, predictions, dense_gradient, *row_gradients = function(inputs)
        loss, loss_sum = _view(losses).tolist()
        result = StepResult(
            loss=loss,
            loss_sum=loss_sum,
            weight_gradients=self._split_weights(_view(dense_gradient)),
            row_gradients=self._split_rows(batch, [_view(part) for part in row_gradients]),
            predictions=_view(predictions),
        )
        if not math.isfinite(result.loss):
            raise TrainingError(
                f"the loss is {result.loss} (batch of {batch.num_rows} rows): the model has "
                "diverged; lower the learning rates, or set clipnorm and embedding_clipnorm"
            )
        return result

    def predict(
        self,
        batch: KeyBatch,
        rows: Mapping[str, NDArray[np.float32]],
        weights: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> tuple[NDArray[np.float32], float]:
        """Predictions (B, output_dim) with training=False, and sum(per-sample loss x weight).

        The second is 0 where the batch has no targets. Nothing in the model changes, except by
        `weights`.
        """
        if weights:
            self._wrapper.set_weights(weights)
        function = self._function("predict", False, batch)
        loss_sum, predictions = function(self._inputs(batch, rows))
        return _view(predictions), 0.0 if batch.targets is None else float(loss_sum)

    def _function(self, kind: str, assigns: bool, batch: KeyBatch) -> Callable[..., Any]:
        """The compiled function for batches of this structure (which features hold lists)."""
        key = (kind, assigns, tuple(sorted(batch.lists)))
        if key not in self._functions:
            self._functions[key] = self._graph.compile(kind, assigns, sorted(batch.lists))
        return self._functions[key]

    def _inputs(
        self, batch: KeyBatch, rows: Mapping[str, NDArray[np.float32]]
    ) -> list[NDArray[Any]]:
        inputs: list[NDArray[Any]] = [self._pack(dim, batch, rows) for dim in self._dims]
        inputs.extend(batch.positions[dim] for dim in self._dims)
        for name in sorted(batch.lists):
            inputs.extend(batch.lists[name])
        inputs.extend(self._graph.numbers(batch))
        return inputs

    def _pack(
        self, dim: int, batch: KeyBatch, rows: Mapping[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """The rows of all tables of a dim, one behind the other, in aligned memory."""
        tables = self._tables_of_dim[dim]
        count = sum(len(batch.keys[table]) for table in tables)
        if self._buffers[dim].size < count * dim:
            self._buffers[dim] = _aligned_floats(count * dim * 5 // 4)
        packed = self._buffers[dim][: count * dim].reshape(count, dim)
        first = 0
        for table in tables:
            last = first + len(batch.keys[table])
            packed[first:last] = rows[table]
            first = last
        return packed

    def _take_weights(
        self, weights: Mapping[str, NDArray[np.float32]] | None
    ) -> NDArray[np.float32] | None:
        """All trainable weights as one vector for the step to assign; fewer are assigned here."""
        if not weights:
            return None
        if not self._trainable or any(name not in weights for name in self._trainable):
            self._wrapper.set_weights(weights)
            return None
        others = {name: value for name, value in weights.items() if name not in self._shapes}
        if others:
            self._wrapper.set_weights(others)
        # A new array each time: TensorFlow's variables may keep its memory.
        return np.concatenate([np.ravel(weights[name]) for name in self._trainable])

    def _split_weights(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        gradients: dict[str, NDArray[np.float32]] = {}
        first = 0
        for name in self._graph.connected:
            shape = self._shapes[name]
            last = first + math.prod(shape)
            gradients[name] = flat[first:last].reshape(shape)
            first = last
        return gradients

    def _split_rows(
        self, batch: KeyBatch, gradients: list[NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        split: dict[str, NDArray[np.float32]] = {}
        for dim, gradient in zip(self._dims, gradients, strict=True):
            first = 0
            for table in self._tables_of_dim[dim]:
                last = first + len(batch.keys[table])
                split[table] = gradient[first:last]
                first = last
        return split


def _view(tensor: Any) -> NDArray[Any]:
    return np.asarray(memoryview(tensor))  # `.numpy()` would copy


def _aligned_floats(count: int) -> NDArray[np.float32]:
    raw = np.empty(count * 4 + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + count * 4].view(np.float32)


class _Graph:
    """Builds the TensorFlow functions. Their inputs, in order:

    rows (U, dim) per dim · positions (B, F) per dim · (positions, samples, shares) per list
    feature · numbers (B, dense + targets + 1 for the weight) · [multiclass: classes (B,)] ·
    [train, with random layers: seeds] · [train: all weights as one vector].

    Each array that crosses costs 40 us and a call of a `tf.function` with arrays 1 ms, so they are
    few, and the concrete function is called with tensors (0.2 ms).
    """

    def __init__(self, wrapper: TFModelWrapper, config: TrainerConfig) -> None:
        import keras
        import tensorflow as tf

        self._tf = tf
        self._config = config
        self._model = wrapper.get_model()
        self._features = sorted(config.feature_config.sparse_features)
        self._dim_of = {
            name: config.feature_config.get_embedding_dim(name) for name in self._features
        }
        self._dims = sorted(set(self._dim_of.values()))
        self._dense_names = sorted(config.feature_config.dense_features)
        self._loss = keras.losses.get(config.target_config.get_loss())
        variables = wrapper.variables()
        self._names = wrapper.get_trainable_names()
        self._variables = [variables[name] for name in self._names]
        self._seed_states = _seed_states(self._model)
        self.connected: list[str] = []  # trainable weights that the loss depends on

    def seeds(self, seed: int) -> list[NDArray[Any]]:
        """[(generators, 2) states], of each random layer its own; [] without such layers."""
        count = len(self._seed_states)
        if count == 0:
            return []
        states = np.zeros((count, 2), np.int64)
        states[:, 0] = (seed + 0x9E3779B9 * np.arange(count)) & 0x7FFFFFFF
        return [states]

    def numbers(self, batch: KeyBatch) -> list[NDArray[Any]]:
        """[dense, targets and weights side by side], and the classes of multiclass."""
        rows = batch.num_rows
        weights = batch.weights[:, None]
        targets = batch.targets
        if self._is_multiclass:
            classes = np.zeros(rows, np.int32) if targets is None else targets
            return [np.concatenate([batch.dense, weights], axis=1), classes]
        if targets is None:
            targets = np.zeros((rows, self._num_targets), np.float32)
        return [np.concatenate([batch.dense, targets, weights], axis=1)]

    def _split_numbers(self, inputs: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        """(dense, targets, weights) of what `numbers` made."""
        matrix = inputs[0]
        dense = len(self._dense_names)
        targets = inputs[1] if self._is_multiclass else matrix[:, dense:-1]
        return matrix[:, :dense], targets, matrix[:, -1]

    @property
    def _is_multiclass(self) -> bool:
        return self._config.target_config.task_type == "multiclass"

    @property
    def _num_targets(self) -> int:
        return len(self._config.target_config.target_columns)

    def compile(self, kind: str, assigns: bool, lists: list[str]) -> Callable[..., Any]:
        """One function of fixed structure and free batch size."""
        tf = self._tf
        signature = self._signature(lists)
        if kind == "train":
            if self._seed_states:
                signature.append(tf.TensorSpec((len(self._seed_states), 2), tf.int64))
            if assigns:
                signature.append(tf.TensorSpec((sum(_size(v) for v in self._variables),)))

        def run(*inputs: Any) -> Any:
            return self._train(lists, inputs) if kind == "train" else self._predict(lists, inputs)

        concrete = tf.function(
            run, input_signature=signature, autograph=False, jit_compile=False
        ).get_concrete_function()

        def call(arrays: list[NDArray[Any]]) -> Any:
            return concrete(*[tf.constant(array) for array in arrays])

        return call

    def _signature(self, lists: list[str]) -> list[Any]:
        tf = self._tf
        signature = [tf.TensorSpec((None, dim)) for dim in self._dims]
        for dim in self._dims:
            names = [name for name in self._features if self._dim_of[name] == dim]
            plain = sum(name not in lists for name in names)
            signature.append(tf.TensorSpec((None, plain), tf.int32))
        for _ in lists:
            signature.append(tf.TensorSpec((None,), tf.int32))
            signature.append(tf.TensorSpec((None,), tf.int32))
            signature.append(tf.TensorSpec((None,)))
        targets = 0 if self._is_multiclass else self._num_targets
        signature.append(tf.TensorSpec((None, len(self._dense_names) + targets + 1)))
        if self._is_multiclass:
            signature.append(tf.TensorSpec((None,), tf.int32))
        return signature

    def _train(self, lists: list[str], inputs: tuple[Any, ...]) -> Any:
        tf = self._tf
        lookups = Lookups(tf, self._features, self._dim_of, lists, inputs)
        dense, targets, weights = self._split_numbers(inputs[lookups.num_inputs :])
        self._assign(list(inputs[lookups.num_inputs + 1 + self._is_multiclass :]))
        gathered = lookups.gather()
        with tf.GradientTape() as tape:
            tape.watch(gathered)
            pieces = lookups.pieces(gathered)
            outputs = tf.cast(
                self._model(self._model_inputs(pieces, dense), training=True), tf.float32
            )
            loss_sum = tf.reduce_sum(self._loss(targets, outputs) * weights)
            loss = loss_sum / tf.cast(tf.shape(weights)[0], tf.float32)
            for extra in self._model.losses:
                loss += tf.cast(extra, tf.float32)
        values = [variable.value for variable in self._variables]
        found = tape.gradient(loss, [*values, *gathered])
        dense_gradients = self._connected_gradients(found[: len(values)])
        row_gradients = lookups.scatter(found[len(values) :])
        return (
            tf.stack([loss, loss_sum]),
            outputs,
            self._flat(dense_gradients),
            *[self._clip_rows(gradient) for gradient in row_gradients],
        )

    def _predict(self, lists: list[str], inputs: tuple[Any, ...]) -> Any:
        tf = self._tf
        lookups = Lookups(tf, self._features, self._dim_of, lists, inputs)
        dense, targets, weights = self._split_numbers(inputs[lookups.num_inputs :])
        pieces = lookups.pieces(lookups.gather())
        outputs = tf.cast(
            self._model(self._model_inputs(pieces, dense), training=False), tf.float32
        )
        return tf.reduce_sum(self._loss(targets, outputs) * weights), outputs

    def _model_inputs(self, pieces: list[tuple[list[str], Any]], dense: Any) -> Any:
        if not takes_features_by_name(self._model, [*self._features, *self._dense_names]):
            return matrix_input([piece for _, piece in pieces], dense)
        apart = {}
        for names, piece in pieces:
            dim = self._dim_of[names[0]]
            for index, name in enumerate(names):
                apart[name] = piece[:, index * dim : (index + 1) * dim]
        return assemble_inputs(self._model, apart, dense, self._dense_names)

    def _assign(self, given: list[Any]) -> None:
        """`given`: seeds where the model has random layers, then the weights' vector or nothing."""
        tf = self._tf
        if self._seed_states:
            seeds = given.pop(0)
            for index, state in enumerate(self._seed_states):
                state.assign(tf.cast(seeds[index], state.dtype))
        if given:
            parts = tf.split(given[0], [_size(variable) for variable in self._variables])
            for variable, part in zip(self._variables, parts, strict=True):
                variable.assign(tf.reshape(part, variable.shape))

    def _connected_gradients(self, found: list[Any]) -> list[Any]:
        tf = self._tf
        self.connected = [
            name for name, gradient in zip(self._names, found, strict=True) if gradient is not None
        ]
        gradients = [
            tf.cast(tf.convert_to_tensor(gradient), tf.float32)
            for gradient in found
            if gradient is not None
        ]
        if self._config.clipnorm is not None:
            gradients = [tf.clip_by_norm(g, self._config.clipnorm) for g in gradients]
        if self._config.clipvalue is not None:
            limit = self._config.clipvalue
            gradients = [tf.clip_by_value(g, -limit, limit) for g in gradients]
        return gradients

    def _flat(self, gradients: list[Any]) -> Any:
        tf = self._tf
        if not gradients:
            return tf.zeros((0,))
        return tf.concat([tf.reshape(gradient, (-1,)) for gradient in gradients], axis=0)

    def _clip_rows(self, gradient: Any) -> Any:
        if self._config.embedding_clipnorm is None:
            return gradient
        return self._tf.clip_by_norm(gradient, self._config.embedding_clipnorm, axes=[1])


def _size(variable: Any) -> int:
    return math.prod(variable.shape)


def _seed_states(model: Any) -> list[Any]:
    """States of the model's random generators: two integers each, and no weights."""
    weights = {id(variable) for variable in model.weights}
    return [
        variable
        for variable in model.variables
        if id(variable) not in weights
        and "int" in str(variable.dtype)
        and tuple(variable.shape) == (2,)
    ]


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
    pieces = {
        name: np.zeros((2, features.get_embedding_dim(name)), np.float32)
        for name in sorted(features.sparse_features)
    }
    dense = np.zeros((2, len(features.dense_features)), np.float32)
    inputs = assemble_inputs(model, pieces, dense, sorted(features.dense_features))
    try:
        outputs = model(inputs, training=False)
    except Exception as error:
        raise ConfigurationError(
            f"the model {model.name!r} does not take its input, (B, {needed}): {error}"
        ) from error
    _check_output(model, outputs, config)


def _check_matrix_input(model: Any, width: int, needed: str, names: list[str]) -> None:
    found = input_names(model)
    if len(found) > 1:
        raise ConfigurationError(
            f"the model {model.name!r} has the inputs {sorted(found)}: allowed is one input of "
            f"width {needed}, or inputs named after all features: {names}"
        )
    if not found:
        return
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 2 or shape[1] not in (None, width):
        raise ConfigurationError(
            f"the model {model.name!r} takes an input of shape {shape}; FeatureConfig yields "
            f"(B, {width}): {needed}. Use "
            "Input(shape=(feature_config.get_model_input_dim(),))"
        )


def _check_named_inputs(model: Any, config: TrainerConfig) -> None:
    features = config.feature_config
    for tensor in model.inputs:
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


_SCHEDULES: dict[int, tuple[Any, Callable[[int], float]]] = {}


def rate_scale(config: TrainerConfig, step: int) -> float:
    """learning_rate_schedule(step) / model_learning_rate; 1 without a schedule.

    For `push_gradients(..., rate_scale=)`. `step` counts the steps of the run and must not depend
    on the attempt (the driver tells each unit where it starts).
    """
    schedule = config.learning_rate_schedule
    if schedule is None:
        return 1.0
    kept = _SCHEDULES.get(id(schedule))
    if kept is None or kept[0] is not schedule:
        _SCHEDULES.clear()
        kept = _SCHEDULES[id(schedule)] = (schedule, _compiled_schedule(schedule))
    return kept[1](step) / config.model_learning_rate


def _compiled_schedule(schedule: Any) -> Callable[[int], float]:
    import keras
    import tensorflow as tf

    rates = schedule
    if isinstance(schedule, Mapping):
        try:
            rates = keras.optimizers.schedules.deserialize(dict(schedule))
        except Exception as error:
            raise ConfigurationError(
                f"TrainerConfig.learning_rate_schedule: Keras cannot rebuild it: {error}"
            ) from error
    function = tf.function(
        lambda step: tf.cast(rates(step), tf.float32),
        input_signature=[tf.TensorSpec((), tf.int64)],
        autograph=False,
    )

    def rate(step: int) -> float:
        return float(function(tf.constant(step, tf.int64)))

    return rate
