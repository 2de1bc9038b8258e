"""The mechanism below every configuration class of the two packages.

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

Types are read from the annotations: ``int float bool str None Any``, unions, ``list[T]``,
``tuple[T, ...]``, ``dict[str, T]`` and other configurations, nested to any depth.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, Union

from pyspark_ps.errors import ConfigurationError

Self = TypeVar("Self", bound="ConfigBase")

_RULE = "pyspark_ps.rule"


@dataclass(frozen=True)
class Rule:
    """What a field allows beyond its type. Bounds also hold for each value of a list or dict."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None
    finite: bool = True
    not_built: str | None = None
    to_plain: Callable[[Any], Any] | None = None

    def describe(self) -> str:
        """What is allowed, in words, without the type; empty when everything is."""
        parts: list[str] = []
        if self.choices is not None:
            parts.append("one of " + ", ".join(repr(choice) for choice in self.choices))
        if self.at_least is not None and self.at_most is not None:
            parts.append(f"{self.at_least:g} to {self.at_most:g}")
        elif self.at_least is not None:
            parts.append(f">= {_plain_number(self.at_least)}")
        elif self.at_most is not None:
            parts.append(f"<= {_plain_number(self.at_most)}")
        if self.above is not None:
            parts.append(f"> {_plain_number(self.above)}")
        if self.below is not None:
            parts.append(f"< {_plain_number(self.below)}")
        return " and ".join(parts)

    def allows(self, value: Any) -> bool:
        """Whether `value`, whose type is right already, is inside the bounds."""
        if value is None:
            return True
        if isinstance(value, Mapping):
            return all(self.allows(item) for item in value.values())
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            return all(self.allows(item) for item in value)
        if self.choices is not None and value not in self.choices:
            return False
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return True
        number = typing.cast(float, value)
        whole = isinstance(value, numbers.Integral)
        if self.finite and not whole and not math.isfinite(number):
            return False
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def setting(
    default: Any = dataclasses.MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[Any] | None = None,
    finite: bool = True,
    not_built: str | None = None,
    to_plain: Callable[[Any], Any] | None = None,
) -> Any:
    """A dataclass field with its rule.

    Args:
        default: the default value (immutable); none = the field must be given.
        factory: makes the default instead (lists, dicts, nested configurations).
        at_least, at_most, above, below: bounds of a number, or of each number of a list or dict.
        choices: the allowed values. None is always allowed where the type allows it.
        finite: NaN and infinities are refused.
        not_built: what is missing, e.g. "replication comes later"; any value but the default is
            refused with "not built yet".
        to_plain: turns a value into what JSON can hold, for `to_dict` (annotate such a field Any).
    """
    rule = Rule(
        at_least=at_least,
        at_most=at_most,
        above=above,
        below=below,
        choices=None if choices is None else tuple(choices),
        finite=finite,
        not_built=not_built,
        to_plain=to_plain,
    )
    if factory is not None:
        return field(default_factory=factory, metadata={_RULE: rule})
    return field(default=default, metadata={_RULE: rule})


@dataclass
class ConfigBase:
    """Base of all configurations: plain dataclasses with dict and JSON forms and `validate`."""

    def validate(self) -> None:
        """Checks types, bounds, nested configurations and what `check` adds.

        Raises:
            ConfigurationError: (a ValueError) names class.field, the value and what is allowed.
        """
        hints = _hints(type(self))
        for spec in fields(self):
            value = getattr(self, spec.name)
            rule = spec.metadata.get(_RULE, Rule())
            hint = hints[spec.name]
            if not _has_type(value, hint):
                raise self.problem(spec.name, _allowed(hint, rule))
            if not rule.allows(value):
                raise self.problem(spec.name, _allowed(hint, rule))
            if rule.not_built is not None and value != _default_of(spec):
                raise self.problem(
                    spec.name, f"only {_default_of(spec)!r}: not built yet ({rule.not_built})"
                )
            for nested in _configs_in(value):
                nested.validate()
        self.check()

    def check(self) -> None:
        """What several fields say together; overridden by configurations that have such rules."""

    def problem(self, field_name: str, allowed: str, value: Any = ...) -> ConfigurationError:
        """The error to raise for a field. `allowed` completes "allowed is ..."."""
        shown = getattr(self, field_name) if value is ... else value
        return ConfigurationError(
            f"{type(self).__name__}.{field_name} = {shown!r}: allowed is {allowed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values (JSON can hold it); nested configurations become dicts."""
        plain: dict[str, Any] = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            rule = spec.metadata.get(_RULE, Rule())
            plain[spec.name] = _to_plain(value if rule.to_plain is None else rule.to_plain(value))
        return plain

    @classmethod
    def from_dict(cls: type[Self], values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; keys that are left out get their defaults.

        Raises:
            ConfigurationError: an unknown key (the nearest name is suggested), a field without a
                default that is missing, or no mapping.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"{cls.__name__}.from_dict takes a mapping, not {type(values).__name__}"
            )
        hints = _hints(cls)
        known = [spec.name for spec in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigurationError(
                    f"{cls.__name__} has no field {key!r}{nearest_name(key, known)}"
                )
        for spec in fields(cls):
            required = spec.default is spec.default_factory is dataclasses.MISSING
            if required and spec.name not in values:
                raise ConfigurationError(f"{cls.__name__}.{spec.name} is missing")
        return cls(**{key: _from_plain(value, hints[key]) for key, value in values.items()})

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


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _default_of(spec: dataclasses.Field[Any]) -> Any:
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return spec.default


def _plain_number(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(number)


def _is_union(origin: Any) -> bool:
    return origin is Union or origin is types.UnionType


def _has_type(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if _is_union(origin):
        return any(_has_type(value, option) for option in arguments)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if origin in (list, tuple, Sequence):
        return isinstance(value, (list, tuple)) and all(
            _has_type(item, arguments[0]) for item in value
        )
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            _has_type(key, arguments[0]) and _has_type(item, arguments[1])
            for key, item in value.items()
        )
    return isinstance(value, origin or hint)


_TYPE_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}


def _describe_type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(origin):
        return " or ".join(_describe_type(option) for option in arguments)
    if hint is None or hint is type(None):
        return "None"
    if hint in _TYPE_WORDS:
        return _TYPE_WORDS[hint]
    if origin in (list, tuple, Sequence):
        return f"a list (each: {_describe_type(arguments[0])})"
    if origin in (dict, Mapping):
        return f"a dict (each value: {_describe_type(arguments[1])})"
    if hint is Any:
        return "any value"
    return f"a {getattr(hint, '__name__', hint)}"


def _allowed(hint: Any, rule: Rule) -> str:
    bounds = rule.describe()
    words = _describe_type(hint)
    return f"{words}, {bounds}" if bounds else words


def _configs_in(value: Any) -> Iterable[ConfigBase]:
    if isinstance(value, ConfigBase):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _configs_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _configs_in(item)


def _to_plain(value: Any) -> Any:
    if isinstance(value, ConfigBase):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    if not isinstance(value, (bool, int, float, str)) and hasattr(value, "item"):
        return value.item()  # a NumPy scalar
    return value


def _from_plain(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(origin):
        for option in arguments:
            built = _from_plain(value, option)
            if built is not value:
                return built
        return value
    if isinstance(hint, type) and issubclass(hint, ConfigBase) and isinstance(value, Mapping):
        return hint.from_dict(value)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _from_plain(item, arguments[1]) for key, item in value.items()}
    if origin in (list, Sequence) and isinstance(value, (list, tuple)):
        return [_from_plain(item, arguments[0]) for item in value]
    return value
