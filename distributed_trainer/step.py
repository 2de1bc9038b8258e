"""The compiled training step: rows gathered, one forward and one backward pass.

A plain function of a batch, its rows and the dense weights; it knows nothing of servers or Spark.
The model's input is put together, and the gradient of the rows added up, by `Lookups`, outside of
TensorFlow; in between stands one compiled function. What crosses into it is few and large: each
array costs 40 us, and a concrete function is called with tensors in 0.2 ms (with arrays in 1 ms).
Only that function changes or reads the model, so what stands before and behind it can be done by
another thread for other batches meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.config import TrainerConfig
from distributed_trainer.errors import DivergedError
from distributed_trainer.key_batch import KeyBatch
from distributed_trainer.lookups import Lookups, aligned_floats, clip_rows, is_aligned
from distributed_trainer.model_check import check_model
from distributed_trainer.tf_model_wrapper import (
    TFModelWrapper,
    named_inputs,
    takes_features_by_name,
)


@dataclass
class StepResult:
    """What one step yields. The arrays are views of memory that is theirs alone.

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


@dataclass
class PreparedBatch:
    """A batch put together for `TrainingStep.compute`, which uses it up.

    Attributes:
        matrix: the memory of the model's input, borrowed of `Lookups`.
        inputs: tensors, as the compiled function takes them.
        weights: values that `compute` has to give the model itself; None = none, or all of them
            are among the inputs (`assigns`).
    """

    batch: KeyBatch
    matrix: NDArray[np.float32]
    inputs: list[Any]
    weights: Mapping[str, NDArray[np.float32]] | None
    assigns: bool


@dataclass
class ComputedBatch:
    """What the compiled function yields. The arrays are views of memory that is theirs alone.

    Attributes:
        loss, loss_sum, predictions: as in `StepResult`.
        weight_gradient: of all trainable weights that the loss depends on, one behind the other.
        input_gradient: float32 (B, width); None of a model without sparse features.
    """

    batch: KeyBatch
    loss: float
    loss_sum: float
    predictions: NDArray[np.float32]
    weight_gradient: NDArray[np.float32]
    input_gradient: NDArray[np.float32] | None


