"""The mechanism below the configuration classes."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from pyspark_ps.errors import ConfigurationError
from pyspark_ps.utils.validation import ConfigBase, nearest_name, setting


@dataclass
class Inner(ConfigBase):
    """Nested below Outer."""

    dim: int = setting(4, at_least=1)
    mode: str | None = setting(None, choices=("on", "off"))


@dataclass
class Outer(ConfigBase):
    """One field of each kind."""

    rate: float = setting(0.5, above=0, at_most=1)
    inner: Inner = setting(factory=Inner)
    by_name: dict[str, Inner] = setting(factory=dict)
    names: list[str] = setting(factory=list)
    sizes: dict[str, int] = setting(factory=dict, at_least=1)
    flag: bool = setting(False)
    later: str = setting("", not_built="comes with the next release")
    anything: Any = setting(None)

    def check(self) -> None:
        if self.flag and not self.names:
            raise self.problem("names", "not empty when flag is set")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rate": 0}, "Outer.rate = 0: allowed is a number, > 0 and <= 1"),
        ({"rate": float("nan")}, "Outer.rate = nan"),
        ({"rate": True}, "Outer.rate = True"),
        ({"rate": "0.5"}, "Outer.rate = '0.5'"),
        ({"inner": Inner(dim=0)}, "Inner.dim = 0: allowed is an integer, >= 1"),
        ({"inner": Inner(dim=1.0)}, "Inner.dim = 1.0"),
        ({"inner": Inner(mode="auto")}, "one of 'on', 'off'"),
        ({"inner": {"dim": 1}}, "a Inner"),
        ({"by_name": {"x": Inner(dim=-1)}}, "Inner.dim = -1"),
        ({"by_name": [Inner()]}, "Outer.by_name"),
        ({"names": "abc"}, "Outer.names = 'abc': allowed is a list (each: a string)"),
        ({"names": [1]}, "Outer.names"),
        ({"sizes": {"a": 0}}, "Outer.sizes"),
        ({"flag": 1}, "True or False"),
        ({"flag": True}, "not empty when flag is set"),
        ({"later": "x"}, "not built yet (comes with the next release)"),
    ],
)
def test_each_refusal_names_class_field_value_and_what_is_allowed(
    values: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Outer(**values).validate()
    assert told in str(caught.value)


def test_what_is_inside_the_bounds_passes() -> None:
    Outer(
        rate=1,
        inner=Inner(dim=np.int64(7), mode="on"),
        by_name={"x": Inner()},
        names=["a"],
        sizes={"a": 1},
        flag=True,
        anything=object(),
    ).validate()


def test_dict_json_and_pickle_give_an_equal_configuration() -> None:
    config = Outer(by_name={"x": Inner(3)}, names=["a", "b"], inner=Inner(np.int64(9)))
    assert config.to_dict()["by_name"] == {"x": {"dim": 3, "mode": None}}
    assert Outer.from_dict(config.to_dict()) == config
    assert Outer.from_json(config.to_json()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert Outer.from_dict({}) == Outer()


def test_unknown_keys_are_refused_with_a_suggestion_at_any_depth() -> None:
    with pytest.raises(ConfigurationError, match="Outer has no field 'rates'; did you mean 'rate'"):
        Outer.from_dict({"rates": 1})
    with pytest.raises(ConfigurationError, match="Inner has no field 'dims'"):
        Outer.from_dict({"by_name": {"x": {"dims": 1}}})
    with pytest.raises(ConfigurationError, match="takes a mapping, not list"):
        Outer.from_json("[]")


def test_instances_do_not_share_their_defaults() -> None:
    first, second = Outer(), Outer()
    first.names.append("a")
    first.inner.dim = 9
    assert second == Outer()


def test_the_nearest_name_is_told_or_all_of_them() -> None:
    assert nearest_name("tabel", ["table", "row"]) == "; did you mean 'table'?"
    assert nearest_name("zzz", ["table", "row"]) == "; known are: row, table"


@pytest.mark.parametrize(
    "value",
    ["5", True, 5.0, None, [5], np.float64(5), np.bool_(True), np.array(5), Decimal(5)],
    ids=repr,
)
def test_nothing_but_an_integer_is_an_integer(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Inner(dim=value).validate()
    assert str(caught.value) == f"Inner.dim = {value!r}: allowed is an integer, >= 1"


@pytest.mark.parametrize(
    "value",
    ["1", True, None, 1j, np.array(1.0), Decimal(1), float("inf"), np.float32("nan")],
    ids=repr,
)
def test_nothing_but_a_finite_number_is_a_number(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Outer(rate=value).validate()
    assert str(caught.value) == f"Outer.rate = {value!r}: allowed is a number, > 0 and <= 1"


@pytest.mark.parametrize("value", [1, np.uint8(1), np.float32(1), np.float64(1)], ids=repr)
def test_integers_and_numpy_scalars_are_numbers(value: Any) -> None:
    Outer(rate=value).validate()
    assert json.loads(Outer(rate=value).to_json())["rate"] == 1
    assert type(Outer.from_dict({"rate": value}).rate) is float


def test_tuples_and_mappings_stand_for_lists_and_dicts_and_stay_what_they_are() -> None:
    inner = Inner()
    names: Any = ("a",)
    by_name: Any = MappingProxyType({"x": inner})
    config = Outer(names=names, by_name=by_name)
    config.validate()
    assert config.names is names
    assert config.by_name["x"] is inner
    assert config.to_dict()["names"] == ["a"]
    assert config.to_dict()["by_name"] == {"x": inner.to_dict()}


def test_nan_is_refused_inside_any_value_too() -> None:
    with pytest.raises(ConfigurationError, match=r"Outer\.anything"):
        Outer(anything={"a": [float("nan")]}).validate()


def test_a_nested_check_is_asked_and_its_own_fault_is_not_told_as_a_wrong_value() -> None:
    @dataclass
    class Faulty(Inner):
        def check(self) -> None:
            if self.dim == 7:
                raise self.problem("dim", "anything but 7")
            int("not a number")

    with pytest.raises(ConfigurationError, match=r"Faulty\.dim = 7: allowed is anything but 7"):
        Outer(by_name={"x": Faulty(7)}).validate()
    with pytest.raises(ValueError, match="invalid literal"):
        Outer(inner=Faulty(8)).validate()


def test_from_dict_refuses_a_value_of_a_wrong_type() -> None:
    with pytest.raises(ConfigurationError, match=r"Outer\.names = 3: allowed is a list"):
        Outer.from_dict({"names": 3})
    with pytest.raises(ConfigurationError, match=r"Outer\.by_name = .*: allowed is a dict"):
        Outer.from_dict({"by_name": {"x": 3}})
    with pytest.raises(ConfigurationError, match=r"Outer\.rate = nan"):
        Outer.from_json('{"rate": NaN}')
