"""The optimizers on NumPy arrays against formulas written down a second time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyspark_ps.errors import ConfigurationError, InvalidArgumentError, NotFoundError
from pyspark_ps.optimizers import (
    AdagradOptimizer,
    AdamOptimizer,
    BaseOptimizer,
    FTRLOptimizer,
    SGDOptimizer,
    create_optimizer,
)
from pyspark_ps.tests import optimizer_reference as reference

RATES = st.sampled_from([0.0, 0.001, 0.05, 0.5])
SMALL = st.sampled_from([0.0, 0.01, 0.1])
UNITS = st.sampled_from([0.0, 0.5, 0.9])
PARAMS = {
    "sgd": st.fixed_dictionaries(
        {"learning_rate": RATES, "momentum": UNITS, "weight_decay": SMALL, "dampening": UNITS}
    ),
    "adam": st.fixed_dictionaries(
        {
            "learning_rate": RATES,
            "beta1": UNITS,
            "beta2": st.sampled_from([0.9, 0.999]),
            "epsilon": st.sampled_from([1e-7, 1e-3]),
            "weight_decay": SMALL,
            "amsgrad": st.booleans(),
        }
    ),
    "adagrad": st.fixed_dictionaries(
        {
            "learning_rate": RATES,
            "epsilon": st.sampled_from([1e-10, 1e-3]),
            "initial_accumulator": st.sampled_from([0.1, 1.0]),
            "weight_decay": SMALL,
        }
    ),
    "ftrl": st.fixed_dictionaries(
        {
            "alpha": st.sampled_from([0.05, 0.5]),
            "beta": st.sampled_from([0.5, 1.0]),
            "l1": SMALL,
            "l2": SMALL,
            "learning_rate_power": st.sampled_from([-0.5, -0.8]),
        }
    ),
}
ALL = st.sampled_from(sorted(PARAMS)).flatmap(lambda n: st.tuples(st.just(n), PARAMS[n]))
# Two decimals: no value lies so near to another that float32 and float64 fall on two sides of l1.
VALUES = st.integers(-300, 300).map(lambda i: i / 100)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)


def arrays(draw, shape, count):
    return [
        draw(hnp.arrays(np.float32, shape, elements=VALUES.map(np.float32))) for _ in range(count)
    ]


def assert_near(actual, wanted):
    np.testing.assert_allclose(actual, wanted, rtol=3e-5, atol=3e-6)


@settings(max_examples=150, deadline=None)
@given(st.data(), ALL, st.integers(1, 5))
def test_every_optimizer_agrees_with_its_formula(data, which, steps):
    name, params = which
    if name == "sgd" and params["momentum"] and not params["dampening"]:
        params = {**params, "nesterov": data.draw(st.booleans())}
    optimizer = create_optimizer(name, **params)
    shape = data.draw(SHAPES)
    p, *grads = arrays(data.draw, shape, 1 + steps)
    wanted, full = p.astype(np.float64), optimizer.config
    state = reference.fresh_state(name, full, wanted)
    for g in grads:
        p = optimizer.update("w", p, g)
        wanted = reference.step(name, full, wanted, g, state)
        assert p.dtype == np.float32
        assert p.shape == shape
        assert_near(p, wanted)
    shown = optimizer.get_state("w")
    assert shown.keys() == state.keys()
    for part, values in state.items():
        assert_near(shown[part], values)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["adagrad", "ftrl"]), st.integers(1, 4))
def test_sparse_steps_are_steps_of_those_rows_with_repeats_summed(data, name, steps):
    optimizer = create_optimizer(name, **data.draw(PARAMS[name]))
    rows, dim = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 20)))
    (table,) = arrays(data.draw, (rows, dim), 1)
    wanted = table.astype(np.float64)
    state = reference.fresh_state(name, optimizer.config, wanted)
    for _ in range(steps):
        index = data.draw(st.lists(st.integers(0, rows - 1), max_size=8))
        (grads,) = arrays(data.draw, (len(index), dim), 1)
        before = table.copy()
        new = optimizer.update_sparse("t", table, np.array(index, int), grads)
        np.testing.assert_array_equal(table, before)
        table = new
        for row in set(index):
            g = sum(grads[i].astype(np.float64) for i, at in enumerate(index) if at == row)
            parts = {part: values[row] for part, values in state.items()}
            wanted[row] = reference.step(name, optimizer.config, wanted[row], g, parts)
            for part, values in parts.items():
                state[part][row] = values
        assert_near(table, wanted)
    for part, values in optimizer.get_state("t").items():
        assert_near(values, state[part])


@settings(max_examples=40, deadline=None)
@given(st.data(), ALL)
def test_a_copied_state_goes_on_the_same_to_the_bit(data, which):
    name, params = which
    first, second = create_optimizer(name, **params), create_optimizer(name, **params)
    p, g, later = arrays(data.draw, (5,), 3)
    p = first.update(("w", 1), p, g)
    kept = first.get_state()
    second.set_state(kept)
    np.testing.assert_array_equal(
        first.update(("w", 1), p, later), second.update(("w", 1), p, later)
    )


def test_a_batch_is_its_single_updates_and_leaves_others_alone():
    batch, single = AdamOptimizer(), AdamOptimizer()
    params = {"a": np.ones(3), "b": np.ones((2, 2)), "c": np.array([5, 6])}
    grads = {"a": np.full(3, 0.5), "b": np.eye(2)}
    new = batch.update_batch(params, grads)
    for name in grads:
        np.testing.assert_array_equal(new[name], single.update(name, params[name], grads[name]))
    np.testing.assert_array_equal(new["c"], [5, 6])
    assert batch.get_state().keys() == {"a", "b"}


def test_a_refused_batch_changes_nothing():
    optimizer = AdagradOptimizer()
    with pytest.raises(InvalidArgumentError, match="'b'"):
        optimizer.update_batch({"a": [1.0], "b": [1.0]}, {"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(InvalidArgumentError, match="'z'"):
        optimizer.update_batch({"a": [1.0]}, {"a": [1.0], "z": [1.0]})
    assert optimizer.get_state() == {}


def test_state_goes_by_parameter():
    optimizer = AdagradOptimizer(initial_accumulator=0.0)
    optimizer.update("a", [1.0], [2.0])
    optimizer.update("b", [1.0], [3.0])
    np.testing.assert_array_equal(optimizer.get_state("a")["acc"], [4.0])
    assert optimizer.remove_state("a")
    assert not optimizer.remove_state("a")
    with pytest.raises(NotFoundError, match="'a'"):
        optimizer.get_state("a")
    assert optimizer.get_state().keys() == {"b"}
    optimizer.reset()
    assert optimizer.get_state() == {}
    optimizer.update("b", [[1.0, 2.0]], [[3.0, 4.0]])  # another shape is another parameter now


@pytest.mark.parametrize(
    ("params", "grads", "words"),
    [
        ([1.0], [1.0, 2.0], "shape"),
        ([1.0], [float("nan")], "NaN|finite"),
        (np.ones(1, np.float32), np.array([np.inf], np.float32), "infinity"),
        ([1.0], [1e39], "finite"),
        ([1.0], [1j], "complex"),
        ([1.0], ["1"], "dtype"),
        ([1.0], np.array([1.0], object), "dtype"),
        ([float("inf")], [1.0], "finite"),
        ([1.0, 2.0], [1.0, 2.0], "shape"),
    ],
)
def test_what_is_no_gradient_is_refused_and_changes_nothing(params, grads, words):
    optimizer = AdamOptimizer()
    optimizer.update("w", [1.0], [1.0])
    before = optimizer.get_state("w")
    with pytest.raises(InvalidArgumentError, match=words):
        optimizer.update("w", params, grads)
    assert all((optimizer.get_state("w")[part] == before[part]).all() for part in before)


@pytest.mark.parametrize(
    ("table", "rows", "grads", "words"),
    [
        (np.ones((2, 3)), [2], np.ones((1, 3)), "0 to 1"),
        (np.ones((2, 3)), [-1], np.ones((1, 3)), "0 to 1"),
        (np.ones((2, 3)), [0.0], np.ones((1, 3)), "integers"),
        (np.ones((2, 3)), [0], np.ones((1, 2)), "shape"),
        (np.ones(3), [0], np.ones((1, 3)), "two dimensions"),
        (np.ones((2, 3)), [0, 0], np.full((2, 3), 3e38), "sum"),
    ],
)
def test_wrong_sparse_updates_are_refused(table, rows, grads, words):
    optimizer = FTRLOptimizer()
    with pytest.raises(InvalidArgumentError, match=words):
        optimizer.update_sparse("t", table, rows, grads)
    assert optimizer.get_state() == {}


@pytest.mark.parametrize(
    "state",
    [{"w": {"m": [0.0]}}, {"w": {"m": [0.0], "v": [0.0, 0.0], "step": [1.0]}}],
)
def test_a_state_that_does_not_fit_is_refused(state):
    with pytest.raises(InvalidArgumentError, match="'w'"):
        AdamOptimizer().set_state(state)


def test_defaults_are_the_configurations_but_for_momentum():
    from pyspark_ps.utils.config import OPTIMIZER_DEFAULTS

    for name, defaults in OPTIMIZER_DEFAULTS.items():
        wanted = {**defaults, "momentum": 0.0} if name == "sgd" else defaults
        assert create_optimizer(name).config == wanted


def test_create_optimizer_takes_any_case_and_refuses_what_it_does_not_know():
    for name, cls in [
        ("sgd", SGDOptimizer),
        ("Adam", AdamOptimizer),
        ("ADAGRAD", AdagradOptimizer),
        ("Ftrl", FTRLOptimizer),
    ]:
        made = create_optimizer(name)
        assert type(made) is cls
        assert isinstance(made, BaseOptimizer)
    assert create_optimizer("ftrl", learning_rate=0.5).config["alpha"] == 0.5
    for call, words in [
        (lambda: create_optimizer("adagrda"), "adagrad"),
        (lambda: create_optimizer("sgd", learning_rat=1), "learning_rate"),
        (lambda: create_optimizer("sgd", learning_rate=-1), "learning_rate.*-1"),
        (lambda: create_optimizer("sgd", learning_rate="1"), "learning_rate"),
        (lambda: create_optimizer("sgd", nesterov=True), "momentum"),
        (lambda: create_optimizer("ftrl", alpha=1, learning_rate=1), "alpha"),
        (lambda: AdamOptimizer(beta1=1.0), "beta1"),
    ]:
        with pytest.raises(ConfigurationError, match=words) as refused:
            call()
        assert isinstance(refused.value, ValueError)
