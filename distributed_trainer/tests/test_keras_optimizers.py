"""The servers' optimizers against those of Keras, where the formulas coincide."""

from __future__ import annotations

import numpy as np
import pytest

from pyspark_ps.optimizers import create_optimizer

# Keras puts epsilon elsewhere (adam: before the bias correction; adagrad: under the root), counts
# l2 of FTRL twice, and starts FTRL's z at 0, which is right for values that start at 0.
CASES = {
    "sgd": ({"learning_rate": 0.1}, {"learning_rate": 0.1}),
    "sgd with momentum": (
        {"learning_rate": 0.1, "momentum": 0.9},
        {"learning_rate": 0.1, "momentum": 0.9},
    ),
    "sgd with nesterov": (
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    ),
    "adam": (
        {"learning_rate": 0.01, "epsilon": 1e-12},
        {"learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-12},
    ),
    "adam with weight decay": (
        {"learning_rate": 0.01, "epsilon": 1e-12, "weight_decay": 0.1},
        {"learning_rate": 0.01, "epsilon": 1e-12, "weight_decay": 0.1},
    ),
    "adagrad": (
        {"learning_rate": 0.05, "epsilon": 1e-12},
        {"learning_rate": 0.05, "initial_accumulator_value": 0.1, "epsilon": 1e-12},
    ),
    "ftrl": (
        {"alpha": 0.05, "beta": 1.0, "l1": 0.01, "l2": 0.02},
        {
            "learning_rate": 0.05,
            "initial_accumulator_value": 0.0,
            "beta": 1.0,
            "l1_regularization_strength": 0.01,
            "l2_regularization_strength": 0.01,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_keras(case: str) -> None:
    import keras

    ours, theirs = CASES[case]
    name = case.split()[0]
    classes = {"sgd": "SGD", "adam": "Adam", "adagrad": "Adagrad", "ftrl": "Ftrl"}
    reference = getattr(keras.optimizers, classes[name])(**theirs)
    optimizer = create_optimizer(name, **ours)
    random = np.random.default_rng(7)
    values = random.normal(size=(3, 4)).astype(np.float32) * (name != "ftrl")
    variable = keras.Variable(values)
    for _ in range(20):
        gradient = random.normal(size=(3, 4)).astype(np.float32)
        values = optimizer.update("w", values, gradient)
        reference.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    np.testing.assert_allclose(values, keras.ops.convert_to_numpy(variable), rtol=1e-4, atol=1e-6)
