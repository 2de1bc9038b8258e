"""A Keras model seen as named NumPy arrays. Imports TensorFlow when one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyspark_ps.errors import ConfigurationError, InvalidArgumentError, NotFoundError, StorageError
from pyspark_ps.utils.validation import nearest_name

_FLOATS = ("float16", "bfloat16", "float32", "float64")


class TFModelWrapper:
    """Weights by stable names: `<index in model.weights>/<variable name>`.

    Keras' own paths change with each rebuild; these do not, and they are unique.

    Args:
        model: a Keras model. A model that is not built yet has no weights: build it first, or let
            `build` do it.
        model_builder: makes the model; one of the two must be given.

    Raises:
        InvalidArgumentError: neither or both are given, or the builder returns no Keras model.
    """

    def __init__(self, model: Any = None, model_builder: Callable[[], Any] | None = None) -> None:
        import keras

        if (model is None) == (model_builder is None):
            raise InvalidArgumentError(
                "TFModelWrapper: give a model or a model_builder, one of them"
            )
        if model_builder is not None:
            model = model_builder()
        if not isinstance(model, keras.Model):
            raise InvalidArgumentError(
                f"TFModelWrapper: {type(model).__name__} is no Keras model"
                + ("; the builder must return one" if model_builder is not None else "")
            )
        self._model = model
        self._builder = model_builder

    def get_model(self) -> Any:
        """The Keras model itself."""
        return self._model

    def build(self, input_dim: int) -> None:
        """Makes the weights of a model that was written without an input shape."""
        if not self._model.built or not self._model.weights:
            self._model(np.zeros((1, input_dim), np.float32), training=False)

    # ---- names and values
    def variables(self) -> dict[str, Any]:
        """name -> Keras variable, in the model's order."""
        return {
            f"{index}/{variable.name}": variable
            for index, variable in enumerate(self._model.weights)
        }

    def get_weights(self) -> dict[str, NDArray[Any]]:
        """All weights, trainable or not, as copies, in the model's order."""
        return {name: np.array(value.numpy()) for name, value in self.variables().items()}

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Sets the named ones; others stay.

        Raises:
            NotFoundError: an unknown name. InvalidArgumentError: a wrong shape. Nothing changes.
        """
        variables = self.variables()
        for name, value in weights.items():
            if name not in variables:
                raise NotFoundError(
                    f"the model has no weight {name!r}{nearest_name(name, variables)}"
                )
            shape = tuple(variables[name].shape)
            if np.shape(value) != shape:
                raise InvalidArgumentError(
                    f"weight {name!r} has the shape {shape}, not {np.shape(value)}"
                )
        for name, value in weights.items():
            variables[name].assign(np.array(value))  # a copy: TensorFlow may keep the array
        if weights:
            self._finalize_layers()

    def _finalize_layers(self) -> None:
        """Layers that compute with constants made of their weights (Normalization) make them anew.

        What is compiled keeps the old ones: set such weights before the first step.
        """
        for layer in self._model._flatten_layers(include_self=False):
            if hasattr(layer, "finalize_state"):
                layer.finalize_state()

    def get_weight_names(self) -> list[str]:
        """Names in the model's order."""
        return list(self.variables())

    def get_weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape."""
        return {name: tuple(value.shape) for name, value in self.variables().items()}

    def get_trainable_names(self) -> list[str]:
        """Names of what the step differentiates and optimizers on the servers change."""
        trainable = {id(variable) for variable in self._model.trainable_variables}
        return [name for name, value in self.variables().items() if id(value) in trainable]

    def get_moving_names(self) -> list[str]:
        """Float weights that are not trainable: BatchNorm statistics, frozen layers."""
        trainable = set(self.get_trainable_names())
        return [
            name
            for name, value in self.variables().items()
            if name not in trainable and _is_float(value)
        ]

    def get_local_weights(self) -> dict[str, NDArray[Any]]:
        """Copies of the weights that are not float (counters): servers do not hold these."""
        return {
            name: np.array(value.numpy())
            for name, value in self.variables().items()
            if not _is_float(value)
        }

    # ---- architecture
    def get_architecture(self) -> str:
        """The model's Keras configuration as JSON: no weights, no code.

        Raises:
            InvalidArgumentError: Keras cannot rebuild it; use `set_model_builder`.
        """
        import keras

        try:
            text: str = self._model.to_json()
            rebuilt = keras.models.model_from_json(text)
        except Exception as error:
            raise InvalidArgumentError(_cannot_rebuild(self._model, error)) from error
        shapes = [tuple(weight.shape) for weight in rebuilt.weights]
        if shapes != list(self.get_weight_shapes().values()):
            raise InvalidArgumentError(
                _cannot_rebuild(self._model, "its weights come out otherwise")
            )
        return text

    @classmethod
    def from_architecture(cls, text: str) -> TFModelWrapper:
        """A model of that architecture with fresh values.

        Raises:
            InvalidArgumentError: no architecture, or one that names unknown classes.
        """
        import keras

        try:
            return cls(keras.models.model_from_json(text))
        except InvalidArgumentError:
            raise
        except Exception as error:
            raise InvalidArgumentError(
                f"Keras cannot build a model from this configuration: {error}; its custom classes "
                "must be imported and registered (keras.saving.register_keras_serializable)"
            ) from error

    def save_architecture(self, path: str) -> None:
        """Writes `get_architecture` to a local file.

        Raises:
            StorageError: the file cannot be written.
        """
        text = self.get_architecture()
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {path!r}: {error}") from error

    @classmethod
    def load_architecture(cls, path: str) -> TFModelWrapper:
        """The model whose architecture was saved at `path`, with fresh values.

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot read {path!r}: {error}") from error
        return cls.from_architecture(text)

    def clone_architecture(self) -> TFModelWrapper:
        """A model of the same shape with fresh values."""
        if self._builder is not None:
            return TFModelWrapper(model_builder=self._builder)
        return TFModelWrapper.from_architecture(self.get_architecture())

    # ---- gradients and predictions of arrays in memory
    def compute_gradients(
        self,
        inputs: Any,
        targets: NDArray[Any],
        loss_fn: Any = None,
        sample_weights: NDArray[Any] | None = None,
    ) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """One forward (training=True) and one backward pass.

        Args:
            inputs: what the model takes.
            loss_fn: a Keras loss, its name, or a callable (targets, outputs) -> per-sample losses
                (or a scalar). None = the model's own where it is compiled, else by its last
                activation: sigmoid, softmax, linear.
            sample_weights: (B,).

        Returns:
            (sum(loss x weight) / B + the model's regularisation losses, {name: gradient}); weights
            that the loss does not depend on are left out.
        """
        loss, weight_gradients, _ = self._gradients(inputs, {}, targets, loss_fn, sample_weights)
        return loss, weight_gradients

    def compute_gradients_with_embeddings(
        self,
        embeddings: Mapping[str, NDArray[np.float32]],
        dense: NDArray[np.float32] | None,
        targets: NDArray[Any],
        loss_fn: Any = None,
        sample_weights: NDArray[Any] | None = None,
    ) -> tuple[float, dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        """As `compute_gradients`, with the gradients of the embeddings as well.

        Args:
            embeddings: feature -> float32 (B, dim).
            dense: float32 (B, D), dense features in sorted name order, or None.

        Returns:
            (loss, {weight name: gradient}, {feature: float32 (B, dim) gradient}).
        """
        import tensorflow as tf

        pieces = {
            name: tf.convert_to_tensor(np.asarray(embeddings[name], np.float32))
            for name in sorted(embeddings)
        }
        matrix = None if dense is None else tf.convert_to_tensor(np.asarray(dense, np.float32))
        names = input_names(self._model)
        dense_names = sorted(set(names) - set(pieces))
        width = 0 if matrix is None else int(matrix.shape[1])
        if not set(pieces) <= set(names) or width != len(dense_names):
            dense_names = [""] * width

        def inputs(watched: Mapping[str, Any]) -> Any:
            return assemble_inputs(self._model, watched, matrix, dense_names)

        return self._gradients(inputs, pieces, targets, loss_fn, sample_weights)

    def _gradients(
        self,
        inputs: Any,
        pieces: Mapping[str, Any],
        targets: NDArray[Any],
        loss_fn: Any,
        sample_weights: NDArray[Any] | None,
    ) -> tuple[float, dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        import tensorflow as tf

        per_sample = sample_losses(self._model, loss_fn)
        names = self.get_trainable_names()
        variables = [self.variables()[name].value for name in names]
        with tf.GradientTape() as tape:
            tape.watch(list(pieces.values()))
            outputs = self._model(inputs(pieces) if callable(inputs) else inputs, training=True)
            loss = _weighted_mean(per_sample(targets, outputs), sample_weights)
            for extra in self._model.losses:
                loss += tf.cast(extra, loss.dtype)
        found = tape.gradient(loss, [*variables, *pieces.values()])
        arrays = [None if g is None else tf.convert_to_tensor(g).numpy() for g in found]
        weight_gradients = {
            name: array for name, array in zip(names, arrays, strict=False) if array is not None
        }
        piece_gradients = {
            name: np.zeros(piece.shape, np.float32) if array is None else array
            for (name, piece), array in zip(pieces.items(), arrays[len(names) :], strict=True)
        }
        return float(loss), weight_gradients, piece_gradients

    def predict(self, inputs: Any, batch_size: int = 1024) -> NDArray[np.float32]:
        """Model outputs (N, output_dim), training=False."""
        return np.asarray(self._model.predict(inputs, batch_size=batch_size, verbose=0))


def _is_float(variable: Any) -> bool:
    return str(variable.dtype) in _FLOATS


def _cannot_rebuild(model: Any, why: object) -> str:
    return (
        f"Keras cannot rebuild {type(model).__name__} {model.name!r} from its configuration "
        f"({why}); give a function that makes it: set_model_builder"
    )


def _weighted_mean(losses: Any, sample_weights: NDArray[Any] | None) -> Any:
    import tensorflow as tf

    losses = tf.convert_to_tensor(losses)
    if losses.shape.rank == 0:
        if sample_weights is not None:
            raise InvalidArgumentError(
                "loss_fn returned one number: with sample_weights it must return one per sample"
            )
        return losses
    if losses.shape.rank > 1:
        losses = tf.reduce_mean(losses, axis=list(range(1, losses.shape.rank)))
    if sample_weights is not None:
        weights = np.asarray(sample_weights, np.float32).reshape(-1)
        if len(weights) != losses.shape[0]:
            raise InvalidArgumentError(
                f"sample_weights has {len(weights)} values for {losses.shape[0]} samples"
            )
        losses = losses * tf.cast(weights, losses.dtype)
    return tf.reduce_sum(losses) / tf.cast(tf.shape(losses)[0], losses.dtype)


def sample_losses(model: Any, loss_fn: Any) -> Callable[[Any, Any], Any]:
    """(targets, outputs) -> losses, of a Keras loss, its name, a callable or the model's own."""
    import keras

    if loss_fn is None:
        loss_fn = getattr(model, "loss", None) or _loss_of_activation(model)
    if isinstance(loss_fn, str):
        loss_fn = keras.losses.get(loss_fn)
    if isinstance(loss_fn, type) and issubclass(loss_fn, keras.losses.Loss):
        loss_fn = loss_fn()
    per_sample = loss_fn.call if isinstance(loss_fn, keras.losses.Loss) else loss_fn

    def losses(targets: Any, outputs: Any) -> Any:
        targets = keras.ops.convert_to_tensor(targets)
        if len(targets.shape) == len(outputs.shape) - 1 and outputs.shape[-1] == 1:
            targets = keras.ops.expand_dims(targets, -1)
        if targets.dtype != outputs.dtype and "sparse" not in str(loss_fn).lower():
            targets = keras.ops.cast(targets, outputs.dtype)
        return per_sample(targets, outputs)

    return losses


def _loss_of_activation(model: Any) -> str:
    activation = getattr(model.layers[-1], "activation", None) if model.layers else None
    name = getattr(activation, "__name__", "")
    return {
        "sigmoid": "binary_crossentropy",
        "softmax": "sparse_categorical_crossentropy",
    }.get(name, "mse")


def input_names(model: Any) -> list[str]:
    """Names of the model's inputs; empty where it has no fixed ones.

    Those of a subclassed model are the keys of the dict that it was first called with.
    """
    tensors = input_tensors(model)
    if tensors or not model.built:
        return [tensor.name for tensor in tensors]
    shape = (model.get_build_config() or {}).get("input_shape")
    return list(shape) if isinstance(shape, Mapping) else []


def input_tensors(model: Any) -> list[Any]:
    """The symbolic inputs; empty for a subclassed model, or a Sequential one not built yet."""
    try:
        return list(model.inputs or [])
    except (AttributeError, ValueError):
        return []


def takes_features_by_name(model: Any, features: Sequence[str]) -> bool:
    """Whether the model's inputs are exactly the features, by name."""
    names = input_names(model)
    return bool(names) and sorted(names) == sorted(features)


def assemble_inputs(
    model: Any, pieces: Mapping[str, Any], dense: Any, dense_names: Sequence[str]
) -> Any:
    """What the model is called with.

    Args:
        pieces: sparse feature -> tensor (B, dim), in sorted order.
        dense: tensor (B, D) or None.
        dense_names: of the D columns.

    Returns:
        `named_inputs` where the inputs are named after the features, else float32 (B, width):
        the pieces, then the dense columns.
    """
    if takes_features_by_name(model, [*pieces, *dense_names]):
        columns = {name: dense[:, i : i + 1] for i, name in enumerate(dense_names)}
        return named_inputs(model, {**pieces, **columns})
    import tensorflow as tf

    parts = list(pieces.values())
    if dense is not None and dense.shape[1] != 0:
        parts.append(dense)
    if not parts:
        raise ConfigurationError("the model's input has no features")
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)


def named_inputs(model: Any, columns: Mapping[str, Any]) -> dict[str, Any]:
    """{input: tensor} of a model whose inputs are named after the features.

    Args:
        columns: feature -> tensor (B, dim), dense features (B, 1); an input of shape () gets (B,).
    """
    inputs = dict(columns)
    for tensor in input_tensors(model):
        if len(tensor.shape) == 1:
            inputs[tensor.name] = inputs[tensor.name][:, 0]
    return inputs
