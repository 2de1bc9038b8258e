"""From the ids of a user's data to the 64-bit keys of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyspark_ps import _core
from pyspark_ps.errors import InvalidArgumentError

NULL_KEY: int = _core.NULL_KEY
"""The key of a null id (`None`, Arrow null)."""

Keys = NDArray[np.uint64]


def keys_of(ids: Any) -> Keys:
    """The key of each id, as the trainer maps them.

    Integers of any width and sign are their 64 bits (-1 and 2**64 - 1 are the same key), booleans 0
    and 1, strings the stable hash of their UTF-8, bytes the same hash as they are, null is
    `NULL_KEY`. A string and an integer meet only by a 64-bit hash collision.

    Args:
        ids: a list or tuple (mixed types allowed), a NumPy array of one dimension (object arrays
            allowed), an Arrow array or chunked array (dictionary-encoded ones too), a pandas Series
            or Index. In pandas' own arrays NaN and NA are null.

    Returns:
        uint64 (n,), C-contiguous; 64-bit integers are not copied, the result shares their memory.

    Raises:
        InvalidArgumentError: floats, integers beyond 64 bits, other types or more dimensions; names
            position and value.
    """
    if isinstance(ids, np.ndarray):
        return _of_numpy(ids)
    if isinstance(ids, (list, tuple)):
        return _core.hash_objects(ids)
    if isinstance(ids, range):
        return _of_numpy(np.asarray(list(ids))) if len(ids) else _empty()
    module = type(ids).__module__.partition(".")[0]
    if module == "pandas":
        return _of_pandas(ids)
    if module == "pyarrow" and hasattr(ids, "type"):
        return _of_arrow(ids)
    if hasattr(ids, "__arrow_c_stream__"):
        import pyarrow as pa

        return _of_arrow(pa.chunked_array(ids))
    if hasattr(ids, "__array__"):
        return _of_numpy(np.asarray(ids))
    raise InvalidArgumentError(
        f"ids are a list, a NumPy array or an Arrow array, not {type(ids).__name__}"
    )


def _empty() -> Keys:
    return np.empty(0, np.uint64)


def _refuse(ids: Any, kind: str) -> InvalidArgumentError:
    shown = f" (position 0: {ids[0]!r})" if len(ids) else ""
    return InvalidArgumentError(
        f"ids of type {kind}{shown} are refused: integers, booleans, strings or bytes are taken; "
        "cast them first"
    )


def _of_numpy(ids: NDArray[Any]) -> Keys:
    if ids.ndim != 1:
        raise InvalidArgumentError(f"ids have one dimension, not the shape {ids.shape}")
    if isinstance(ids, np.ma.MaskedArray):
        keys = _of_numpy(ids.data).copy()
        keys[np.ma.getmaskarray(ids)] = NULL_KEY
        return keys
    kind = ids.dtype.kind
    if kind == "u":
        return np.ascontiguousarray(ids, np.uint64)
    if kind == "i":
        return np.ascontiguousarray(ids, np.int64).view(np.uint64)
    if kind == "b":
        return ids.astype(np.uint64)
    if kind == "O":
        return _core.hash_objects(ids)
    if kind in "UT":
        return _core.hash_objects(ids.tolist())
    if kind == "S":  # as NumPy's own elements: only the padding's NULs at the end go
        return _core.hash_objects(ids.tolist())
    if ids.size == 0 and kind == "f":
        return _empty()  # np.array([]) is float64
    raise _refuse(ids, str(ids.dtype))


def _of_pandas(ids: Any) -> Keys:
    if getattr(ids, "nlevels", 1) > 1 or not hasattr(ids, "dtype"):  # MultiIndex, DataFrame
        raise InvalidArgumentError(
            f"ids have one dimension; of a pandas {type(ids).__name__} take one column or level"
        )
    dtype = ids.dtype
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        return _of_numpy(ids.to_numpy())
    if isinstance(dtype, np.dtype):
        values = ids.to_numpy(dtype=object, copy=True)
        values[np.asarray(ids.isna(), bool)] = None
        return _core.hash_objects(values)
    import pyarrow as pa

    return _of_arrow(pa.array(ids, from_pandas=True))


def _of_arrow(ids: Any) -> Keys:
    import pyarrow as pa

    if isinstance(ids, pa.ChunkedArray):
        parts = [_of_arrow(chunk) for chunk in ids.chunks]
        if len(parts) == 1:
            return parts[0]
        # Nothing but the type is left to judge when there is no chunk.
        return np.concatenate(parts) if parts else _of_arrow(pa.array([], ids.type))
    if not isinstance(ids, pa.Array):
        raise InvalidArgumentError(f"ids are an array, not {type(ids).__name__}")
    kind = ids.type
    if pa.types.is_dictionary(kind):
        return _of_dictionary(ids)
    if isinstance(kind, pa.BaseExtensionType):
        if pa.types.is_integer(kind.storage_type):  # periods, times: no ids by themselves
            raise _refuse(ids, str(kind))
        return _of_arrow(ids.storage)
    if pa.types.is_null(kind):
        return np.full(len(ids), NULL_KEY, np.uint64)
    if pa.types.is_integer(kind):
        keys = _of_numpy(_without_nulls(ids, 0))
    elif pa.types.is_boolean(kind):
        keys = _of_numpy(_without_nulls(ids, False))
    else:
        keys = _of_strings(ids)
    if not ids.null_count:
        return keys
    keys = keys.copy()
    keys[ids.is_null().to_numpy(zero_copy_only=False)] = NULL_KEY
    return keys


def _without_nulls(ids: Any, fill: Any) -> NDArray[Any]:
    filled = ids.fill_null(fill) if ids.null_count else ids
    values: NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return values


def _of_dictionary(ids: Any) -> Keys:
    """Hashes each entry of the dictionary once."""
    # One place more, which is not used but by nulls.
    keys = np.append(_of_arrow(ids.dictionary), np.uint64(NULL_KEY))
    places = _without_nulls(ids.indices, 0).astype(np.int64)
    if ids.indices.null_count:
        places[ids.indices.is_null().to_numpy(zero_copy_only=False)] = len(keys) - 1
    result: Keys = keys[places]
    return result


def _of_strings(ids: Any) -> Keys:
    """Strings and bytes, hashed where they lie; nulls get some hash."""
    import pyarrow as pa

    kind = ids.type
    if kind in (pa.string(), pa.binary()):
        offset_type: Any = np.int32
    elif kind in (pa.large_string(), pa.large_binary()):
        offset_type = np.int64
    elif pa.types.is_fixed_size_binary(kind) or str(kind) in ("string_view", "binary_view"):
        return _of_strings(ids.cast(pa.large_binary()))
    else:
        raise _refuse(ids, str(kind))
    if len(ids) == 0:
        return _empty()
    _, offsets, data = ids.buffers()
    size = np.dtype(offset_type).itemsize
    ends = np.frombuffer(offsets, offset_type, len(ids) + 1, ids.offset * size)
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return _core.hash_strings(ends, text)
