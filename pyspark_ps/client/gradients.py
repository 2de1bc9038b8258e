"""What users hand in as gradients and weights, checked and brought into the core's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyspark_ps.errors import InvalidArgumentError
from pyspark_ps.keys import keys_of
from pyspark_ps.utils.config import DEFAULT_TABLE

Floats = NDArray[np.float32]
TableGradients = dict[str, tuple[NDArray[np.uint64], Any]]


def as_float32(values: Any, what: str) -> Floats:
    """Real numbers of any dtype as a C-contiguous float32 array; a float32 one is not copied.

    Whether float32 values are finite is left to the core, which reads them once anyway.

    Raises:
        InvalidArgumentError: not numeric, ragged, complex, or not finite once cast; names `what`.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidArgumentError(f"{what}: no array can be made of it: {error}") from error
    if array.dtype == np.float32:
        return np.require(array, np.float32, ["C", "A"])
    if array.dtype.kind not in "buif" and array.dtype.name != "bfloat16":
        raise InvalidArgumentError(
            f"{what}: dtype {array.dtype} is refused; real numbers are taken"
        )
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array, np.float32).reshape(array.shape)
    finite = np.isfinite(cast)
    if not finite.all():
        place = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InvalidArgumentError(
            f"{what}: the value at position {place} is {array[place]}, which is no finite float32; "
            "nothing was sent"
        )
    return cast


def by_table(gradients: Any, default_table: str = DEFAULT_TABLE) -> TableGradients:
    """The three forms of embedding gradients as `{table: (keys, gradients)}`.

    Args:
        gradients: `{id: gradient}` or `(ids, gradients)` (both for `default_table`), or
            `{table: (ids, gradients)}`.

    Raises:
        InvalidArgumentError: another form, or forms mixed.
    """
    if gradients is None:
        return {}
    if isinstance(gradients, tuple):
        return {default_table: _pair(gradients, default_table)}
    if not isinstance(gradients, Mapping):
        raise InvalidArgumentError(
            "embedding gradients are {id: gradient}, (ids, gradients) or {table: (ids, gradients)},"
            f" not {type(gradients).__name__}"
        )
    tables = sum(isinstance(value, tuple) for value in gradients.values())
    if tables == 0:
        return {default_table: _stacked(gradients, default_table)} if gradients else {}
    if tables != len(gradients):
        raise InvalidArgumentError(
            "embedding gradients mix {id: gradient} with {table: (ids, gradients)}; give one form"
        )
    for name in gradients:
        if not isinstance(name, str):
            raise InvalidArgumentError(f"embedding gradients: {name!r} is no name of a table")
    return {name: _pair(pair, name) for name, pair in gradients.items()}


def _pair(pair: tuple[Any, ...], table: str) -> tuple[NDArray[np.uint64], Any]:
    if len(pair) != 2:
        raise InvalidArgumentError(
            f"table {table!r}: a tuple of {len(pair)} where (ids, gradients) is needed"
        )
    return keys_of(pair[0]), pair[1]


def _stacked(gradients: Mapping[Any, Any], table: str) -> tuple[NDArray[np.uint64], Any]:
    keys = keys_of(list(gradients))
    rows = [
        as_float32(row, f"table {table!r}: gradient of id {key!r}")
        for key, row in gradients.items()
    ]
    for key, row in zip(gradients, rows, strict=True):
        if row.ndim != 1 or row.shape != rows[0].shape:
            raise InvalidArgumentError(
                f"table {table!r}: gradient of id {key!r} has the shape {row.shape}; one dimension "
                "is needed, as long as the table's dim"
            )
    return keys, np.stack(rows)
