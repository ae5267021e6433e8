"""The few AMQP 0-9-1 frames that travel once per call: publish, deliver, return, ack; bytes to values and back.

pika's codec builds an object per method and frame: 4.8 us for a publish and 11 us for a deliver, where these functions
take a tenth of that. Everything else (handshake, topology, heartbeats, closing) stays pika's.

A frame is ``type:octet channel:short size:long payload end:octet`` (AMQP 0-9-1, 4.2.3); a content is a method frame, a
header frame and body frames, with nothing else between them on the same channel (4.2.6).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from servicebus.transport.tables import LENGTHS, Unreadable, read_short, read_table, write_short, write_table

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE
FRAME_OVERHEAD = 8
DELIVER = (60 << 16) | 60
RETURN = (60 << 16) | 50
GET_OK = (60 << 16) | 71
GET_EMPTY = (60 << 16) | 72
ACK = (60 << 16) | 80
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

FRAME_HEAD = struct.Struct(">BHL")
METHOD_HEAD = struct.Struct(">BHLL")
_ACK_FRAME = struct.Struct(">BHLLQBB")
_ACK_FRAME_BYTES = 13
HEADER_FRAME = struct.Struct(">BHLHHQH")
"""Up to the properties: type, channel, length, class, weight, size of the body, property flags."""
_HEADER_BYTES = 14
_U16 = struct.Struct(">H")
TAG_AND_BIT = struct.Struct(">Q?")
"""A delivery tag, and whether it was delivered before, or whether all up to it are acknowledged."""

# Property flags in the order in which the properties stand in a header frame (AMQP 0-9-1, basic class).
CONTENT_TYPE, CONTENT_ENCODING, HEADERS, DELIVERY_MODE, PRIORITY = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800
CORRELATION_ID, REPLY_TO, EXPIRATION, MESSAGE_ID = 0x0400, 0x0200, 0x0100, 0x0080
_UNKNOWN = 0x0003
"""Bit 0 announces more flags, of which the basic class has none; bit 1 is nothing's."""
_SELDOM = CONTENT_TYPE | CONTENT_ENCODING | HEADERS | PRIORITY | _UNKNOWN
"""We write headers for copies and delayed messages only, priorities where asked for, and none of the others."""
_PERSISTENT = b"\x02"
_PRIORITIES = [bytes((priority,)) for priority in range(256)]


def ack_frame(channel: int, tag: int, multiple: bool = False) -> bytes:
    """``basic.ack`` of one delivery, or of all up to it."""
    return _ACK_FRAME.pack(METHOD, channel, _ACK_FRAME_BYTES, ACK, tag, multiple, END)


