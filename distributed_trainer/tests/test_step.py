"""The compiled step against plain Keras, its limits and its refusals. No servers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig, WeightConfig
from distributed_trainer.data_loader import S3ParquetDataLoader
from distributed_trainer.errors import TrainingError
from distributed_trainer.key_batch import KeyBatch, table_batches
from distributed_trainer.model_check import check_model
from distributed_trainer.schedule import rate_scale
from distributed_trainer.step import TrainingStep
from distributed_trainer.task import DayPass, WorkerTask
from distributed_trainer.tests.keras_reference import (
    ACCUMULATOR,
    CONFIG,
    RATE,
    copy_of,
    data_of,
    initial_tables,
    keras_losses,
    network,
    shares_of,
)
from distributed_trainer.tf_model_wrapper import TFModelWrapper
from distributed_trainer.units import units_of_work
from distributed_trainer.worker import WorkerTrainer
from pyspark_ps.errors import ConfigurationError


class _NumPyServers:
    """The servers' arithmetic by the contract's formulas: Adagrad for rows, Adam for weights."""

    def __init__(self, weights: dict[str, NDArray[Any]]) -> None:
        self.tables = initial_tables()
        self.accumulators = {
            name: np.full_like(table, ACCUMULATOR) for name, table in self.tables.items()
        }
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}
        self.moments = {
            name: [np.zeros(value.shape), np.zeros(value.shape)] for name, value in weights.items()
        }
        self.steps = 0

    def pull(self, batch: KeyBatch) -> tuple[dict[str, Any], dict[str, Any]]:
        rows = {name: self.tables[name][keys.astype(int)] for name, keys in batch.keys.items()}
        return rows, {name: w.astype(np.float32) for name, w in self.weights.items()}

    def push(self, batch: KeyBatch, weight_gradients: Any, row_gradients: Any) -> None:
        for name, keys in batch.keys.items():
            rows, gradient = keys.astype(int), row_gradients[name]
            self.accumulators[name][rows] += gradient**2
            self.tables[name][rows] -= (
                RATE * gradient / (np.sqrt(self.accumulators[name][rows]) + 1e-10)
            )
        self.steps += 1
        for name, gradient in weight_gradients.items():
            first, second = self.moments[name]
            first[...] = 0.9 * first + 0.1 * gradient
            second[...] = 0.999 * second + 0.001 * gradient.astype(np.float64) ** 2
            corrected = first / (1 - 0.9**self.steps)
            scale = np.sqrt(second / (1 - 0.999**self.steps)) + 1e-8
            self.weights[name] -= 0.001 * corrected / scale


def test_each_of_200_losses_equals_that_of_a_plain_keras_loop() -> None:
    steps = 200
    data = data_of(64 * steps)
    width = CONFIG.feature_config.get_model_input_dim()
    keras.utils.set_random_seed(1)
    model = network(width)
    reference = copy_of(model)
    expected = list(keras_losses(reference, data, steps))
    wrapper = TFModelWrapper(model)
    step = TrainingStep(wrapper, CONFIG)
    weights = wrapper.get_weights()
    servers = _NumPyServers({name: weights[name] for name in wrapper.get_trainable_names()})
    losses = []
    for batch in table_batches(data, CONFIG):
        rows, weights = servers.pull(batch)
        result = step.train(batch, rows, weights)
        servers.push(batch, result.weight_gradients, result.row_gradients)
        losses.append(result.loss)
    # 1e-5 as a rule; rounding that depends on the threads' timing grows over the steps.
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[-1] < losses[0]
    moved = TFModelWrapper(reference).get_weights()
    for name in wrapper.get_moving_names():  # of one worker those of Keras
        np.testing.assert_allclose(wrapper.get_weights()[name], moved[name], rtol=1e-4, atol=1e-6)


def _first_batch(config: TrainerConfig, rows: int = 64) -> KeyBatch:
    return next(iter(table_batches(data_of(rows), config)))


def _rows_for(batch: KeyBatch, config: TrainerConfig = CONFIG) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(9)
    dims = config.feature_config.get_tables()
    return {
        table: rng.normal(0, 0.1, (len(keys), dims[table])).astype(np.float32)
        for table, keys in batch.keys.items()
    }


def _step(config: TrainerConfig = CONFIG, **options: Any) -> tuple[TFModelWrapper, TrainingStep]:
    wrapper = TFModelWrapper(network(config.feature_config.get_model_input_dim(), **options))
    return wrapper, TrainingStep(wrapper, config)


def test_a_short_batch_and_other_counts_of_ids_are_not_traced_again() -> None:
    traces = 0

    class Counting(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            nonlocal traces
            traces += 1
            return inputs * 1.0

    inputs = keras.Input((CONFIG.feature_config.get_model_input_dim(),))
    outputs = keras.layers.Dense(1, activation="sigmoid")(Counting()(inputs))
    step = TrainingStep(TFModelWrapper(keras.Model(inputs, outputs)), CONFIG)
    step.train(_first_batch(CONFIG), _rows_for(_first_batch(CONFIG)))
    after_first = traces
    for count in (1, 7, 33, 64):
        batch = _first_batch(CONFIG, count)
        step.train(batch, _rows_for(batch))
    assert traces == after_first


def test_results_stay_as_they_are_when_the_step_runs_again() -> None:
    _, step = _step()
    batch = _first_batch(CONFIG)
    rows = _rows_for(batch)
    first = step.train(batch, rows)
    kept = {name: np.array(value) for name, value in first.row_gradients.items()}
    step.train(batch, {name: value * 3 for name, value in rows.items()})
    for name, value in kept.items():
        np.testing.assert_array_equal(first.row_gradients[name], value)


def test_given_weights_are_used_and_kept_whatever_happens_to_the_callers_arrays() -> None:
    wrapper, step = _step()
    names = wrapper.get_trainable_names()
    weights = {name: np.ones_like(wrapper.get_weights()[name]) * 0.1 for name in names}
    batch = _first_batch(CONFIG)
    step.train(batch, _rows_for(batch), weights)
    for value in weights.values():
        value.fill(7.0)
    for name in names:
        assert float(wrapper.get_weights()[name].max()) == pytest.approx(0.1)
    step.train(batch, _rows_for(batch), {names[0]: weights[names[0]]})  # one alone
    assert float(wrapper.get_weights()[names[0]].min()) == 7.0
    assert float(wrapper.get_weights()[names[1]].max()) == pytest.approx(0.1)


def test_moving_statistics_move_in_training_and_not_in_prediction() -> None:
    wrapper, step = _step()
    batch = _first_batch(CONFIG)
    before = wrapper.get_weights()
    moving = wrapper.get_moving_names()
    assert len(moving) == 2
    step.predict(batch, _rows_for(batch))
    for name, value in before.items():
        np.testing.assert_array_equal(wrapper.get_weights()[name], value)
    step.train(batch, _rows_for(batch))
    for name in moving:
        assert np.abs(wrapper.get_weights()[name] - before[name]).max() > 0


def test_prediction_equals_the_model_on_the_assembled_input() -> None:
    config = replace(CONFIG, weight_config=WeightConfig())
    wrapper, step = _step(config)
    data = data_of(64)
    batch = next(iter(table_batches(data, config)))
    tables = initial_tables()
    predictions, loss_sum = step.predict(
        batch, {name: tables[name][keys.astype(int)] for name, keys in batch.keys.items()}
    )
    columns = data.to_pydict()
    inputs = np.concatenate(
        [
            tables["items"][columns["item"]],
            shares_of(columns["seen"]) @ tables["items"],
            shares_of(columns["tags"]) @ tables["tags"],
            tables["user"][columns["user"]],
            tables["zone"][columns["zone"]],
            np.array([columns["age"], columns["price"]], np.float32).T,
        ],
        axis=1,
    )
    expected = wrapper.predict(inputs)
    np.testing.assert_allclose(predictions, expected, rtol=1e-5)
    losses = keras.losses.binary_crossentropy(np.array(columns["y"])[:, None], expected)
    assert loss_sum == pytest.approx(float(np.sum(losses)), rel=1e-5)


def test_a_model_with_inputs_named_after_features_gets_them_by_name() -> None:
    features = CONFIG.feature_config
    named = {
        name: keras.Input((features.get_embedding_dim(name),), name=name)
        for name in features.sparse_features
    }
    named["price"] = keras.Input((1,), name="price")
    named["age"] = keras.Input((), name="age")
    parts = [named[name] for name in sorted(features.sparse_features)]
    age = keras.layers.Reshape((1,))(named["age"])
    x = keras.layers.Concatenate()([*parts, age, named["price"]])
    by_name = keras.Model(named, keras.layers.Dense(1, activation="sigmoid")(x))
    inputs = keras.Input((features.get_model_input_dim(),))
    by_matrix = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(inputs))

    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.out = keras.layers.Dense(1, activation="sigmoid")

        def call(self, inputs: Any, training: bool = False) -> Any:
            order = [*sorted(features.sparse_features), "age", "price"]
            return self.out(keras.ops.concatenate([inputs[name] for name in order], axis=1))

    batch = _first_batch(CONFIG)
    rows = _rows_for(batch)
    results = []
    for model in (by_matrix, by_name, Subclassed()):
        step = TrainingStep(TFModelWrapper(model), CONFIG)
        model.set_weights(by_matrix.get_weights())
        results.append(step.train(batch, rows))
    first, *others = results
    for other in others:
        assert other.loss == pytest.approx(first.loss, rel=1e-6)
        for table, gradient in first.row_gradients.items():
            np.testing.assert_allclose(other.row_gradients[table], gradient, rtol=1e-4, atol=1e-8)


def test_models_of_every_kind_give_the_same_step() -> None:
    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = keras.layers.Dense(8, activation="relu")
            self.out = keras.layers.Dense(1, activation="sigmoid")

        def call(self, inputs: Any, training: bool = False) -> Any:
            return self.out(self.hidden(inputs))

    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    inputs = keras.Input((CONFIG.feature_config.get_model_input_dim(),))
    functional = keras.Model(inputs, layers[1](layers[0](inputs)))
    batch = _first_batch(CONFIG)
    rows = _rows_for(batch)
    wrappers = [TFModelWrapper(m) for m in (functional, keras.Sequential(layers), Subclassed())]
    steps = [TrainingStep(wrapper, CONFIG) for wrapper in wrappers]
    weights = wrappers[0].get_weights()
    first, *others = (step.train(batch, rows, weights) for step in steps)
    for other in others:
        assert other.loss == pytest.approx(first.loss, rel=1e-6)
        for name, gradient in first.weight_gradients.items():
            np.testing.assert_allclose(other.weight_gradients[name], gradient, rtol=1e-4, atol=1e-7)


def test_a_subclassed_model_that_takes_something_else_is_refused_in_words() -> None:
    class Wrong(keras.Model):
        def call(self, inputs: Any, training: bool = False) -> Any:
            return inputs["colour"]

    with pytest.raises(ConfigurationError, match=r"neither a matrix .* nor a dict .*'user'"):
        TrainingStep(TFModelWrapper(Wrong()), CONFIG)
    built = Wrong()
    built({"colour": np.zeros((2, 1), np.float32)})
    with pytest.raises(ConfigurationError, match=r"inputs \['colour'\]: allowed is one input"):
        TrainingStep(TFModelWrapper(built), CONFIG)


def test_a_model_of_dense_features_alone_pulls_and_pushes_no_rows() -> None:
    config = replace(
        CONFIG, feature_config=FeatureConfig([], ["price", "age"]), weight_config=WeightConfig()
    )
    batch = _first_batch(config)
    result = _step(config)[1].train(batch, {})
    assert (batch.keys, result.row_gradients) == ({}, {})
    assert math.isfinite(result.loss)


def test_rows_that_the_model_does_not_look_at_have_zero_gradients() -> None:
    inputs = keras.Input((CONFIG.feature_config.get_model_input_dim(),))
    outputs = keras.layers.Dense(1, activation="sigmoid")(inputs[:, -2:])
    batch = _first_batch(CONFIG)
    step = TrainingStep(TFModelWrapper(keras.Model(inputs, outputs)), CONFIG)
    for gradient in step.train(batch, _rows_for(batch)).row_gradients.values():
        assert not gradient.any()


@pytest.mark.parametrize("dim", [1, 20, 37, 64])
def test_row_gradients_of_any_dim_are_the_sums_over_repeated_ids(dim: int) -> None:
    config = replace(
        CONFIG,
        feature_config=FeatureConfig(["user", "tags"], [], {"user": dim, "tags": dim}),
        weight_config=WeightConfig(),
    )
    inputs = keras.Input((2 * dim,))
    outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs)
    config = replace(config, target_config=TargetConfig(["y"], "regression"))
    step = TrainingStep(TFModelWrapper(keras.Model(inputs, outputs)), config)
    data = data_of(64)
    batch = next(iter(table_batches(data, config)))
    result = step.train(batch, _rows_for(batch, config))
    # d(mean squared error)/d(row of a sample) = 2 * (prediction - target) / B, in each component
    residuals = 2 * (result.predictions[:, 0] - batch.targets[:, 0]) / 64
    users, tags = data.column("user").to_pylist(), data.column("tags").to_pylist()
    for position, key in enumerate(batch.keys["user"].astype(int)):
        expected = sum(r for r, user in zip(residuals, users, strict=True) if user == key)
        np.testing.assert_allclose(result.row_gradients["user"][position], expected, atol=1e-6)
    for position, key in enumerate(batch.keys["tags"].astype(int)):
        expected = sum(
            r * ids.count(key) / len(ids) for r, ids in zip(residuals, tags, strict=True) if ids
        )
        np.testing.assert_allclose(result.row_gradients["tags"][position], expected, atol=1e-6)
    assert result.row_gradients["user"].shape == (len(batch.keys["user"]), dim)


def test_clipping_limits_gradients_as_keras_does() -> None:
    wrapper, plain = _step()
    batch = _first_batch(CONFIG)
    rows = _rows_for(batch)
    free = plain.train(batch, rows)
    by_norm = TrainingStep(wrapper, replace(CONFIG, clipnorm=1e-3, embedding_clipnorm=1e-4))
    clipped = by_norm.train(batch, rows)
    for name, gradient in free.weight_gradients.items():
        norm = np.linalg.norm(gradient)
        expected = gradient * min(1.0, 1e-3 / norm)
        np.testing.assert_allclose(clipped.weight_gradients[name], expected, rtol=2e-3, atol=1e-8)
    norms = np.linalg.norm(clipped.row_gradients["user"], axis=1)
    assert norms.max() == pytest.approx(1e-4, rel=1e-4)
    by_value = TrainingStep(wrapper, replace(CONFIG, clipvalue=1e-4)).train(batch, rows)
    for gradient in by_value.weight_gradients.values():
        assert np.abs(gradient).max() <= np.float32(1e-4)


def test_dropout_depends_on_the_seed_alone() -> None:
    inputs = keras.Input((CONFIG.feature_config.get_model_input_dim(),))
    x = keras.layers.Dropout(0.5)(keras.layers.Dense(32)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    step = TrainingStep(TFModelWrapper(model), CONFIG)
    batch = _first_batch(CONFIG)
    rows = _rows_for(batch)
    first, other, again = (step.train(batch, rows, seed=seed).loss for seed in (3, 4, 3))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("target", "columns", "activation"),
    [
        (TargetConfig(["y"], "multiclass", 3), ["y"], "softmax"),
        (TargetConfig(["y", "z"], "multi_label"), ["y", "z"], "sigmoid"),
        (TargetConfig(["y", "z"], "regression"), ["y", "z"], "linear"),
    ],
)
def test_loss_of_each_task_is_that_of_keras(
    target: TargetConfig, columns: list[str], activation: str
) -> None:
    config = replace(CONFIG, target_config=target)
    data = data_of(64).append_column("z", pa.array(np.arange(64) % 2))
    step = _step(config, outputs=target.get_output_dim(), activation=activation)[1]
    batch = next(iter(table_batches(data, config)))
    rows = _rows_for(batch)
    predictions, loss_sum = step.predict(batch, rows)
    targets = np.array([data.column(name).to_pylist() for name in columns]).T
    losses = keras.losses.get(target.get_loss())(
        targets[:, 0] if target.num_classes else targets, np.array(predictions)
    )
    weights = data.column("w").to_numpy()
    assert loss_sum == pytest.approx(float(np.sum(losses * weights)), rel=1e-5)
    assert math.isfinite(step.train(batch, rows).loss)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: network(176), "takes an input of shape (None, 176)"),
        (lambda: network(34, outputs=2), "yields shape (None, 2)"),
        (
            lambda: _two_inputs(),
            "allowed is one input",
        ),
    ],
)
def test_a_model_of_the_wrong_size_is_refused_with_the_right_size(model: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_model(TFModelWrapper(model_builder=model), CONFIG)
    assert told in str(caught.value)
    if "176" in told:
        assert "34 = 32 of the embeddings + 2 dense features" in str(caught.value)


def _two_inputs() -> Any:
    first, second = keras.Input((3,), name="first"), keras.Input((4,), name="second")
    x = keras.layers.Concatenate()([first, second])
    return keras.Model([first, second], keras.layers.Dense(1)(x))


def test_a_model_without_input_shape_is_built_by_the_check() -> None:
    wrapper = TFModelWrapper(keras.Sequential([keras.layers.Dense(1, activation="sigmoid")]))
    check_model(wrapper, CONFIG)
    assert wrapper.get_weight_shapes() == {"0/kernel": (34, 1), "1/bias": (1,)}


def test_a_diverged_loss_is_an_error_that_says_what_to_do() -> None:
    _, step = _step()
    batch = _first_batch(CONFIG)
    rows = {name: np.full_like(value, np.nan) for name, value in _rows_for(batch).items()}
    with pytest.raises(TrainingError, match="learning rates"):
        step.train(batch, rows)


def test_a_schedule_scales_the_dense_rate_to_its_value() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.5)
    config = TrainerConfig(model_learning_rate=0.02, learning_rate_schedule=schedule)
    config.validate()
    assert rate_scale(config, 0) == pytest.approx(0.5)
    assert rate_scale(config, 20) == pytest.approx(0.125)
    again = TrainerConfig.from_json(config.to_json())
    assert rate_scale(again, 10) == pytest.approx(0.25)
    assert rate_scale(TrainerConfig(), 10) == 1.0


def test_batches_follow_the_schedule_from_the_step_at_which_their_unit_begins(
    write_parquet: Any,
) -> None:
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.01, 0.004, 0.002])
    config = replace(CONFIG, model_learning_rate=0.01, learning_rate_schedule=schedule)
    path = write_parquet("data.parquet", data_of(2 * 64))
    units = units_of_work(S3ParquetDataLoader().discover_partitions(path), 64)
    worker = WorkerTrainer(0, config, [], lambda: None)  # reads before it connects
    for first_step, scales in ((0, [1.0, 1.0]), (2, [0.4, 0.4]), (3, [0.4, 0.2])):
        task = WorkerTask(0, DayPass("run", 1, 0, "d"), tuple(units), first_steps=(first_step,))
        found = [numbered.rate_scale for numbered in worker._batches(task)]
        assert found == pytest.approx(scales)
