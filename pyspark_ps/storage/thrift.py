"""Thrift's compact protocol, in which Parquet writes page headers and footers.

A struct is a dict from field number to (type, value), in rising order of the numbers. Values:
`True` and `False` for the two boolean types, int for integers, bytes for binary, a dict for a
struct (or its bytes), (element type, list of values) for a list. What Parquet does not use (maps,
sets, doubles) is refused.
"""

from __future__ import annotations

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64 = 1, 2, 3, 4, 5, 6
BINARY, LIST, STRUCT = 8, 9, 12

Struct = dict[int, tuple[int, Any]]

_SHORT_LIST_MAX = 14  # longer ones write their length behind the type
_DEPTH_MAX = 16


def write_struct(struct: Struct) -> bytes:
    """The bytes of a struct."""
    out = bytearray()
    _put_struct(out, struct)
    return bytes(out)


def read_struct(data: Any, at: int = 0) -> tuple[Struct, int]:
    """The struct that begins at a byte, and where it ends.

    Args:
        data: bytes or a memoryview of bytes.

    Raises:
        ValueError: these bytes are none.
    """
    try:
        return _get_struct(data, at, _DEPTH_MAX)
    except IndexError as error:
        raise ValueError("a Thrift struct is cut off") from error


def _put_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for number, (kind, value) in struct.items():
        if 0 < number - last < 16:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            _put_integer(out, number)
        last = number
        if kind not in (TRUE, FALSE):
            _put_value(out, kind, value)
    out.append(0)


def _put_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _put_integer(out, value)
    elif kind == BINARY:
        _put_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        if isinstance(value, bytes):
            out += value
        else:
            _put_struct(out, value)
    elif kind == LIST:
        element, values = value
        if len(values) <= _SHORT_LIST_MAX:
            out.append(len(values) << 4 | element)
        else:
            out.append(0xF0 | element)
            _put_varint(out, len(values))
        for one in values:
            _put_value(out, element, one)
    elif kind == BYTE:
        out.append(value & 0xFF)
    else:
        raise ValueError(f"Thrift type {kind} is not one that Parquet uses")


def _put_integer(out: bytearray, value: int) -> None:
    _put_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _get_struct(data: Any, at: int, depth: int) -> tuple[Struct, int]:
    struct: Struct = {}
    number = 0
    while head := data[at]:
        at += 1
        kind = head & 0x0F
        if head >> 4:
            number += head >> 4
        else:
            number, at = _get_integer(data, at)
        if kind in (TRUE, FALSE):
            struct[number] = (kind, kind == TRUE)
        else:
            value, at = _get_value(data, at, kind, depth)
            struct[number] = (kind, value)
    return struct, at + 1


def _get_value(data: Any, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (I16, I32, I64):
        return _get_integer(data, at)
    if kind == BINARY:
        length, at = _get_varint(data, at)
        if length > len(data) - at:
            raise IndexError
        return bytes(data[at : at + length]), at + length
    if depth == 0:
        raise ValueError("Thrift structs lie too deep in each other")
    if kind == STRUCT:
        return _get_struct(data, at, depth - 1)
    if kind == LIST:
        length, element = data[at] >> 4, data[at] & 0x0F
        at += 1
        if length > _SHORT_LIST_MAX:
            length, at = _get_varint(data, at)
        values = []
        for _ in range(length):
            value, at = _get_value(data, at, element, depth - 1)
            values.append(value)
        return (element, values), at
    if kind == BYTE:
        return data[at], at + 1
    raise ValueError(f"Thrift type {kind} is not one that Parquet uses")


def _get_integer(data: Any, at: int) -> tuple[int, int]:
    value, at = _get_varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _get_varint(data: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a Thrift integer has more than 64 bits")
