"""Building a plain dataclass from a dict, strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from pyspark_ps.errors import InvalidArgumentError

T = TypeVar("T")


def record_from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """`cls(**values)`; unknown and missing keys are an InvalidArgumentError that names them."""
    name = cls.__name__
    if not isinstance(values, Mapping):
        raise InvalidArgumentError(f"{name}.from_dict takes a dict, not {type(values).__name__}")
    specs = dataclasses.fields(cls)  # type: ignore[arg-type]
    known = [spec.name for spec in specs]
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise InvalidArgumentError(
            f"{name}.from_dict: unknown keys {', '.join(unknown)}; known are {', '.join(known)}"
        )
    required = [
        spec.name
        for spec in specs
        if spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
    ]
    missing = [key for key in required if key not in values]
    if missing:
        raise InvalidArgumentError(f"{name}.from_dict: {', '.join(missing)} is missing")
    return cls(**values)
