from __future__ import annotations

import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyspark_ps import NULL_KEY, _core, errors, keys_of

A, B, NULL = _core.hash_bytes(b"a"), _core.hash_bytes(b"b"), NULL_KEY
ALL = 2**64 - 1

LIST = ["a", None, "b", "a"]
LIST_KEYS = [A, NULL, B, A]


@pytest.mark.parametrize(
    ("ids", "keys"),
    [
        ([1, -1, 2**64 - 1, -(2**63)], [1, ALL, ALL, 2**63]),
        ([True, False, 0, 1], [1, 0, 0, 1]),
        (["a", b"a", "5", 5], [A, A, _core.hash_bytes(b"5"), 5]),
        ([None, "a", np.int8(-2), np.bool_(True)], [NULL, A, 2**64 - 2, 1]),
        (["ü"], [_core.hash_bytes("ü".encode())]),
        ((3, 4), [3, 4]),
        (range(3), [0, 1, 2]),
        ([], []),
        (np.array([]), []),
        (np.array([1, -1], np.int8), [1, ALL]),
        (np.array([250], np.uint8), [250]),
        (np.array([1, -5], ">i4"), [1, 2**64 - 5]),
        (np.arange(6, dtype=np.uint64)[::2], [0, 2, 4]),
        (np.array([True, False]), [1, 0]),
        (np.array(["a", "b"]), [A, B]),
        (np.array([b"a", b"b"]), [A, B]),
        (np.array(["a", 5, None, b"b"], object), [A, 5, NULL, B]),
        (np.ma.array([1, 2], mask=[False, True]), [1, NULL]),
        (pa.array(LIST), LIST_KEYS),
        (pa.array(LIST, pa.large_string()), LIST_KEYS),
        (pa.array(LIST, pa.string_view()), LIST_KEYS),
        (pa.array(LIST, pa.binary()), LIST_KEYS),
        (pa.array([b"a", None], pa.binary(1)), [A, NULL]),
        (pa.array(LIST)[1:3], [NULL, B]),
        (pa.array(LIST).dictionary_encode(), LIST_KEYS),
        (pa.array(LIST).dictionary_encode()[2:], [B, A]),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), ["a", None]), [A, NULL, NULL]),
        (pa.chunked_array([LIST, ["b"], []], pa.string()), [*LIST_KEYS, B]),
        (pa.chunked_array([], pa.int32()), []),
        (pa.array([1, None, -1], pa.int16()), [1, NULL, ALL]),
        (pa.array([2**64 - 1, None], pa.uint64()), [ALL, NULL]),
        (pa.array([True, None, False]), [1, NULL, 0]),
        (pa.nulls(2), [NULL, NULL]),
        ([pa.scalar("a"), pa.scalar(None, pa.int8())], [A, NULL]),
        (pd.Series([1, -1]), [1, ALL]),
        (pd.Series([1, None], dtype="Int64"), [1, NULL]),
        (pd.Series(["a", None, np.nan]), [A, NULL, NULL]),
        (pd.Series(["a", 5, pd.NA], dtype=object), [A, 5, NULL]),
        (pd.Series(["a", "b", None], dtype="category"), [A, B, NULL]),
        (pd.Series(["a", None], dtype="string"), [A, NULL]),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_every_kind_of_id_has_its_key(ids, keys):
    result = keys_of(ids)
    assert result.dtype == np.uint64
    assert result.flags.c_contiguous
    assert result.tolist() == keys


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, 2.5], ["position 1", "2.5"]),
        ([2**64], ["position 0", str(2**64)]),
        ([0, -(2**63) - 1], ["position 1", str(-(2**63) - 1)]),
        ([[1, 2]], ["position 0", "[1, 2]"]),
        ([1, {}], ["position 1"]),
        (["a", "\ud800"], ["position 1"]),
        (np.array([1.5, 2.0]), ["float64", "1.5"]),
        (np.array([[1, 2]]), ["(1, 2)"]),
        (np.array(5), ["()"]),
        (np.array([1 + 2j]), ["complex"]),
        (np.array(["2026-01-01"], "M8[D]"), ["datetime64"]),
        (np.array([np.array([1, 2]), None], object), ["position 0"]),
        (pa.array([1.5]), ["double", "1.5"]),
        (pa.array([[1]]), ["list"]),
        (pa.array([1], pa.date32()), ["date32"]),
        (pd.Series([1.5]), ["float64"]),
        (pd.DataFrame({"a": [1], "b": [2]}), ["DataFrame", "one column"]),
        (pd.MultiIndex.from_tuples([(1, 2)]), ["MultiIndex", "level"]),
        (pd.Series(pd.period_range("2026", periods=1)), ["period"]),
        (pa.table({"a": [1]}), ["struct"]),
        ({"a": 1}, ["dict"]),
        ([float("nan")], ["position 0", "nan"]),
        (np.zeros(2, np.float16), ["float16"]),
        ([np.float32(1)], ["position 0"]),
        ([decimal.Decimal(1)], ["position 0", "Decimal"]),
        ("abc", ["str"]),
        (5, ["int"]),
        (None, ["NoneType"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_id_is_refused_by_place_and_value(ids, words):
    with pytest.raises(errors.InvalidArgumentError) as raised:
        keys_of(ids)
    for word in words:
        assert word in str(raised.value)


def test_64_bit_integers_are_not_copied():
    for dtype in (np.uint64, np.int64):
        ids = np.arange(10, dtype=dtype)
        assert np.shares_memory(keys_of(ids), ids)


@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))))
def test_lists_and_arrow_arrays_of_strings_agree(ids):
    assert keys_of(ids).tolist() == keys_of(pa.array(ids, pa.string())).tolist()
    encoded = pa.array(ids, pa.large_string()).dictionary_encode()
    assert keys_of(ids).tolist() == keys_of(encoded).tolist()


