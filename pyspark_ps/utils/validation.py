"""What every configuration class of the two packages is built on; pydantic does the checking.

A configuration is a plain ``@dataclass`` that derives from :class:`ConfigBase` and declares each
field with :func:`setting`::

    @dataclass
    class ThreadConfig(ConfigBase):
        mkl_num_threads: int = setting(4, at_least=1)
        mode: str = setting("auto", choices=("auto", "on", "off"))

        def check(self) -> None:            # what involves several fields
            ...                             # raise self.problem("mode", "allowed is ...")

Constructing one checks nothing, so that fields may be filled in step by step; ``validate()`` checks
everything, and whoever takes a configuration calls it. A value away from the default of a field
declared with ``not_built`` is refused: a setting that nothing reads would be a lie.

Types are read from the annotations: ``int float bool str None Any``, ``X | None``, ``list[T]``,
``dict[str, T]`` and other configurations, nested to any depth. Nothing is converted silently: "5"
and True are no int; 3 is a float, a tuple is a list, and NumPy's scalars are numbers.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeVar, Union

import pydantic
from pydantic_core import PydanticCustomError

from pyspark_ps.errors import ConfigurationError

Self = TypeVar("Self", bound="ConfigBase")

_RULE = "pyspark_ps.rule"
_TYPE_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}


@dataclass(frozen=True)
class _Rule:
    """What a field allows beyond its type."""

    bounds: dict[str, Any] = dataclasses.field(default_factory=dict)  # named as in pydantic.Field
    choices: tuple[str, ...] = ()
    not_built: str | None = None
    to_plain: Callable[[Any], Any] = lambda value: value

    def describe(self) -> str:
        if self.choices:
            return ", one of " + ", ".join(map(repr, self.choices))
        if self.bounds.keys() == {"ge", "le"}:
            return f", {self.bounds['ge']} to {self.bounds['le']}"
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        bounds = " and ".join(f"{signs[name]} {bound}" for name, bound in self.bounds.items())
        return f", {bounds}" if bounds else ""


def setting(
    default: Any = dataclasses.MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[str] = (),
    not_built: str | None = None,
    to_plain: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """A dataclass field with its rule.

    Args:
        default: the default value (immutable); none = the field must be given.
        factory: makes the default instead (lists, dicts, nested configurations).
        at_least, at_most, above, below: bounds of a number, or of each number of a list or dict.
            NaN and infinities are always refused.
        choices: the allowed strings. None is always allowed where the type allows it.
        not_built: what is missing, e.g. "replication comes later"; any value but the default is
            refused with "not built yet".
        to_plain: turns a value into what JSON can hold, for `to_dict` (annotate such a field Any).
    """
    bounds = {"ge": at_least, "gt": above, "le": at_most, "lt": below}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    metadata = {_RULE: _Rule(given, tuple(choices), not_built, to_plain)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass
class ConfigBase:
    """Base of all configurations: plain dataclasses with dict and JSON forms and `validate`."""

    def validate(self) -> None:
        """Checks types, bounds, nested configurations and what `check` adds.

        Raises:
            ConfigurationError: (a ValueError) names class.field, the value and what is allowed.
        """
        _checked(type(self), {spec.name: getattr(self, spec.name) for spec in fields(self)})
        for spec in fields(self):
            missing, default = _rule(spec).not_built, _default_of(spec)
            if missing is not None and getattr(self, spec.name) != default:
                raise self.problem(spec.name, f"only {default!r}: not built yet ({missing})")
        self.check()

    def check(self) -> None:
        """What several fields say together; overridden by configurations that have such rules."""

    def problem(self, field_name: str, allowed: str, value: Any = ...) -> ConfigurationError:
        """The error to raise for a field. `allowed` completes "allowed is ..."."""
        shown = getattr(self, field_name) if value is ... else value
        return _problem(type(self), field_name, shown, allowed)

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values (JSON can hold it); nested configurations become dicts."""
        plain = {spec.name: _rule(spec).to_plain(getattr(self, spec.name)) for spec in fields(self)}
        nested: dict[str, Any] = _map_leaves(
            plain, lambda value: value.to_dict() if isinstance(value, ConfigBase) else value
        )
        return nested

    @classmethod
    def from_dict(cls: type[Self], values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; keys that are left out get their defaults.

        Raises:
            ConfigurationError: an unknown key (the nearest name is suggested), a field without a
                default that is missing, a value of a wrong type or out of bounds, or no mapping.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"{cls.__name__}.from_dict takes a mapping, not {type(values).__name__}"
            )
        known = [spec.name for spec in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigurationError(
                    f"{cls.__name__} has no field {key!r}{nearest_name(key, known)}"
                )
        for spec in fields(cls):
            if spec.name not in values and _default_of(spec) is dataclasses.MISSING:
                raise ConfigurationError(f"{cls.__name__}.{spec.name} is missing")
        return cls(**_checked(cls, values, from_plain=True))

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            ConfigurationError: no JSON object, or as `from_dict`.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{cls.__name__}.from_json: no valid JSON: {error}") from error
        return cls.from_dict(values)


def nearest_name(name: Any, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the known names when none is near; for error messages."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return "; known are: " + ", ".join(sorted(names))


def _checked(
    cls: type[ConfigBase], values: Mapping[str, Any], *, from_plain: bool = False
) -> dict[str, Any]:
    """`values` after pydantic's checks; `from_plain`: dicts become nested configurations."""
    checkers = _checkers(cls)  # type: ignore[arg-type] # mypy takes it for an instance: no hash
    checked = {}
    for spec in fields(cls):
        if spec.name not in values:
            continue
        value = values[spec.name]
        try:
            checked[spec.name] = checkers[spec.name].validate_python(value, context=from_plain)
        except pydantic.ValidationError as refused:
            nested = refused.errors(include_url=False)[0].get("ctx", {}).get("error")
            if isinstance(nested, Exception):
                raise nested from None
            allowed = _describe_type(typing.get_type_hints(cls)[spec.name]) + _rule(spec).describe()
            raise _problem(cls, spec.name, value, allowed) from None
    return checked


@functools.cache
def _checkers(cls: type[ConfigBase]) -> dict[str, pydantic.TypeAdapter[Any]]:
    """By field of `cls`, what checks its values; made when first needed, 0.2 ms per field."""
    hints, builtin = typing.get_type_hints(cls), pydantic.BeforeValidator(_builtin)
    checked: dict[str, Any] = {
        spec.name: Annotated[_bounded(hints[spec.name], _rule(spec)), builtin]
        for spec in fields(cls)
    }
    strict = pydantic.ConfigDict(strict=True)
    return {name: pydantic.TypeAdapter(hint, config=strict) for name, hint in checked.items()}


def _bounded(hint: Any, rule: _Rule) -> Any:
    """`hint` with the rule's bounds at its numbers and choices at its strings."""
    if hint in (int, float):
        return Annotated[hint, pydantic.Field(**rule.bounds)]
    if hint is str and rule.choices:
        return Literal[rule.choices]
    if isinstance(hint, type) and issubclass(hint, ConfigBase):
        return Annotated[Any, pydantic.PlainValidator(functools.partial(_checked_nested, hint))]
    parts = tuple(_bounded(item, rule) for item in typing.get_args(hint))
    if _is_union(hint):
        return Union[parts]  # noqa: UP007 (made at run time)
    return typing.get_origin(hint)[parts] if parts else hint


def _checked_nested(cls: type[ConfigBase], value: Any, info: pydantic.ValidationInfo) -> ConfigBase:
    from_plain = info.context  # as _checked passes it
    if from_plain and isinstance(value, Mapping):
        return cls.from_dict(value)
    if not isinstance(value, cls):
        raise PydanticCustomError("type", "another class")
    if not from_plain:
        value.validate()
    return value


def _builtin(value: Any) -> Any:
    """Python's own types where they stand for the same; pydantic's strict mode knows no others."""
    return _map_leaves(value, _refuse_odd_numbers)


def _refuse_odd_numbers(value: Any) -> Any:
    if hasattr(value, "__float__"):
        # Decimals and arrays of one number would be floats for pydantic, strict or not.
        if not isinstance(value, (int, float)):
            raise PydanticCustomError("type", "neither int nor float")
        if isinstance(value, float) and not math.isfinite(value):
            raise PydanticCustomError("value", "not finite")
    return value


def _map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of everything in nested lists and dicts; NumPy's scalars become Python's."""
    if isinstance(value, Mapping):
        return {key: _map_leaves(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_leaves(item, change) for item in value]
    if "numpy" in sys.modules and isinstance(value, sys.modules["numpy"].generic):
        value = value.item()
    return change(value)


def _rule(spec: dataclasses.Field[Any]) -> _Rule:
    rule: _Rule = spec.metadata.get(_RULE, _Rule())
    return rule


def _default_of(spec: dataclasses.Field[Any]) -> Any:
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return spec.default


def _problem(cls: type, field_name: str, value: Any, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{cls.__name__}.{field_name} = {value!r}: allowed is {allowed}")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def _describe_type(hint: Any) -> str:
    origin, items = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return " or ".join(map(_describe_type, items))
    if origin is list:
        return f"a list (each: {_describe_type(items[0])})"
    if origin is dict:
        return f"a dict (each value: {_describe_type(items[1])})"
    if hint is Any or hint is type(None):
        return "any value" if hint is Any else "None"
    return _TYPE_WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")
