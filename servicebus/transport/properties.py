"""All properties of a message, bytes to values and back; ``transport/frames.py`` reads the four that requests have.

Other programs write them, so the reader raises Unreadable and nothing else, as that of ``transport/tables.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from servicebus._plain import PERSISTENT, MessageProperties, PlainMessage
from servicebus.transport.frames import CONTENT_ENCODING, CONTENT_TYPE, HEADERS, Properties
from servicebus.transport.interface import Delivery, Origin
from servicebus.transport.tables import Unreadable, read_short, read_table, write_short, write_table
from servicebus.wire import headers

__all__ = [
    "MOST_OTHER_BYTES",
    "as_dead_letter",
    "as_republished",
    "as_stored",
    "plain_message",
    "read_all",
    "read_checked",
    "reasons",
    "write_all",
]

_U64 = struct.Struct(">Q")
_UNKNOWN = 0x0007
"""Bit 2 is the reserved cluster id, which no client writes; the others see ``frames._UNKNOWN``."""


class _Field(NamedTuple):
    name: str
    flag: int
    kind: str


# In the order in which they stand (AMQP 0-9-1, basic class).
_FIELDS = (
    _Field("content_type", CONTENT_TYPE, "short"),
    _Field("content_encoding", CONTENT_ENCODING, "short"),
    _Field("headers", HEADERS, "table"),
    _Field("delivery_mode", 0x1000, "octet"),
    _Field("priority", 0x0800, "octet"),
    _Field("correlation_id", 0x0400, "short"),
    _Field("reply_to", 0x0200, "short"),
    _Field("expiration", 0x0100, "short"),
    _Field("message_id", 0x0080, "short"),
    _Field("timestamp", 0x0040, "time"),
    _Field("type", 0x0020, "short"),
    _Field("user_id", 0x0010, "short"),
    _Field("app_id", 0x0008, "short"),
)
_USER_ID = 0x0010
MOST_OTHER_BYTES = 9 * 256 + 10
"""What the other properties take at most beside the headers."""
_ROUTING_HEADERS = ("CC", "BCC")
"""By which a publisher has the broker route to further queues."""


def read_all(flags: int, raw: bytes) -> MessageProperties:
    """The properties in *raw*. Raises Unreadable: nothing else, whatever the bytes."""
    if flags & _UNKNOWN:
        raise Unreadable(f"unknown property flags 0x{flags:04x}")
    found: dict[str, Any] = {}
    at, end = 0, len(raw)
    for name, flag, kind in _FIELDS:
        if not flags & flag:
            continue
        if kind == "short":
            found[name], at = read_short(raw, at, end)
        elif kind == "table":
            found[name], at = read_table(raw, at, end)
        elif kind == "octet":
            found[name], at = raw[at : at + 1], at + 1
        else:
            found[name], at = raw[at : at + 8], at + 8
        if at > end:
            raise Unreadable("the properties are longer than the frame that they stand in")
    for name in ("delivery_mode", "priority"):
        if name in found:
            found[name] = found[name][0]
    if "timestamp" in found:
        (found["timestamp"],) = _U64.unpack(found["timestamp"])
    return MessageProperties(**found)


_READ_BY_FRAMES = ("correlation_id", "reply_to", "message_id", "headers")
"""In the order in which ``frames.Properties`` has them."""


@lru_cache(maxsize=256)
def _layout(flags: int) -> tuple[tuple[str, int | None], ...]:
    """What stands there by *flags*: the kind of each, and its place in ``frames.Properties``, if it has one."""
    if flags & _UNKNOWN:
        raise Unreadable(f"unknown property flags 0x{flags:04x}")
    places = {name: place for place, name in enumerate(_READ_BY_FRAMES)}
    return tuple((each.kind, places.get(each.name)) for each in _FIELDS if flags & each.flag)


def read_checked(flags: int, raw: bytes) -> Properties:
    """What ``frames.read_properties()`` returns of *raw*; what that passes over can be read, too. Raises Unreadable.

    For what is published again as it is.
    """
    found: list[Any] = [None, None, None, None]
    at, end = 0, len(raw)
    for kind, place in _layout(flags):
        value: Any = None
        if kind == "short":
            value, at = read_short(raw, at, end)
        elif kind == "table":
            value, at = read_table(raw, at, end)
        else:
            at += 1 if kind == "octet" else 8
            if at > end:
                raise Unreadable("the properties are longer than the frame that they stand in")
        if place is not None:
            found[place] = value
    return found[0], found[1], found[2], found[3]


def write_all(properties: MessageProperties) -> tuple[int, bytes]:
    """The flags and bytes of *properties*. Raises Unreadable: a value is none that AMQP can say."""
    flags, pieces = 0, []
    for name, flag, kind in _FIELDS:
        value = getattr(properties, name)
        if value is None or (kind == "table" and not value):
            continue
        flags |= flag
        try:
            pieces.append(_write(kind, value))
        except (struct.error, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise Unreadable(f"the property {name} cannot be {value!r}: {error}") from None
    return flags, b"".join(pieces)


def _write(kind: str, value: Any) -> bytes:
    if kind == "short":
        return write_short(value)
    if kind == "table":
        return write_table(value)
    return bytes((value,)) if kind == "octet" else _U64.pack(value)


def plain_message(delivery: Delivery) -> PlainMessage:
    """What another program has published. Raises Unreadable: its properties cannot be read."""
    origin = delivery.origin
    assert origin is not None, "it was consumed whole"
    properties = read_all(origin.flags, origin.properties)
    return PlainMessage(delivery.body, origin.exchange, origin.routing_key, delivery.redelivered, properties)


def as_stored(origin: Origin, kept: Mapping[str, Any]) -> tuple[int, bytes]:
    """The properties of a copy of our own: with the headers *kept*, on disk, as long as needed. Raises Unreadable."""
    found = read_all(origin.flags, origin.properties)
    return write_all(replace(found, headers=kept, user_id=None, expiration=None, delivery_mode=PERSISTENT))


def reasons(origin: Origin, why: str) -> MessageProperties:
    """What a dead letter of another program's message says of itself, which came from *origin*."""
    said = {headers.EXCHANGE: origin.exchange, headers.ROUTING_KEY: origin.routing_key, headers.REASON: why}
    return MessageProperties(headers=said, delivery_mode=PERSISTENT)


def as_dead_letter(origin: Origin, why: str) -> tuple[int, bytes]:
    """The properties of a message that goes nowhere else, with the reason. Raises Unreadable."""
    kept = headers.as_published(read_all(origin.flags, origin.properties).headers)
    return as_stored(origin, {**kept, **(reasons(origin, why).headers or {})})


def as_republished(flags: int, raw: bytes) -> tuple[int, bytes]:
    """The properties with which a message goes on to another exchange, on this broker or another.

    As they are, but for what the broker acts upon: it takes a user id from that very user only, and would route by the
    headers ``CC`` and ``BCC`` to wherever a stranger says.

    Args:
        flags, raw: of a delivery, whose transport could read them.
    """
    if not flags & (_USER_ID | HEADERS):
        return flags, raw
    found = read_all(flags, raw)
    given = found.headers or {}
    if not flags & _USER_ID and not any(name in given for name in _ROUTING_HEADERS):
        return flags, raw
    kept = {name: value for name, value in given.items() if name not in _ROUTING_HEADERS}
    return write_all(replace(found, user_id=None, headers=kept))
