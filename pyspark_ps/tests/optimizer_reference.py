"""The optimizers' formulas in NumPy and float64, written down a second time."""

from __future__ import annotations

import numpy as np


def fresh_state(name, params, p):
    if name == "sgd":
        return {"v": np.zeros_like(p)} if params["momentum"] else {}
    if name == "adam":
        state = {"m": np.zeros_like(p), "v": np.zeros_like(p), "step": np.zeros(1)}
        return {**state, "vmax": np.zeros_like(p)} if params["amsgrad"] else state
    if name == "adagrad":
        return {"acc": np.full_like(p, params["initial_accumulator"])}
    n = np.zeros_like(p)
    return {"z": np.where(p == 0, 0.0, z_of(params, p, n)), "n": n}


def step(name, params, p, g, state):
    """New values; `state` changes."""
    p, g = p.astype(np.float64), g.astype(np.float64)
    return {"sgd": _sgd, "adam": _adam, "adagrad": _adagrad, "ftrl": _ftrl}[name](
        params, p, g, state
    )


def _sgd(params, p, g, state):
    g = g + params["weight_decay"] * p
    momentum = params["momentum"]
    if momentum == 0:
        return p - params["learning_rate"] * g
    state["v"] = momentum * state["v"] + (1 - params["dampening"]) * g
    return p - params["learning_rate"] * (
        g + momentum * state["v"] if params["nesterov"] else state["v"]
    )


def _adam(params, p, g, state):
    state["step"] = state["step"] + 1
    t = state["step"][0]
    state["m"] = params["beta1"] * state["m"] + (1 - params["beta1"]) * g
    state["v"] = params["beta2"] * state["v"] + (1 - params["beta2"]) * g * g
    m_hat = state["m"] / (1 - params["beta1"] ** t)
    v_hat = state["v"] / (1 - params["beta2"] ** t)
    if params["amsgrad"]:
        v_hat = state["vmax"] = np.maximum(state["vmax"], v_hat)
    rate = params["learning_rate"]
    return (
        p - rate * m_hat / (np.sqrt(v_hat) + params["epsilon"]) - rate * params["weight_decay"] * p
    )


def _adagrad(params, p, g, state):
    g = g + params["weight_decay"] * p
    state["acc"] = state["acc"] + g * g
    return p - params["learning_rate"] * g / (np.sqrt(state["acc"]) + params["epsilon"])


def _ftrl_power(params, n):
    return n ** -params["learning_rate_power"]


def _ftrl_denominator(params, n):
    return params["l2"] + (params["beta"] + _ftrl_power(params, n)) / params["alpha"]


def z_of(params, p, n):
    """FTRL's z that yields p, which is not 0."""
    return -(np.sign(p) * params["l1"] + p * _ftrl_denominator(params, n))


def _ftrl(params, p, g, state):
    n_old, state["n"] = state["n"], state["n"] + g * g
    sigma = (_ftrl_power(params, state["n"]) - _ftrl_power(params, n_old)) / params["alpha"]
    z = state["z"] = state["z"] + g - sigma * p
    moved = -(z - np.sign(z) * params["l1"]) / _ftrl_denominator(params, state["n"])
    return np.where(np.abs(z) <= params["l1"], 0.0, moved)