@lru_cache(maxsize=1024)
def _publish_method(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    """The method frame of ``basic.publish``; the same for every message on a path, so it is remembered."""
    arguments = b"\0\0" + write_short(exchange) + write_short(routing_key) + (b"\1" if mandatory else b"\0")
    payload = b"\0\x3c\0\x28" + arguments
    return FRAME_HEAD.pack(METHOD, channel, len(payload)) + payload + b"\xce"


def publish_frames(
    channel: int,
    exchange: str,
    routing_key: str,
    mandatory: bool,
    flags: int,
    properties: bytes,
    body: bytes,
    frame_max: int,
) -> bytes:
    """``basic.publish``, the header frame and the body frames of one content.

    Args:
        flags, properties: as ``write_properties`` returns them.
    """
    method = _publish_method(channel, exchange, routing_key, mandatory)
    if len(properties) > frame_max > 0:
        raise Unreadable(f"{len(properties)} bytes of headers do not fit a frame of {frame_max}")
    size, most = len(body), frame_max - FRAME_OVERHEAD
    head = HEADER_FRAME.pack(HEADER, channel, _HEADER_BYTES + len(properties), 60, 0, size, flags)
    if 0 < size <= most:
        return b"".join((method, head, properties, b"\xce", FRAME_HEAD.pack(BODY, channel, size), body, b"\xce"))
    frames: list[bytes | memoryview] = [method, head, properties, b"\xce"]
    whole = memoryview(body)
    for start in range(0, size, most):
        piece = whole[start : start + most]
        frames += (FRAME_HEAD.pack(BODY, channel, len(piece)), piece, b"\xce")
    return b"".join(frames)


def write_properties(
    headers: Mapping[str, Any] | None = None,
    persistent: bool = False,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    expiration: str | None = None,
    message_id: str | None = None,
    priority: int | None = None,
) -> tuple[int, bytes]:
    """The flags that say which properties there are, and the properties."""
    flags = 0
    properties = b""
    if headers:
        flags |= HEADERS
        properties = write_table(headers)
    if persistent:
        flags |= DELIVERY_MODE
        properties += _PERSISTENT
    if priority is not None:
        flags |= PRIORITY
        properties += _PRIORITIES[priority]
    if correlation_id is not None:
        flags |= CORRELATION_ID
        raw = correlation_id.encode()  # as write_short() does, without the call: every request and reply has one
        properties += LENGTHS[len(raw)] + raw if len(raw) < len(LENGTHS) else write_short(correlation_id)
    if reply_to is not None:
        flags |= REPLY_TO
        properties += _known_short(reply_to)
    if expiration is not None:
        flags |= EXPIRATION
        properties += _known_short(expiration)
    if message_id is not None:
        flags |= MESSAGE_ID
        properties += write_short(message_id)
    return flags, properties


def read_return(data: bytes, start: int, end: int) -> tuple[str, str, str]:
    """``(reason, exchange, routing key)`` of the ``basic.return`` arguments between *start* and *end*."""
    (code,) = _U16.unpack_from(data, start)
    text, at = read_short(data, start + 2, end)
    exchange, at = read_short(data, at, end)
    routing_key, at = read_short(data, at, end)
    return f"{code} {text}", exchange, routing_key


def table_bytes(headers: Mapping[str, Any]) -> int | None:
    """How many bytes *headers* take in a header frame; None if they cannot be encoded."""
    try:
        return len(write_table(headers))
    except Unreadable:
        return None


Properties = tuple["str | None", "str | None", "str | None", "Mapping[str, Any] | None"]
"""Correlation id, reply-to, message id, headers: None for those that are absent."""


def read_properties(data: bytes, at: int, end: int, flags: int) -> Properties:
    """What stands between *at* and *end*, after the *flags* that say what there is.

    Raises:
        Unreadable: nothing else, whatever the bytes; see ``transport/tables.py``.
    """
    headers = correlation_id = reply_to = message_id = None
    try:
        if flags & _SELDOM:
            headers, at = _read_seldom(data, at, end, flags)
        elif flags & DELIVERY_MODE:
            at += 1
        if flags & CORRELATION_ID:
            stop = at + 1 + data[at]
            correlation_id, at = data[at + 1 : stop].decode(), stop
        if flags & REPLY_TO:
            stop = at + 1 + data[at]
            reply_to, at = data[at + 1 : stop].decode(), stop
        if flags & EXPIRATION:
            at += 1 + data[at]
        if flags & MESSAGE_ID:
            stop = at + 1 + data[at]
            message_id, at = data[at + 1 : stop].decode(), stop
    except IndexError:
        at = end + 1
    except UnicodeDecodeError:
        raise Unreadable("a property is not UTF-8") from None
    if at > end:
        raise Unreadable("the properties are longer than the frame that they stand in")
    return correlation_id, reply_to, message_id, headers


def _read_seldom(data: bytes, at: int, end: int, flags: int) -> tuple[Mapping[str, Any] | None, int]:
    """The headers, and where the correlation id begins, of properties that most messages do not have."""
    if flags & _UNKNOWN:
        raise Unreadable(f"unknown property flags 0x{flags:04x}")
    headers = None
    if flags & CONTENT_TYPE:
        at += 1 + data[at]
    if flags & CONTENT_ENCODING:
        at += 1 + data[at]
    if flags & HEADERS:
        headers, at = read_table(data, at, end)
    return headers, at + bool(flags & DELIVERY_MODE) + bool(flags & PRIORITY)


def read_ack(data: bytes, start: int) -> tuple[int, bool]:
    """``(number, multiple)`` of the ``basic.ack`` arguments at *start*: a confirm."""
    number, multiple = TAG_AND_BIT.unpack_from(data, start)
    return number, multiple


_known_short = lru_cache(maxsize=1024)(write_short)
