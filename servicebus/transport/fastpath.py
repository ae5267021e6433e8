"""FastPath: takes the frames that travel once per call out of the stream, before pika sees them.

Theory of operation. The fast path stands between our SocketStream and pika's connection, as pika's transport on one
side and the stream's protocol on the other. It cuts what the broker sends into frames. A ``basic.deliver`` for a
consumer that was registered here, with its header and body frames, becomes one callback; so do the answer to a
``basic.get``, a ``basic.return`` and a ``basic.ack`` (a confirm) on a channel that was registered. Every other frame
goes to pika untouched and in order. pika never notices: a delivery that it did not see changes none of its state, and
its heartbeat checker is fed one heartbeat frame a second while others are kept from it, or a long one arrives. What we
publish and ack is written to the same stream between pika's own frames.

Strangers may have written a message's properties and body. What cannot be read, or is longer than we take, is handed on
with its flaw, so that it costs that delivery alone: an error in pika would cost the connection, and the broker would
deliver the same bytes over the next one. Of a body that is too long only the beginning is kept, and a digest of it all.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from servicebus.transport.base_channel import BaseChannel
from servicebus.transport.contents import Content, WholeContent
from servicebus.transport.frames import (
    ACK,
    BODY,
    DELIVER,
    END,
    FRAME_HEAD,
    FRAME_OVERHEAD,
    GET_EMPTY,
    GET_OK,
    HEADER,
    HEADER_FRAME,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    METHOD_HEAD,
    RETURN,
    TAG_AND_BIT,
    Properties,
    read_ack,
    read_properties,
    read_return,
)
from servicebus.transport.interface import Delivery, Flaw, Origin
from servicebus.transport.properties import read_checked
from servicebus.transport.stream import StreamProtocol
from servicebus.transport.tables import Unreadable, read_name

OnDeliver = Callable[..., None]
"""``(delivery tag, redelivered, properties, body)``; and the Flaw, if there is one; for what is whole, the Origin"""
OnGot = Callable[..., None]
"""As OnDeliver, with all arguments; without arguments: the queue is empty"""
OnReturn = Callable[[str, str, str, Properties, bytes], None]
"""``(reason, exchange, routing key, properties, body)``"""
OnConfirm = Callable[[int, bool], None]
"""``(number, multiple)``"""
Taker = Callable[[bytes, int, int, int], int]
"""``(data, channel, start, end)`` of a frame; returns the end of what was taken."""

_HEARTBEAT_S = 1.0
_SELDOM = (DELIVER, GET_OK, GET_EMPTY)
_FRAME_TYPES = (METHOD, HEADER, BODY, HEARTBEAT)
_MOST_FRAME_BYTES = 131072
"""What pika asks the broker for; no broker may send more (AMQP 0-9-1, 4.2.3)."""
_new = tuple.__new__
"""Makes a Delivery in C, and one is made for every call and every reply."""
_NO_PROPERTIES: Properties = (None, None, None, None)


class FastPath:
    """One connection's fast path. Everything belongs to the loop's thread.

    Args:
        most_bytes: bodies that are longer are not kept.
    """

    def __init__(self, pika: StreamProtocol, most_bytes: int):
        self._pika = pika
        self._most_bytes = most_bytes
        self._rest = b""
        self._consumers: dict[tuple[int, bytes], OnDeliver] = {}
        self._whole: dict[tuple[int, bytes], OnDeliver] = {}
        """Consumers that get each delivery with its origin."""
        self._returns: dict[int, OnReturn] = {}
        self._confirms: dict[int, OnConfirm] = {}
        self._gets: dict[int, deque[OnGot]] = {}
        self._contents: dict[int, Content] = {}
        self._fed_at = 0.0
        self._is_open = True

    def __repr__(self) -> str:
        return f"<FastPath consumers={len(self._consumers)} unfinished={len(self._contents)}>"

    def add_consumer(self, channel: int, consumer_tag: str, on_deliver: OnDeliver, *, whole: bool = False) -> None:
        consumers = self._whole if whole else self._consumers
        consumers[channel, consumer_tag.encode()] = on_deliver

    def add_returns(self, channel: int, on_return: OnReturn) -> None:
        self._returns[channel] = on_return

    def add_get(self, channel: int, on_got: OnGot) -> None:
        """A ``basic.get`` was sent on *channel*; the broker answers them in order."""
        self._gets.setdefault(channel, deque()).append(on_got)

    def add_confirms(self, channel: int, on_confirm: OnConfirm) -> None:
        self._confirms[channel] = on_confirm

    def remove_channel(self, channel: int) -> None:
        """The channel was closed; its number may be used again."""
        self._returns.pop(channel, None)
        self._confirms.pop(channel, None)
        self._gets.pop(channel, None)
        self._contents.pop(channel, None)
        for consumers in (self._consumers, self._whole):
            for key in [key for key in consumers if key[0] == channel]:
                del consumers[key]

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
        at, kept_from, size = 0, 0, len(data)
        while at + 7 <= size:
            kind, channel, length = FRAME_HEAD.unpack_from(data, at)
            end = at + length + FRAME_OVERHEAD
            if kind not in _FRAME_TYPES:
                break  # "AMQP....": the broker speaks another version, and pika raises the error for it
            if end > size:
                if length > _MOST_FRAME_BYTES:
                    raise Unreadable(f"a frame of {length} bytes on channel {channel}")
                break
            if data[end - 1] != END:
                raise Unreadable(f"a frame of type {kind} on channel {channel} has no end")
            take: Taker | None = None  # one of ours, or else pika
            if kind == METHOD:
                method = METHOD_HEAD.unpack_from(data, at)[3]
                if method == DELIVER and (channel, data[at + 12 : at + 12 + data[at + 11]]) in self._consumers:
                    take = self._take_delivery
                elif method == ACK and channel in self._confirms:
                    take = self._take_ack
                elif method == RETURN and channel in self._returns:
                    take = self._take_return
                elif method in _SELDOM:
                    take = self._seldom(method, data, channel, at)
            elif channel in self._contents:
                take = self._take_body if kind == BODY else self._take_header if kind == HEADER else None
            if take is not None:
                if kept_from < at:
                    self._pass(data, kept_from, at)
                end = kept_from = take(data, channel, at, end)
            at = end
        if at + 7 <= size and data[at] not in _FRAME_TYPES:
            at = size
        if kept_from < at:
            self._pass(data, kept_from, at)
        self._rest = data[at:]
        if (kept_from or self._rest) and time.monotonic() - self._fed_at >= _HEARTBEAT_S:
            self._feed_heartbeat()

    def _seldom(self, method: int, data: bytes, channel: int, at: int) -> Taker | None:
        """For what is whole, or was asked for."""
        if method == DELIVER:
            return self._take_whole if (channel, data[at + 12 : at + 12 + data[at + 11]]) in self._whole else None
        return self._take_got if self._gets.get(channel) else None

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take_delivery(self, data: bytes, channel: int, at: int, end: int) -> int:
        tag_at = at + 12 + data[at + 11]
        on_deliver = self._consumers[channel, data[at + 12 : tag_at]]
        tag, redelivered = TAG_AND_BIT.unpack_from(data, tag_at)
        # Nearly always all of it is here, and its body is one frame.
        if end + HEADER_FRAME.size <= len(data):
            kind, number, length, _class, _weight, size, flags = HEADER_FRAME.unpack_from(data, end)
            body: int = end + length + FRAME_OVERHEAD
            stop: int = body + size + FRAME_OVERHEAD
            is_whole = kind == HEADER and number == channel and stop <= len(data) and size <= self._most_bytes
            if (
                is_whole
                and data[body - 1] == END == data[stop - 1]
                and FRAME_HEAD.unpack_from(data, body) == (BODY, channel, size)
            ):
                try:
                    properties = read_properties(data, end + HEADER_FRAME.size, body - 1, flags)
                except Unreadable:
                    pass  # the slower way raises what is wrong
                else:
                    on_deliver(tag, redelivered, properties, data[body + 7 : stop - 1])
                    return stop
        self._contents[channel] = Content(on_deliver, tag, redelivered)
        return end

    def _take_whole(self, data: bytes, channel: int, at: int, end: int) -> int:
        tag_at = at + 12 + data[at + 11]
        on_deliver = self._whole[channel, data[at + 12 : tag_at]]
        flags, body, stop = self._at_hand(data, channel, end)
        if stop:
            raw = data[end + HEADER_FRAME.size : body - 1]
            try:
                properties = read_checked(flags, raw)
            except Unreadable:
                pass  # the slower way says what is wrong
            else:
                origin = Origin(*_names(data[tag_at + TAG_AND_BIT.size : end - 1]), flags, raw)
                tag, redelivered = TAG_AND_BIT.unpack_from(data, tag_at)
                on_deliver(tag, redelivered, properties, data[body + 7 : stop - 1], None, origin)
                return stop
        self._contents[channel] = self._whole_content(data, tag_at, end, on_deliver)
        return end

    def _at_hand(self, data: bytes, channel: int, at: int) -> tuple[int, int, int]:
        """The flags in the header frame at *at*, and where its only body frame begins and ends; 0 if it is not here."""
        if at + HEADER_FRAME.size <= len(data):
            kind, number, length, _class, _weight, size, flags = HEADER_FRAME.unpack_from(data, at)
            body: int = at + length + FRAME_OVERHEAD
            stop: int = body + size + FRAME_OVERHEAD
            is_whole = at + HEADER_FRAME.size < body and stop <= len(data) and size <= self._most_bytes
            is_ours = is_whole and kind == HEADER and number == channel
            has_ends = is_ours and data[body - 1] == END == data[stop - 1]
            if has_ends and FRAME_HEAD.unpack_from(data, body) == (BODY, channel, size):
                return flags, body, stop
        return 0, 0, 0

    def _whole_content(self, data: bytes, tag_at: int, end: int, on_deliver: OnDeliver) -> WholeContent:
        """Of the method whose delivery tag is at *tag_at*; then come exchange and routing key."""
        tag, redelivered = TAG_AND_BIT.unpack_from(data, tag_at)
        exchange, routing_key = _names(data[tag_at + TAG_AND_BIT.size : end - 1])
        return WholeContent(on_deliver, tag, redelivered, exchange, routing_key)

    def _take_return(self, data: bytes, channel: int, at: int, end: int) -> int:
        on_return = self._returns[channel]
        reason, exchange, routing_key = read_return(data, at + 11, end - 1)

        def returned(_tag: int, _again: bool, properties: Properties, body: bytes, _flaw: Flaw | None = None) -> None:
            on_return(reason, exchange, routing_key, properties, body)

        self._contents[channel] = Content(returned, 0, False)
        return end

    def _take_got(self, data: bytes, channel: int, at: int, end: int) -> int:
        on_got = self._gets[channel].popleft()
        if METHOD_HEAD.unpack_from(data, at)[3] == GET_EMPTY:
            on_got()
        else:
            self._contents[channel] = self._whole_content(data, at + 11, end, on_got)
        return end

    def _take_header(self, data: bytes, channel: int, at: int, end: int) -> int:
        content = self._contents[channel]
        if content.properties is not None or at + HEADER_FRAME.size >= end:
            raise Unreadable(f"the broker sent a header frame that does not belong there on channel {channel}")
        *_, content.size, flags = HEADER_FRAME.unpack_from(data, at)
        content.missing = content.size
        try:
            content.read(data, at + HEADER_FRAME.size, end - 1, flags)
        except Unreadable as error:
            content.properties = _NO_PROPERTIES
            raw = data[at + 7 : end - 1]
            content.detail = f"{error} (header frame of {len(raw)} bytes, SHA-256 {hashlib.sha256(raw).hexdigest()})"
        if content.size > self._most_bytes:
            content.digest = hashlib.sha256()
        if not content.missing:
            self._deliver(channel, content)
        return end

    def _take_body(self, data: bytes, channel: int, at: int, end: int) -> int:
        content = self._contents[channel]
        piece = data[at + 7 : end - 1]
        content.missing -= len(piece)
        if content.missing < 0 or content.properties is None:
            raise Unreadable(f"the broker sent more than it announced on channel {channel}")
        content.add(piece)
        if not content.missing:
            self._deliver(channel, content)
        return end

    def _deliver(self, channel: int, content: Content) -> None:
        del self._contents[channel]
        content.deliver(self._most_bytes)

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


def delivering(
    channel: BaseChannel, on_delivery: Callable[[Delivery], None], note: Callable[[int], None] | None
) -> OnDeliver:
    """What makes a Delivery of each content for a consumer of *channel*; *note* hears the tags that are to be acked."""

    def deliver(
        tag: int, again: bool, about: Properties, body: bytes, flaw: Flaw | None = None, origin: Origin | None = None
    ) -> None:
        if note is not None:
            note(tag)
        try:
            on_delivery(_new(Delivery, (channel, tag, body, *about, again, flaw, origin)))
        except Exception as error:  # it costs this delivery; what was read with it goes on
            channel.connection.loop.failed(on_delivery, error)

    return deliver


@lru_cache(maxsize=1024)
def _names(raw: bytes) -> tuple[str, str]:
    """Exchange and routing key. Raises Unreadable."""
    exchange, key_at = read_name(raw, 0, len(raw))
    return exchange, read_name(raw, key_at, len(raw))[0]
