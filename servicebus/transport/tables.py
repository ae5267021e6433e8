"""AMQP tables: the headers of a message, bytes to values and back, within bounds.

Anyone who may publish writes these bytes, and RabbitMQ hands them on unread. So the reader accepts nothing that it does
not understand, looks at no more than `MAX_VALUES` values and `MAX_DEPTH` tables inside each other, never beyond the end
of the header frame, and raises nothing but Unreadable. What it returns, the writer can write again.

The types are those of RabbitMQ, which differ from the specification's in part: https://www.rabbitmq.com/amqp-0-9-1-errata
"""

from __future__ import annotations

import calendar
import struct
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

__all__ = [
    "LENGTHS",
    "MAX_DEPTH",
    "MAX_VALUES",
    "Unreadable",
    "read_name",
    "read_short",
    "read_table",
    "write_short",
    "write_table",
]

MAX_DEPTH = 8
"""``x-death`` of RabbitMQ is three deep."""
MAX_VALUES = 1000
"""Of one message's headers, those of all inner tables included."""

_U32 = struct.Struct(">I")
_I64 = struct.Struct(">q")
_U64 = struct.Struct(">Q")
_DECIMAL = struct.Struct(">Bi")
_NUMBERS = {
    ord(kind): struct.Struct(f">{code}")
    for kind, code in {
        "t": "?", "b": "b", "B": "B", "s": "h", "U": "h", "u": "H", "I": "i", "i": "I", "l": "q", "L": "q",
        "f": "f", "d": "d",
    }.items()
}  # fmt: skip
_TEXT, _BYTES, _ARRAY, _TABLE, _TIME, _SCALED, _NOTHING = b"SxAFTDV"
_LAST_TIME = 253402300799
"""Seconds until the end of the year 9999, where datetime ends."""


class Unreadable(Exception):
    """Raised when bytes are no AMQP that this module reads, or a value none that AMQP can say."""


def read_table(data: bytes, at: int, end: int) -> tuple[dict[str, Any], int]:
    """The table at *at*, and where it ends, which is not after *end*.

    Raises:
        Unreadable: nothing else, whatever the bytes.
    """
    return _read_table(data, at, end, MAX_DEPTH, [MAX_VALUES])


def _read_table(data: bytes, at: int, end: int, depth: int, left: list[int]) -> tuple[dict[str, Any], int]:
    at, stop = _span(data, at, end)
    table: dict[str, Any] = {}
    while at < stop:
        name, at = read_short(data, at, stop)
        table[name], at = _read_value(data, at, stop, depth, left)
    return table, at


def _read_array(data: bytes, at: int, end: int, depth: int, left: list[int]) -> tuple[list[Any], int]:
    at, stop = _span(data, at, end)
    values: list[Any] = []
    while at < stop:
        value, at = _read_value(data, at, stop, depth, left)
        values.append(value)
    return values, at


def _read_value(data: bytes, at: int, end: int, depth: int, left: list[int]) -> tuple[Any, int]:
    left[0] -= 1
    if left[0] < 0:
        raise Unreadable(f"more than {MAX_VALUES} header values")
    if at >= end:
        raise Unreadable("a header value is cut off")
    kind, at = data[at], at + 1
    if kind in (_TEXT, _BYTES):
        at, stop = _span(data, at, end)
        return (_text(data[at:stop]) if kind == _TEXT else data[at:stop]), stop
    if kind in (_TABLE, _ARRAY):
        if depth <= 1:
            raise Unreadable(f"headers are nested deeper than {MAX_DEPTH}")
        return (_read_table if kind == _TABLE else _read_array)(data, at, end, depth - 1, left)
    if kind == _NOTHING:
        return None, at
    if kind in _NUMBERS:
        return _unpack(_NUMBERS[kind], data, at, end)[0], at + _NUMBERS[kind].size
    if kind == _TIME:
        return _time(_unpack(_U64, data, at, end)[0]), at + _U64.size
    if kind == _SCALED:
        scale, value = _unpack(_DECIMAL, data, at, end)
        digits = tuple(map(int, str(abs(value))))
        return Decimal((value < 0, digits, -scale)), at + _DECIMAL.size
    raise Unreadable(f"a header value has the unknown type 0x{kind:02x}")


