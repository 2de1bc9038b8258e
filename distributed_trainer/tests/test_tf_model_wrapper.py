"""The model as named arrays: stable names, exact values, architecture, gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from distributed_trainer.tf_model_wrapper import TFModelWrapper
from pyspark_ps.errors import InvalidArgumentError, NotFoundError, StorageError


def _model() -> Any:
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4, activation="relu", kernel_regularizer="l2")(inputs)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))


NAMES = ["0/kernel", "1/bias", "2/gamma", "3/beta", "4/moving_mean", "5/moving_variance",
         "6/kernel", "7/bias"]  # fmt: skip


def test_names_are_the_same_after_every_rebuild() -> None:
    for _ in range(2):
        assert TFModelWrapper(model_builder=_model).get_weight_names() == NAMES
    wrapper = TFModelWrapper(_model())
    assert wrapper.get_trainable_names() == NAMES[:4] + NAMES[6:]
    assert wrapper.get_moving_names() == NAMES[4:6]
    assert wrapper.get_local_weights() == {}
    assert wrapper.get_weight_shapes()["0/kernel"] == (6, 4)


def test_a_frozen_layer_is_not_trainable() -> None:
    model = _model()
    model.layers[1].trainable = False
    wrapper = TFModelWrapper(model)
    assert "0/kernel" not in wrapper.get_trainable_names()
    assert "0/kernel" in wrapper.get_moving_names()


def test_values_come_back_as_they_were_set_and_as_copies() -> None:
    wrapper = TFModelWrapper(_model())
    rng = np.random.default_rng(0)
    values = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in wrapper.get_weight_shapes().items()
    }
    given = {name: value.copy() for name, value in values.items()}
    wrapper.set_weights(given)
    for value in given.values():
        value.fill(0)
    for name, value in wrapper.get_weights().items():
        np.testing.assert_array_equal(value, values[name])
        value.fill(1)
    np.testing.assert_array_equal(wrapper.get_weights()["0/kernel"], values["0/kernel"])


def test_a_refused_set_changes_nothing() -> None:
    wrapper = TFModelWrapper(_model())
    before = wrapper.get_weights()
    new = np.ones((6, 4), np.float32)
    with pytest.raises(InvalidArgumentError, match=r"'7/bias'.*\(1,\)"):
        wrapper.set_weights({"0/kernel": new, "7/bias": np.zeros(2)})
    with pytest.raises(NotFoundError, match="did you mean '7/bias'"):
        wrapper.set_weights({"0/kernel": new, "7/bia": np.zeros(1)})
    np.testing.assert_array_equal(wrapper.get_weights()["0/kernel"], before["0/kernel"])


def test_architecture_survives_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "model.json")
    wrapper = TFModelWrapper(_model())
    wrapper.save_architecture(path)
    json.loads(Path(path).read_text())
    loaded = TFModelWrapper.load_architecture(path)
    assert loaded.get_weight_shapes() == wrapper.get_weight_shapes()
    assert loaded.get_model().losses
    assert loaded.get_weight_names() == NAMES


def test_a_clone_has_the_shape_and_values_of_its_own() -> None:
    wrapper = TFModelWrapper(_model())
    clone = wrapper.clone_architecture()
    assert clone.get_weight_shapes() == wrapper.get_weight_shapes()
    assert np.abs(clone.get_weights()["0/kernel"] - wrapper.get_weights()["0/kernel"]).max() > 0


def test_what_keras_cannot_rebuild_needs_a_builder() -> None:
    class Unregistered(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = keras.layers.Dense(1)

        def call(self, inputs: Any) -> Any:
            return self.inner(inputs)

    inputs = keras.Input((3,))
    squared = keras.layers.Lambda(lambda x: x * x)(inputs)
    for model in (Unregistered(), keras.Model(inputs, keras.layers.Dense(1)(squared))):
        with pytest.raises(InvalidArgumentError, match="set_model_builder"):
            TFModelWrapper(model).get_architecture()


def test_bad_places_and_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing"):
        TFModelWrapper.load_architecture(str(tmp_path / "nothing"))
    with pytest.raises(StorageError, match="folder"):
        TFModelWrapper(_model()).save_architecture(str(tmp_path / "folder" / "x"))
    with pytest.raises(InvalidArgumentError, match="Keras cannot build"):
        TFModelWrapper.from_architecture("no JSON")
    with pytest.raises(InvalidArgumentError, match="one of them"):
        TFModelWrapper()
    with pytest.raises(InvalidArgumentError, match="builder must return"):
        TFModelWrapper(model_builder=lambda: None)


def test_gradients_are_those_of_a_tape_with_weights_and_regularisation() -> None:
    model = _model()
    wrapper = TFModelWrapper(model)
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(8, 6)).astype(np.float32)
    targets = (rng.random(8) < 0.5).astype(np.float32)
    weights = rng.random(8).astype(np.float32)
    start = model.get_weights()
    loss_of = keras.losses.BinaryCrossentropy()
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True)
        loss = loss_of(targets[:, None], outputs, sample_weight=weights) + sum(model.losses)
    expected = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    for given in (None, "binary_crossentropy", loss_of, keras.losses.binary_crossentropy):
        model.set_weights(start)
        found, gradients = wrapper.compute_gradients(inputs, targets, given, weights)
        assert found == pytest.approx(float(loss), rel=1e-6)
        assert list(gradients) == wrapper.get_trainable_names()
        for one, other in zip(gradients.values(), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)


def test_gradients_of_embeddings_are_columns_of_the_inputs_gradient() -> None:
    wrapper = TFModelWrapper(_model())
    rng = np.random.default_rng(2)
    pieces = {name: rng.normal(size=(8, 2)).astype(np.float32) for name in ("b", "a")}
    dense = rng.normal(size=(8, 2)).astype(np.float32)
    targets = np.ones(8, np.float32)
    start = wrapper.get_weights()
    loss, weight_gradients, gradients = wrapper.compute_gradients_with_embeddings(
        pieces, dense, targets
    )
    wrapper.set_weights(start)
    matrix = tf.constant(np.concatenate([pieces["a"], pieces["b"], dense], axis=1))
    other, expected = wrapper.compute_gradients(matrix, targets)
    assert loss == pytest.approx(other, rel=1e-6)
    np.testing.assert_allclose(weight_gradients["0/kernel"], expected["0/kernel"], rtol=1e-5)
    wrapper.set_weights(start)
    moved = pieces["b"].copy()
    moved[3, 1] += 1e-2
    near = wrapper.compute_gradients_with_embeddings(pieces | {"b": moved}, dense, targets)[0]
    assert (near - loss) / 1e-2 == pytest.approx(gradients["b"][3, 1], rel=0.2, abs=2e-4)


def test_a_scalar_loss_takes_no_sample_weights() -> None:
    wrapper = TFModelWrapper(_model())
    inputs, targets = np.zeros((4, 6), np.float32), np.ones((4, 1), np.float32)

    def scalar(truth: Any, outputs: Any) -> Any:
        return tf.reduce_mean((truth - outputs) ** 2)

    assert wrapper.compute_gradients(inputs, targets, scalar)[0] > 0
    with pytest.raises(InvalidArgumentError, match="one per sample"):
        wrapper.compute_gradients(inputs, targets, scalar, np.ones(4))
    with pytest.raises(InvalidArgumentError, match="3 values for 4"):
        wrapper.compute_gradients(inputs, targets, None, np.ones(3))


def test_prediction_is_the_models_output_without_training() -> None:
    wrapper = TFModelWrapper(_model())
    inputs = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_allclose(
        wrapper.predict(inputs, batch_size=2),
        wrapper.get_model()(inputs, training=False),
        rtol=1e-5,
    )
