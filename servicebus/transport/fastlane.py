"""FastLane: takes the frames that travel once per call out of the stream, before pika sees them.

Theory of operation. The lane stands between our Stream and pika's connection, as pika's transport on one side and the
stream's protocol on the other. It cuts what the broker sends into frames. A ``basic.deliver`` for a consumer that was
registered here, with its header and body frames, becomes one callback; so do a ``basic.return`` and a ``basic.ack`` (a
confirm) on a channel that was registered. Every other frame goes to pika untouched and in order. pika never notices: a
delivery that it did not see changes none of its state, and its heartbeat checker is fed one heartbeat frame a second
while others are kept from it. What we publish and ack is written to the same stream between pika's own frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from servicebus.transport.frames import (
    ACK,
    BODY,
    DELIVER,
    DELIVERY_TAG,
    END,
    FRAME_HEAD,
    FRAME_OVERHEAD,
    HEADER,
    HEADER_FRAME,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    METHOD_HEAD,
    RETURN,
    Properties,
    Unreadable,
    read_ack,
    read_properties,
    read_return,
)
from servicebus.transport.stream import StreamProtocol

OnDeliver = Callable[[int, Properties, bytes], None]
"""``(delivery tag, properties, body)``"""
OnReturn = Callable[[str, str, str, Properties, bytes], None]
"""``(reason, exchange, routing key, properties, body)``"""
OnConfirm = Callable[[int, bool], None]
"""``(number, multiple)``"""
Taker = Callable[[bytes, int, int, int], int]
"""``(data, channel, start, end)`` of a frame; gives where what was taken ends."""

_HEARTBEAT_S = 1.0
_FRAME_TYPES = (METHOD, HEADER, BODY, HEARTBEAT)


class _Content:
    """A delivery, or what came back, whose header or body frames are still to come."""

    __slots__ = ("missing", "on_deliver", "pieces", "properties", "tag")

    def __init__(self, on_deliver: OnDeliver, tag: int):
        self.on_deliver = on_deliver
        self.tag = tag
        self.properties: Properties | None = None
        self.missing = 0
        self.pieces: list[bytes] = []


class FastLane:
    """One connection's lane. Everything belongs to the loop's thread."""

    def __init__(self, pika: StreamProtocol):
        self._pika = pika
        self._rest = b""
        self._consumers: dict[tuple[int, bytes], OnDeliver] = {}
        self._returns: dict[int, OnReturn] = {}
        self._confirms: dict[int, OnConfirm] = {}
        self._contents: dict[int, _Content] = {}
        self._fed_at = 0.0
        self._is_open = True

    def __repr__(self) -> str:
        return f"<FastLane consumers={len(self._consumers)} unfinished={len(self._contents)}>"

    def add_consumer(self, channel: int, consumer_tag: str, on_deliver: OnDeliver) -> None:
        self._consumers[channel, consumer_tag.encode()] = on_deliver

    def add_returns(self, channel: int, on_return: OnReturn) -> None:
        self._returns[channel] = on_return

    def add_confirms(self, channel: int, on_confirm: OnConfirm) -> None:
        self._confirms[channel] = on_confirm

    def remove_channel(self, channel: int) -> None:
        """The channel was closed; its number may be used again."""
        self._returns.pop(channel, None)
        self._confirms.pop(channel, None)
        self._contents.pop(channel, None)
        for key in [key for key in self._consumers if key[0] == channel]:
            del self._consumers[key]

    # -- the stream's protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._pika.connection_made(transport)

    def connection_lost(self, error: BaseException | None) -> None:
        self._is_open = False
        self._pika.connection_lost(error)

    def eof_received(self) -> bool | None:
        return self._pika.eof_received()

    def data_received(self, data: bytes) -> None:
        """Cut *data* into frames; ours become callbacks, runs of the others go to pika in one piece each."""
        if self._rest:
            data = b"".join((self._rest, data))
        at = kept_from = 0
        size = len(data)
        kept_some = False
        while at + 7 <= size:
            kind, channel, length = FRAME_HEAD.unpack_from(data, at)
            end = at + length + FRAME_OVERHEAD
            if kind not in _FRAME_TYPES:
                break  # "AMQP....": the broker speaks another version, and pika knows what to say of it
            if end > size:
                break
            if data[end - 1] != END:
                raise Unreadable(f"a frame of type {kind} on channel {channel} has no end")
            take: Taker | None = None  # who takes it, and gives where what it took ends: one of ours, or else pika
            if kind == METHOD:
                method = METHOD_HEAD.unpack_from(data, at)[3]
                if method == DELIVER and (channel, data[at + 12 : at + 12 + data[at + 11]]) in self._consumers:
                    take = self._take_delivery
                elif method == ACK and channel in self._confirms:
                    take = self._take_ack
                elif method == RETURN and channel in self._returns:
                    take = self._take_return
            elif channel in self._contents:
                take = self._take_body if kind == BODY else self._take_header if kind == HEADER else None
            if take is not None:
                if kept_from < at:
                    self._pass(data, kept_from, at)
                kept_some = True
                end = kept_from = take(data, channel, at, end)
            at = end
        if at + 7 <= size and data[at] not in _FRAME_TYPES:
            at = size
        if kept_from < at:
            self._pass(data, kept_from, at)
        self._rest = data[at:]
        if kept_some and time.monotonic() - self._fed_at >= _HEARTBEAT_S:
            self._feed_heartbeat()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take_delivery(self, data: bytes, channel: int, at: int, end: int) -> int:
        tag_at = at + 12 + data[at + 11]
        on_deliver = self._consumers[channel, data[at + 12 : tag_at]]
        (tag,) = DELIVERY_TAG.unpack_from(data, tag_at)
        # Nearly always all of it is here, and its body is one frame.
        if end + HEADER_FRAME.size <= len(data):
            kind, number, length, _class, _weight, size, flags = HEADER_FRAME.unpack_from(data, end)
            body: int = end + length + FRAME_OVERHEAD
            stop: int = body + size + FRAME_OVERHEAD
            is_whole = kind == HEADER and number == channel and stop <= len(data)
            if (
                is_whole
                and data[body - 1] == END == data[stop - 1]
                and FRAME_HEAD.unpack_from(data, body) == (BODY, channel, size)
            ):
                on_deliver(tag, read_properties(data, end + HEADER_FRAME.size, flags), data[body + 7 : stop - 1])
                return stop
        self._contents[channel] = _Content(on_deliver, tag)
        return end

    def _take_return(self, data: bytes, channel: int, at: int, end: int) -> int:
        on_return = self._returns[channel]
        reason, exchange, routing_key = read_return(data, at + 11)

        def returned(_tag: int, properties: Properties, body: bytes) -> None:
            on_return(reason, exchange, routing_key, properties, body)

        self._contents[channel] = _Content(returned, 0)
        return end

    def _take_header(self, data: bytes, channel: int, at: int, end: int) -> int:
        content = self._contents[channel]
        *_, content.missing, flags = HEADER_FRAME.unpack_from(data, at)
        content.properties = read_properties(data, at + HEADER_FRAME.size, flags)
        if not content.missing:
            self._deliver(channel, content, b"")
        return end

    def _take_body(self, data: bytes, channel: int, at: int, end: int) -> int:
        content = self._contents[channel]
        piece = data[at + 7 : end - 1]
        content.missing -= len(piece)
        if content.missing > 0:
            content.pieces.append(piece)
        elif content.missing < 0 or content.properties is None:
            raise Unreadable(f"the broker sent more than it announced on channel {channel}")
        else:
            self._deliver(channel, content, b"".join([*content.pieces, piece]) if content.pieces else piece)
        return end

    def _deliver(self, channel: int, content: _Content, body: bytes) -> None:
        del self._contents[channel]
        assert content.properties is not None
        content.on_deliver(content.tag, content.properties, body)

    def _take_ack(self, data: bytes, channel: int, at: int, end: int) -> int:
        self._confirms[channel](*read_ack(data, at + 11))
        return end

    def _pass(self, data: bytes, start: int, end: int) -> None:
        # A callback may have closed the connection: pika wants nothing more then.
        if self._is_open:
            self._pika.data_received(data[start:end])

    def _feed_heartbeat(self) -> None:
        self._fed_at = time.monotonic()
        self._pass(HEARTBEAT_FRAME, 0, len(HEARTBEAT_FRAME))
