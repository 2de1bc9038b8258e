"""What all optimizers share: parameters by name, each with its state, updated by the C++ core."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyspark_ps import _core
from pyspark_ps.client.gradients import as_float32
from pyspark_ps.errors import ConfigurationError, InvalidArgumentError, NotFoundError

Floats = NDArray[np.float32]
# The parts of a parameter's state by name ("m", "v", "step"), each flat.
Parts = dict[str, Floats]


def checked_params(optimizer: str, params: Mapping[str, Any]) -> dict[str, float]:
    """Hyper-parameters as the core takes them; booleans are 0 and 1.

    Raises:
        ConfigurationError: a value that is no number.
    """
    for name, value in params.items():
        if not isinstance(value, (numbers.Real, np.bool_)):
            raise ConfigurationError(f"optimizer {optimizer!r}: {name} = {value!r} is no number")
    return {name: float(value) for name, value in params.items()}


class BaseOptimizer:
    """An optimizer of dense arrays, with the state of each parameter that it has seen.

    The servers run the same code on rows and dense weights. Here parameters are NumPy arrays of any
    shape, named by any hashable `param_id`; a parameter's state is made at its first update. Not
    thread-safe.

    Subclasses give the hyper-parameters.
    """

    name: ClassVar[str]

    def __init__(self, **params: float) -> None:
        self._core = _core.Optimizer(self.name, checked_params(self.name, params))
        self._shapes: dict[Hashable, tuple[int, ...]] = {}
        self._states: dict[Hashable, Parts] = {}

    @property
    def config(self) -> dict[str, float]:
        """Every hyper-parameter; booleans are 0 and 1."""
        return self._core.params

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value:g}" for name, value in self.config.items())
        return f"{type(self).__name__}({params})"

    def update(self, param_id: Hashable, params: ArrayLike, grads: ArrayLike) -> Floats:
        """One step.

        Args:
            param_id: names the state.
            params: current values, real numbers of any shape.
            grads: gradient, of the same shape.

        Returns:
            The new values, float32, as a new array.

        Raises:
            InvalidArgumentError: shapes that differ from each other or from those of earlier
                updates, wrong dtypes, values that are not finite; then nothing is changed.
        """
        values, gradient = self._checked(param_id, params, grads)
        return self._updated(param_id, values, gradient)

    def update_batch(
        self, params: Mapping[Any, ArrayLike], grads: Mapping[Any, ArrayLike]
    ) -> dict[Any, Floats]:
        """One step of several parameters; all or none of them.

        Args:
            params: param_id -> current values.
            grads: param_id -> gradient; parameters without one stay as they are.

        Returns:
            param_id -> new values, for every one of `params`.

        Raises:
            InvalidArgumentError: as `update`, or a gradient without a parameter.
        """
        for param_id in grads:
            if param_id not in params:
                raise InvalidArgumentError(f"there is a gradient of {param_id!r}, but no value")
        checked = {p: self._checked(p, params[p], grads[p]) for p in grads}
        return {
            p: self._updated(p, *checked[p]) if p in checked else _floats(values, p, "value").copy()
            for p, values in params.items()
        }

    def get_state(self, param_id: Hashable = None) -> dict[Any, Any]:
        """A copy of the state.

        Returns:
            Of one parameter `{part: array}`: parts as long as the parameter have its shape, others
            (adam's step) have one number. Without `param_id` `{param_id: {part: array}}`.

        Raises:
            NotFoundError: the parameter has no state.
        """
        if param_id is None:
            return {each: self._shown(each) for each in self._states}
        if param_id not in self._states:
            raise NotFoundError(f"{self.name} has no state of {param_id!r}")
        return self._shown(param_id)

    def set_state(self, state: Mapping[Any, Mapping[str, ArrayLike]]) -> None:
        """Takes over what `get_state()` gave, in place of all that is there.

        Raises:
            InvalidArgumentError: parts missing, unknown or of unequal shapes; then nothing is
                changed.
        """
        shapes: dict[Hashable, tuple[int, ...]] = {}
        states: dict[Hashable, Parts] = {}
        for param_id, parts in state.items():
            arrays = self._parsed(param_id, parts)
            shapes.update((param_id, a.shape) for n, a in arrays.items() if self._is_long(n))
            states[param_id] = {name: array.ravel() for name, array in arrays.items()}
        self._shapes, self._states = shapes, states

    def remove_state(self, param_id: Hashable) -> bool:
        """Forgets one parameter; whether it was known."""
        self._shapes.pop(param_id, None)
        return self._states.pop(param_id, None) is not None

    def reset(self) -> None:
        """Forgets all parameters."""
        self._shapes.clear()
        self._states.clear()

    # --- rows of the core: values, then the parts of the state

    def _checked(
        self, param_id: Hashable, params: ArrayLike, grads: ArrayLike
    ) -> tuple[Floats, Floats]:
        values = _floats(params, param_id, "value")
        gradient = _floats(grads, param_id, "gradient")
        if values.shape != gradient.shape:
            raise InvalidArgumentError(
                f"{param_id!r} has the shape {values.shape}, its gradient {gradient.shape}"
            )
        self._check_shape(param_id, values)
        return values, gradient

    def _check_shape(self, param_id: Hashable, values: Floats) -> None:
        shape = self._shapes.get(param_id, values.shape)
        if shape != values.shape:
            raise InvalidArgumentError(
                f"{param_id!r} has the shape {values.shape}, and had {shape} so far: call "
                "remove_state first if it is another parameter"
            )

    def _updated(self, param_id: Hashable, values: Floats, gradient: Floats) -> Floats:
        if param_id not in self._states:
            self._states[param_id] = self._fresh(values)
            self._shapes[param_id] = values.shape
        parts = self._states[param_id]
        row = np.concatenate([values.ravel(), *parts.values()])[np.newaxis]
        self._core.apply(row, gradient.reshape(1, -1))
        new, *new_parts = np.split(row[0], self._part_ends(values.size))
        self._states[param_id] = dict(zip(parts, new_parts, strict=True))
        return new.reshape(values.shape)

    def _part_ends(self, dim: int) -> NDArray[np.intp]:
        return np.cumsum([dim, *(floats for _, floats in self._core.state_parts(dim))])[:-1]

    def _fresh(self, values: Floats) -> Parts:
        """The state of a parameter that has just got these values."""
        sizes = self._core.state_parts(values.size)
        row = np.zeros((1, values.size + sum(floats for _, floats in sizes)), np.float32)
        row[0, : values.size] = values.ravel()
        self._core.init_state(row, values.size)
        _, *parts = np.split(row[0], self._part_ends(values.size))
        return {name: part for (name, _), part in zip(sizes, parts, strict=True)}

    def _is_long(self, part: str) -> bool:
        """Whether a part has a number for each element of the parameter."""
        return dict(self._core.state_parts(2))[part] == 2

    def _shown(self, param_id: Hashable) -> Parts:
        shape = self._shapes.get(param_id, ())
        return {
            name: (part.reshape(shape) if self._is_long(name) else part).copy()
            for name, part in self._states[param_id].items()
        }

    def _parsed(self, param_id: Hashable, parts: Mapping[str, ArrayLike]) -> Parts:
        needed = [name for name, _ in self._core.state_parts(1)]
        if set(parts) != set(needed):
            raise InvalidArgumentError(
                f"the state of {param_id!r} has the parts {sorted(parts)}; {self.name} needs "
                f"{sorted(needed)}"
            )
        arrays = {n: _floats(parts[n], param_id, f"state {n!r}").copy() for n in needed}
        long_shapes = {array.shape for name, array in arrays.items() if self._is_long(name)}
        sizes = {array.size for name, array in arrays.items() if not self._is_long(name)}
        if len(long_shapes) > 1 or sizes - {1}:
            raise InvalidArgumentError(f"the parts of the state of {param_id!r} differ in shape")
        return arrays


class RowOptimizer(BaseOptimizer):
    """An optimizer whose state is element-wise, so that single rows of a table can be updated."""

    def update_sparse(
        self, param_id: Hashable, table: ArrayLike, row_idx: ArrayLike, row_grads: ArrayLike
    ) -> Floats:
        """One step of some rows of a table; other rows and their state stay as they are.

        Args:
            param_id: names the state, which `update` shares.
            table: current values (n, dim).
            row_idx: integers (k,), 0 <= index < n; gradients of a repeated row are summed first.
            row_grads: gradients (k, dim).

        Returns:
            The new values (n, dim), float32, as a new array.

        Raises:
            InvalidArgumentError: wrong shapes, dtypes or indices, values that are not finite; then
                nothing is changed.
        """
        values = _floats(table, param_id, "value")
        grads = _floats(row_grads, param_id, "gradient")
        rows = _row_numbers(row_idx, param_id, values)
        if grads.shape != (len(rows), *values.shape[1:]):
            raise InvalidArgumentError(
                f"{param_id!r}: gradients of the shape {grads.shape} for {len(rows)} rows of a "
                f"table {values.shape}"
            )
        self._check_shape(param_id, values)
        distinct, place = np.unique(rows, return_inverse=True)
        sums = np.zeros((len(distinct), values.shape[1]), np.float32)
        with np.errstate(over="ignore"):  # refused below
            np.add.at(sums, place, grads)
        return self._updated_rows(param_id, values.copy(), distinct, _floats(sums, param_id, "sum"))

    def _updated_rows(
        self, param_id: Hashable, values: Floats, rows: NDArray[np.intp], grads: Floats
    ) -> Floats:
        if param_id not in self._states:
            self._states[param_id] = self._fresh(values)
            self._shapes[param_id] = values.shape
        arrays = [values, *(p.reshape(values.shape) for p in self._states[param_id].values())]
        block = np.concatenate([array[rows] for array in arrays], axis=1)
        self._core.apply(block, grads)
        for array, new in zip(arrays, np.split(block, len(arrays), axis=1), strict=True):
            array[rows] = new
        return values


def _floats(values: ArrayLike, param_id: Hashable, what: str) -> Floats:
    array = as_float32(values, f"{what} of {param_id!r}")
    if not np.isfinite(array).all():
        raise InvalidArgumentError(f"{what} of {param_id!r} holds NaN or infinity")
    return array


def _row_numbers(row_idx: ArrayLike, param_id: Hashable, values: Floats) -> NDArray[np.intp]:
    rows = np.asarray(row_idx)
    if values.ndim != 2 or rows.ndim != 1:
        raise InvalidArgumentError(
            f"{param_id!r}: a table of two dimensions and row numbers of one are needed, not "
            f"{values.shape} and {rows.shape}"
        )
    if rows.size == 0:
        return np.empty(0, np.intp)
    if rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= len(values):
        raise InvalidArgumentError(
            f"{param_id!r}: row numbers are integers from 0 to {len(values) - 1}, not "
            f"{rows.dtype} from {rows.min()} to {rows.max()}"
        )
    return rows.astype(np.intp)