class TrainingStep:
    """Compiled once per model; no new trace for a short batch.

    `train` is `prepare`, `compute` and `finish` in one. `compute` and `predict` are for one thread
    at a time, and change the model; `prepare` and `finish` may run beside them in another thread.

    Args:
        wrapper: the model; it is changed in place (weights given to `train`, moving statistics).
        config: features, target, clipping.

    Raises:
        ConfigurationError: wrong input or output size (see `check_model`).
    """

    def __init__(self, wrapper: TFModelWrapper, config: TrainerConfig) -> None:
        check_model(wrapper, config)
        self._lookups = Lookups(config.feature_config)
        self._graph = _Graph(wrapper, config, self._lookups)
        self._wrapper = wrapper
        shapes = wrapper.get_weight_shapes()
        self._shapes = {name: shapes[name] for name in wrapper.get_trainable_names()}
        self._row_norm_max = config.embedding_clipnorm
        self._functions: dict[tuple[str, bool], Callable[..., Any]] = {}

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
            DivergedError: the loss is NaN or infinite.
        """
        return self.finish(self.compute(self.prepare(batch, rows, weights, seed=seed)))

    def prepare(
        self,
        batch: KeyBatch,
        rows: Mapping[str, NDArray[np.float32]],
        weights: Mapping[str, NDArray[np.float32]] | None = None,
        *,
        seed: int = 0,
    ) -> PreparedBatch:
        """Puts together what the compiled function takes; arguments as of `train`."""
        matrix = self._lookups.gather(batch, rows)
        arrays = [matrix, *self._graph.labels(batch), *self._graph.seeds(seed)]
        flat = self._flat_weights(weights)
        if flat is not None:
            arrays.append(flat)
            weights = {n: value for n, value in (weights or {}).items() if n not in self._shapes}
        return PreparedBatch(
            batch=batch,
            matrix=matrix,
            inputs=[self._graph.tensor(array) for array in arrays],
            weights=weights or None,
            assigns=flat is not None,
        )

    def compute(self, prepared: PreparedBatch) -> ComputedBatch:
        """Forward with training=True, loss, gradients.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        if prepared.weights:
            self._wrapper.set_weights(prepared.weights)
        function = self._function("train", prepared.assigns)
        losses, *results = map(_view, function(*prepared.inputs))
        predictions, weight_gradient, *input_gradient = results
        prepared.inputs.clear()
        self._lookups.give_back(prepared.matrix, *results)
        loss, loss_sum = losses.tolist()
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} (batch of {prepared.batch.num_rows} rows): the model has "
                "diverged; lower the learning rates, or set clipnorm and embedding_clipnorm"
            )
        return ComputedBatch(
            batch=prepared.batch,
            loss=loss,
            loss_sum=loss_sum,
            predictions=predictions,
            weight_gradient=weight_gradient,
            input_gradient=input_gradient[0] if input_gradient else None,
        )

    def finish(self, computed: ComputedBatch) -> StepResult:
        """Adds up the gradients of the rows, and gives those of the weights their shapes."""
        return StepResult(
            loss=computed.loss,
            loss_sum=computed.loss_sum,
            weight_gradients=self._split_weights(computed.weight_gradient),
            row_gradients=self._row_gradients(computed.batch, computed.input_gradient),
            predictions=computed.predictions,
        )

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
        function = self._function("predict", False)
        matrix = self._lookups.gather(batch, rows)
        inputs = [self._graph.tensor(array) for array in (matrix, *self._graph.labels(batch))]
        loss_sum, predictions = map(_view, function(*inputs))
        del inputs
        self._lookups.give_back(matrix, predictions)
        return predictions, 0.0 if batch.targets is None else float(loss_sum)

    def _function(self, kind: str, assigns: bool) -> Callable[..., Any]:
        if (kind, assigns) not in self._functions:
            self._functions[kind, assigns] = self._graph.compile(kind, assigns)
        return self._functions[kind, assigns]

    def _flat_weights(
        self, weights: Mapping[str, NDArray[np.float32]] | None
    ) -> NDArray[np.float32] | None:
        """All trainable weights as one vector for the function to assign; None where some lack."""
        if not weights or not self._shapes or any(name not in weights for name in self._shapes):
            return None
        # New memory each time: TensorFlow's variables may keep it.
        flat = aligned_floats(sum(math.prod(shape) for shape in self._shapes.values()))
        return np.concatenate([np.ravel(weights[name]) for name in self._shapes], out=flat)

    def _split_weights(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        gradients: dict[str, NDArray[np.float32]] = {}
        first = 0
        for name in self._graph.connected:
            shape = self._shapes[name]
            last = first + math.prod(shape)
            gradients[name] = flat[first:last].reshape(shape)
            first = last
        return gradients

    def _row_gradients(
        self, batch: KeyBatch, input_gradient: NDArray[np.float32] | None
    ) -> dict[str, NDArray[np.float32]]:
        if input_gradient is None:
            return {}
        gradients = self._lookups.sum_gradients(batch, input_gradient)
        if self._row_norm_max is not None:
            for gradient in gradients.values():
                clip_rows(gradient, self._row_norm_max)
        return gradients


def _view(tensor: Any) -> NDArray[Any]:
    return np.asarray(memoryview(tensor))  # `.numpy()` would copy


class _Graph:
    """Builds the TensorFlow functions. Their inputs, in order:

    matrix (B, width), as `Lookups` makes it · labels (B, targets + 1 for the weight) ·
    [multiclass: classes (B,)] · [train, with random layers: seeds] · [train: all weights as one
    vector].
    """

    def __init__(self, wrapper: TFModelWrapper, config: TrainerConfig, lookups: Lookups) -> None:
        import keras
        import tensorflow as tf

        self._tf = tf
        self._config = config
        self._model = wrapper.get_model()
        self._widths = lookups.widths
        self._width = sum(lookups.widths.values())
        self._has_rows = lookups.embedding_width > 0
        self._by_name = takes_features_by_name(self._model, list(self._widths))
        self._loss = keras.losses.get(config.target_config.get_loss())
        self._is_multiclass = config.target_config.task_type == "multiclass"
        self._num_labels = (
            0 if self._is_multiclass else len(config.target_config.target_columns)
        ) + 1
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

    def labels(self, batch: KeyBatch) -> list[NDArray[Any]]:
        """[targets and weights side by side], and the classes of multiclass; 0 where not known."""
        weights = batch.weights[:, None]
        if self._is_multiclass:
            unknown = np.zeros(batch.num_rows, np.int32)
            return [weights, unknown if batch.targets is None else batch.targets]
        targets = batch.targets
        if targets is None:
            targets = np.zeros((batch.num_rows, self._num_labels - 1), np.float32)
        return [np.concatenate([targets, weights], axis=1)]

    def compile(self, kind: str, assigns: bool) -> Callable[..., Any]:
        """One function of fixed structure and free batch size."""
        tf = self._tf
        signature = [tf.TensorSpec((None, self._width)), tf.TensorSpec((None, self._num_labels))]
        if self._is_multiclass:
            signature.append(tf.TensorSpec((None,), tf.int32))
        if kind == "train" and self._seed_states:
            signature.append(tf.TensorSpec((len(self._seed_states), 2), tf.int64))
        if assigns:
            signature.append(tf.TensorSpec((sum(_size(v) for v in self._variables),)))

        def run(*inputs: Any) -> Any:
            return self._train(*inputs) if kind == "train" else self._predict(*inputs)

        compiled: Callable[..., Any] = tf.function(
            run, input_signature=signature, autograph=False, jit_compile=False
        ).get_concrete_function()
        return compiled

    def tensor(self, array: NDArray[Any]) -> Any:
        """Aligned memory as it is; else a copy (1 MB: 60 us, 0.4 ms when its pages are new)."""
        if is_aligned(array):
            return self._tf.experimental.dlpack.from_dlpack(array.__dlpack__())
        return self._tf.constant(array)

    def _train(self, matrix: Any, labels: Any, *others: Any) -> Any:
        tf = self._tf
        given = list(others)
        targets = given.pop(0) if self._is_multiclass else labels[:, :-1]
        self._assign(given)
        with tf.GradientTape() as tape:
            if self._has_rows:
                tape.watch(matrix)
            outputs = self._outputs(matrix, training=True)
            loss_sum = tf.reduce_sum(self._loss(targets, outputs) * labels[:, -1])
            loss = loss_sum / tf.cast(tf.shape(labels)[0], tf.float32)
            for extra in self._model.losses:
                loss += tf.cast(extra, tf.float32)
        sources = [variable.value for variable in self._variables]
        found = tape.gradient(loss, [*sources, matrix] if self._has_rows else sources)
        results = [tf.stack([loss, loss_sum]), outputs, self._flat_gradients(found[: len(sources)])]
        if self._has_rows:
            results.append(tf.zeros_like(matrix) if found[-1] is None else found[-1])
        return results

    def _predict(self, matrix: Any, labels: Any, *others: Any) -> Any:
        targets = others[0] if self._is_multiclass else labels[:, :-1]
        outputs = self._outputs(matrix, training=False)
        return self._tf.reduce_sum(self._loss(targets, outputs) * labels[:, -1]), outputs

    def _outputs(self, matrix: Any, training: bool) -> Any:
        inputs = matrix
        if self._by_name:
            pieces = self._tf.split(matrix, list(self._widths.values()), axis=1)
            inputs = named_inputs(self._model, dict(zip(self._widths, pieces, strict=True)))
        return self._tf.cast(self._model(inputs, training=training), self._tf.float32)

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

    def _flat_gradients(self, found: list[Any]) -> Any:
        """The gradients of the dense weights, clipped, as one vector; fills `connected`."""
        tf = self._tf
        named = [(n, g) for n, g in zip(self._names, found, strict=True) if g is not None]
        self.connected = [name for name, _ in named]
        gradients = [tf.cast(tf.convert_to_tensor(gradient), tf.float32) for _, gradient in named]
        if self._config.clipnorm is not None:
            gradients = [tf.clip_by_norm(g, self._config.clipnorm) for g in gradients]
        if self._config.clipvalue is not None:
            limit = self._config.clipvalue
            gradients = [tf.clip_by_value(g, -limit, limit) for g in gradients]
        flat = [tf.reshape(gradient, (-1,)) for gradient in gradients]
        return tf.concat(flat, axis=0) if flat else tf.zeros((0,))


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