# XXH3, 64 bits, seed 0: its code differs for 0, 1-3, 4-8, 9-16, 17-128, 129-240 and more bytes.
GOLDEN = {
    "": 0x2D06800538D394C2,
    "a": 0xE6C632B61E964E1F,
    "5": 0xDEDB980100C87E72,
    "ü": 0x5DA81D070CE09F6E,
    "user_42": 0x16DBB953ABDD8E25,
    "日本語": 0x11FEC42C806050B7,
    "x" * 20: 0xB5063209879672BF,
    "user:0000000000000001": 0x8C258772D5E4C54D,
    "y" * 200: 0x78C5AE5CF7B1237E,
    "z" * 1000: 0xCD3A574700EDDF41,
}


def test_the_hash_of_strings_is_stable_for_ever():
    assert keys_of(list(GOLDEN)).tolist() == list(GOLDEN.values())
    assert keys_of([text.encode() for text in GOLDEN]).tolist() == list(GOLDEN.values())
    assert keys_of(pa.array(list(GOLDEN))).tolist() == list(GOLDEN.values())
    assert NULL_KEY == 0x9D3C5A71E8F20B64


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_integers_are_their_64_bits_whatever_their_type(bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = [low, -1, 0, 1, high]
    for dtype in (f"<i{bits // 8}", f">i{bits // 8}"):
        assert keys_of(np.array(values, dtype)).tolist() == [v % 2**64 for v in values]
    values = [0, 1, 2**bits - 1]
    for dtype in (f"<u{bits // 8}", f">u{bits // 8}"):
        assert keys_of(np.array(values, dtype)).tolist() == values
    assert keys_of(pa.array(values, f"uint{bits}")).tolist() == values
    assert keys_of(list(np.array(values, f"u{bits // 8}"))).tolist() == values


@given(st.lists(st.integers(0, 30).map(lambda n: (n * 0x9E3779B97F4A7C15) % 2**64)))
@example([5, 3, 5, 2**22, 2**33 + 3, 2**63, 0])
def test_unique_keys_ascend_and_positions_lead_back(values):
    keys = np.array(values, np.uint64)
    unique, inverse = _core.unique(keys)
    assert unique.tolist() == sorted(set(values))
    assert inverse.dtype == np.int32
    assert unique[inverse].tolist() == values


def test_offsets_that_lead_outside_the_data_are_refused():
    data = np.zeros(4, np.uint8)
    for offsets in ([0, 5], [3, 1], [-1, 2]):
        with pytest.raises(errors.DataCorruptionError):
            _core.hash_strings(np.array(offsets, np.int64), data)
