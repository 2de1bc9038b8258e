"""Dense weights in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyspark_ps import _core
from pyspark_ps.client.gradients import as_float32
from pyspark_ps.client.initial_weights import check_strategy, checked_shape, initializer
from pyspark_ps.errors import InvalidArgumentError, NotFoundError
from pyspark_ps.utils.config import PSConfig

Floats = NDArray[np.float32]

# Floats of one chunk (limits::kTensorChunkFloats): optimizer states are laid out chunk by chunk.
CHUNK_FLOATS = 262_144


class WeightStore:
    """The store that a shard of a server keeps dense weights in, for inspection and tests.

    Weights are cut into chunks of 1 MiB, each with an optimizer state of its own, as on a server.
    Thread-safe.

    Args:
        optimizer_name: "sgd", "adam", "adagrad" or "ftrl".
        optimizer_config: hyper-parameters, over `PSConfig`'s defaults.
        seed: of initial values, as `PSConfig.seed`.

    Raises:
        ConfigurationError: an unknown optimizer or a value that it does not allow.
    """

    def __init__(
        self,
        optimizer_name: str = "adam",
        optimizer_config: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        config = PSConfig(
            weight_optimizer=optimizer_name,
            optimizer_configs={optimizer_name: dict(optimizer_config or {})},
            seed=seed,
        )
        config.validate()
        params = config.get_optimizer_config(optimizer_name)
        self._params = {name: float(value) for name, value in params.items()}
        self._optimizer = _core.Optimizer(optimizer_name, self._params)
        self._chunks = _core.WeightChunks(optimizer_name, self._params, seed)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._sums: dict[str, tuple[Floats, int]] = {}
        self._changes = 0

    def init_weights(
        self,
        name: str,
        shape: Sequence[int],
        init_strategy: str = "normal",
        init_scale: float = 0.01,
    ) -> None:
        """Makes a weight, or gives it new initial values and a fresh optimizer state.

        Strategies and values are those of `PSMainClient.init_weights`.

        Raises:
            InvalidArgumentError: a name, shape, strategy or scale is not valid, or the name exists
                with another shape.
        """
        check_strategy(init_strategy, init_scale)
        sizes = checked_shape(name, shape)
        init, scale = initializer(init_strategy, init_scale, sizes)
        self._check_shape(name, sizes)
        self._chunks.init(name, int(np.prod(sizes, dtype=np.int64)), init, scale)
        self._changed(name, sizes)

    def set_weights(
        self, weights: Mapping[str, ArrayLike] | str, values: ArrayLike | None = None
    ) -> None:
        """Sets values, `set_weights({name: array})` or `set_weights(name, array)`; optimizer states
        start fresh.

        Raises:
            InvalidArgumentError: values that are not finite, a wrong dtype, or a name that exists
                with another shape; then nothing is changed.
        """
        given = weights if isinstance(weights, Mapping) else {weights: values}
        arrays = {name: _finite(name, array) for name, array in given.items()}
        for name, array in arrays.items():
            self._check_shape(name, array.shape)
        for name, array in arrays.items():
            self._chunks.assign(name, array.ravel())
            self._changed(name, array.shape)

    def get(self, name: str) -> Floats:
        """A copy of one weight.

        Raises:
            NotFoundError: there is none of that name.
        """
        shape = self._shape(name)
        return self._chunks.values(name).reshape(shape)

    def get_batch(self, names: Iterable[str]) -> dict[str, Floats]:
        """Copies by name. Raises as `get`."""
        return {name: self.get(name) for name in names}

    def get_all(self) -> dict[str, Floats]:
        """Copies of all weights by name."""
        return self.get_batch(self._shapes)

    def update(self, name: str, gradient: ArrayLike) -> None:
        """Applies one gradient. Raises as `update_batch`."""
        self.update_batch({name: gradient})

    def update_batch(self, gradients: Mapping[str, ArrayLike]) -> None:
        """Applies gradients by name.

        Raises:
            NotFoundError: a name that does not exist.
            InvalidArgumentError: wrong shapes or dtypes, values that are not finite. Nothing is
                changed then.
        """
        grads = {name: self._checked_gradient(name, g) for name, g in gradients.items()}
        for name, gradient in grads.items():
            self._chunks.apply(name, gradient.ravel())
            self._changes += 1

    def accumulate_gradient(self, name: str, gradient: ArrayLike) -> None:
        """Keeps a gradient for `apply_accumulated_gradients`. Raises as `update_batch`."""
        one = self._checked_gradient(name, gradient)
        total, count = self._sums.get(name, (np.zeros_like(one), 0))
        with np.errstate(over="ignore"):  # refused when it is applied
            self._sums[name] = (total + one, count + 1)

    def apply_accumulated_gradients(self, average: bool = True) -> None:
        """Applies the mean (or sum) of each weight's accumulated gradients as one update, and
        forgets them."""
        self.update_batch(
            {
                name: total / np.float32(count) if average else total
                for name, (total, count) in self._sums.items()
            }
        )
        self._sums.clear()

    def get_version(self) -> int:
        """Changes of all weights so far; of none 0."""
        return self._changes

    def get_layer_version(self, name: str) -> int:
        """Changes of one weight since it was made, its making included. Raises as `get`."""
        self._shape(name)
        return self._chunks.version(name)

    def get_layer_names(self) -> list[str]:
        """All names, in the order in which they were made."""
        return list(self._shapes)

    def get_shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape."""
        return dict(self._shapes)

    def get_stats(self) -> dict[str, Any]:
        """`{"weights", "parameters" (values of all weights), "memory_bytes" (optimizer states
        included), "version", "optimizer"}`."""
        return {
            "weights": len(self._shapes),
            "parameters": sum(int(np.prod(s, dtype=np.int64)) for s in self._shapes.values()),
            "memory_bytes": self._chunks.memory_bytes(),
            "version": self._changes,
            "optimizer": self._optimizer.name,
        }

    def get_state(self) -> dict[str, Any]:
        """A copy of everything: `{"optimizer": {"name", "params"}, "weights": {name: {"values",
        "state": {part: array}}}}`. Parts as long as the weight have its shape; others (adam's step)
        have one number for each MiB of values."""
        return {
            "optimizer": {"name": self._optimizer.name, "params": dict(self._params)},
            "weights": {
                name: {"values": self.get(name), "state": self._state(name)}
                for name in self._shapes
            },
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `get_state()` gave, in place of all weights that are there.

        Raises:
            InvalidArgumentError: it is of another optimizer, or lacks something; then nothing is
                changed.
        """
        if state.get("optimizer", {}).get("name") != self._optimizer.name:
            raise InvalidArgumentError(
                f"a state of {state.get('optimizer')!r} for weights under {self._optimizer.name}"
            )
        taken = {
            name: (_finite(name, of["values"]), self._flat_state(name, of))
            for name, of in state.get("weights", {}).items()
        }
        self.clear()
        for name, (values, flat) in taken.items():
            self._chunks.restore(name, values.ravel(), flat)
            self._changed(name, values.shape)

    def clear(self) -> None:
        """Takes out all weights."""
        for name in list(self._shapes):
            self.remove(name)

    def remove(self, name: str) -> bool:
        """Takes out one weight; whether there was one."""
        if self._shapes.pop(name, None) is None:
            return False
        self._chunks.remove(name)
        self._sums.pop(name, None)
        self._changes += 1
        return True

    def __len__(self) -> int:
        return len(self._shapes)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def _changed(self, name: str, shape: tuple[int, ...]) -> None:
        self._shapes[name] = shape
        self._sums.pop(name, None)  # gradients of values that are gone
        self._changes += 1

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            known = ", ".join(map(repr, self._shapes)) or "none"
            raise NotFoundError(f"dense weight {name!r} does not exist; there are: {known}")
        return self._shapes[name]

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if self._shapes.get(name, shape) != shape:
            raise InvalidArgumentError(
                f"dense weight {name!r} has the shape {self._shapes[name]}, not {shape}"
            )

    def _checked_gradient(self, name: str, gradient: ArrayLike) -> Floats:
        array = _finite(f"gradient of {name}", gradient)
        if array.shape != self._shape(name):
            raise InvalidArgumentError(
                f"gradient of {name!r} has the shape {array.shape}, the weight {self._shape(name)}"
            )
        return array

    def _state(self, name: str) -> dict[str, Floats]:
        shape, flat, at = self._shape(name), self._chunks.state(name), 0
        parts: dict[str, list[Floats]] = {}
        for floats in _chunk_sizes(shape):
            for part, width in self._optimizer.state_parts(floats):
                parts.setdefault(part, []).append(flat[at : at + width])
                at += width
        joined = {part: np.concatenate(chunks) for part, chunks in parts.items()}
        long = {part for part, width in self._optimizer.state_parts(2) if width == 2}
        return {p: array.reshape(shape) if p in long else array for p, array in joined.items()}

    def _flat_state(self, name: str, of: Mapping[str, Any]) -> Floats:
        shape = np.shape(of["values"])
        given = {part: _finite(f"{name}: {part}", a).ravel() for part, a in of["state"].items()}
        at = dict.fromkeys(given, 0)
        flat = []
        for floats in _chunk_sizes(shape):
            for part, width in self._optimizer.state_parts(floats):
                if part not in given:
                    raise InvalidArgumentError(f"the state of {name!r} lacks {part!r}")
                flat.append(given[part][at[part] : at[part] + width])
                at[part] += width
        if any(at[part] != array.size for part, array in given.items()):
            raise InvalidArgumentError(f"the state of {name!r} does not fit its shape {shape}")
        return np.concatenate(flat) if flat else np.empty(0, np.float32)


def _chunk_sizes(shape: tuple[int, ...]) -> list[int]:
    floats = int(np.prod(shape, dtype=np.int64))
    return [min(CHUNK_FLOATS, floats - at) for at in range(0, max(floats, 1), CHUNK_FLOATS)]


def _finite(name: str, values: Any) -> Floats:
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"name {name!r}: allowed is a non-empty string")
    array = as_float32(values, repr(name))
    if not np.isfinite(array).all():
        raise InvalidArgumentError(f"{name!r} holds NaN or infinity")
    return array