def read_short(data: bytes, at: int, end: int) -> tuple[str, int]:
    """The short string at *at*, and where it ends, which is not after *end*."""
    if at >= end:
        raise Unreadable("a name or property is cut off")
    stop = at + 1 + data[at]
    if stop > end:
        raise Unreadable("a name or property is cut off")
    try:
        return data[at + 1 : stop].decode(), stop
    except UnicodeDecodeError:
        raise Unreadable("a name or property is not UTF-8") from None


def read_name(data: bytes, at: int, end: int) -> tuple[str, int]:
    """As ``read_short()``, of an exchange or routing key: bytes that are no UTF-8 are shown by a replacement."""
    if at >= end or at + 1 + data[at] > end:
        raise Unreadable("a name is cut off")
    stop = at + 1 + data[at]
    return data[at + 1 : stop].decode(errors="replace"), stop


def _span(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Where that begins and ends which the 32-bit length at *at* announces."""
    start: int = at + _U32.size
    stop: int = start + _unpack(_U32, data, at, end)[0]
    if stop > end:
        raise Unreadable("a header is longer than the frame that it stands in")
    return start, stop


def _unpack(layout: struct.Struct, data: bytes, at: int, end: int) -> tuple[Any, ...]:
    if at + layout.size > end:
        raise Unreadable("a header value is cut off")
    return layout.unpack_from(data, at)


def _text(raw: bytes) -> str | bytes:
    """A long string is text by custom; AMQP lets it be any bytes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _time(seconds: int) -> datetime:
    if seconds > _LAST_TIME:
        raise Unreadable(f"a header says the time {seconds}, which is after the year 9999; are these milliseconds?")
    return datetime.fromtimestamp(seconds, timezone.utc)


# -- writing -----------------------------------------------------------------------------------------------------------


def write_table(table: Mapping[str, Any]) -> bytes:
    """The bytes of *table*, with its length before them; for values in the Python types that the reader returns.

    Raises:
        Unreadable: a name or a value that AMQP cannot say.
    """
    raw = b"".join([write_short(name) + _value(value) for name, value in table.items()])
    return _U32.pack(len(raw)) + raw


def write_short(text: str) -> bytes:
    """*text* with its length, of at most 255 bytes, before it."""
    raw = text.encode()
    try:
        return LENGTHS[len(raw)] + raw
    except IndexError:
        raise Unreadable(f"{len(raw)} bytes do not fit a short string") from None


LENGTHS = [bytes((length,)) for length in range(256)]
"""What stands before a short string, by its length."""


def _value(value: Any) -> bytes:
    write = _WRITERS.get(type(value)) or next((_WRITERS[kind] for kind in _WRITERS if isinstance(value, kind)), None)
    if write is None:
        raise Unreadable(f"a header cannot be of type {type(value).__name__}")
    try:
        raw: bytes = write(value)
    except (struct.error, OverflowError):
        raise Unreadable(f"a header cannot be the {type(value).__name__} {value!r}") from None
    return raw


def _long(kind: bytes, raw: bytes) -> bytes:
    return kind + _U32.pack(len(raw)) + raw


def _int(value: int) -> bytes:
    return struct.pack(">ci", b"I", value) if -(1 << 31) <= value < 1 << 31 else b"l" + _I64.pack(value)


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent > 0:
        raise OverflowError
    number = int("".join(map(str, digits)))
    return b"D" + _DECIMAL.pack(-exponent, -number if sign else number)


_WRITERS: dict[type, Any] = {
    str: lambda value: _long(b"S", value.encode(errors="backslashreplace")),
    bytes: lambda value: _long(b"x", value),
    bool: lambda value: b"t\1" if value else b"t\0",
    int: _int,
    float: lambda value: struct.pack(">cd", b"d", value),
    Decimal: _decimal,
    datetime: lambda value: b"T" + _U64.pack(calendar.timegm(value.utctimetuple())),
    dict: lambda value: b"F" + write_table(value),
    list: lambda value: _long(b"A", b"".join(map(_value, value))),
    type(None): lambda _value: b"V",
}
