"""AmqpChannel on a fast path, without a broker: what its callbacks raise, and how it counts what it publishes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pika.exceptions import UnsupportedAMQPFieldException

from servicebus.transport import frames
from servicebus.transport.channel import AmqpChannel
from servicebus.transport.fastpath import FastPath
from servicebus.transport.interface import Delivery, Returned
from servicebus.transport.loop import EventLoop
from servicebus.transport.tables import Unreadable

NUMBER = 1


class RawChannel:
    """What pika has of a channel."""

    channel_number = NUMBER

    def basic_consume(self, *_: Any, **__: Any) -> str:
        return "tag"

    def add_on_close_callback(self, _callback: Any) -> None: ...
    def add_on_cancel_callback(self, _callback: Any) -> None: ...
    def add_on_return_callback(self, _callback: Any) -> None: ...
    def confirm_delivery(self, _on_confirmed: Any, callback: Callable[[Any], None]) -> None:
        callback(None)


class Pika:
    """Gets the heartbeats that the fast path feeds it."""

    def data_received(self, data: bytes) -> None: ...


class Connection:
    """An open connection whose bytes go nowhere; ``receive()`` is what the broker sends."""

    frame_max = 131072
    is_open = True
    is_fast = True

    def __init__(self) -> None:
        self.loop = EventLoop("test")
        self.written = b""
        pika_side: Any = Pika()
        self.fast = FastPath(pika_side, 1 << 20)

    def fast_path(self) -> tuple[FastPath, Callable[[bytes], None]]:
        return self.fast, self._write

    def _write(self, data: bytes) -> None:
        self.written += data

    def channel(self, _open: Any = None, **told: Any) -> AmqpChannel:
        raw_channel = RawChannel()
        opened: list[Callable[[Any], None]] = []

        class Raw:
            def channel(self, on_open_callback: Callable[[Any], None]) -> RawChannel:
                opened.append(on_open_callback)
                return raw_channel

        connection: Any = self
        hooks = {"on_returned": None, "on_confirmed": None, **told}
        channel = AmqpChannel(connection, Raw(), lambda _channel: None, lambda _error: None, **hooks)
        opened[0](raw_channel)
        return channel


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = Connection()
    yield connection
    connection.loop.close()


def method_frame(class_and_method: int, arguments: bytes) -> bytes:
    payload = struct.pack(">L", class_and_method) + arguments
    return frames.FRAME_HEAD.pack(frames.METHOD, NUMBER, len(payload)) + payload + b"\xce"


def content(method: int, arguments: bytes, body: bytes) -> bytes:
    header = struct.pack(">HHQH", 60, 0, len(body), 0)
    pieces = [method_frame(method, arguments)]
    for kind, payload in ((frames.HEADER, header), (frames.BODY, body)):
        pieces.append(frames.FRAME_HEAD.pack(kind, NUMBER, len(payload)) + payload + b"\xce")
    return b"".join(pieces)


def delivery(tag: int) -> bytes:
    return content(frames.DELIVER, b"\x03tag" + struct.pack(">Q", tag) + b"\0\0\1q", b"body %d" % tag)


def returned(tag: int) -> bytes:
    return content(frames.RETURN, struct.pack(">H", 312) + b"\x08NO_ROUTE\0\1q", b"body %d" % tag)


def confirm(tag: int) -> bytes:
    return frames.ack_frame(NUMBER, tag)


class Odd:
    """Raises for the second of three."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def hear(self, *about: Any) -> None:
        what = about[0]
        self.heard.append(what.body if isinstance(what, (Delivery, Returned)) else what)
        if len(self.heard) == 2:
            raise OverflowError("int too large to convert")


@pytest.mark.parametrize("kind", ["delivery", "return", "confirm"])
def test_what_one_of_a_batch_raises_costs_none_of_the_others(connection: Connection, kind: str) -> None:
    """All three came with one read: what the second makes our code raise must not cost the third."""
    odd = Odd()
    channel = connection.channel(on_returned=odd.hear, on_confirmed=odd.hear)
    channel.consume("N.rpc", odd.hear, lambda _tag: None)
    make = {"delivery": delivery, "return": returned, "confirm": confirm}[kind]
    connection.fast.data_received(b"".join(map(make, (1, 2, 3))))
    assert odd.heard == ([1, 2, 3] if kind == "confirm" else [b"body 1", b"body 2", b"body 3"])
    assert connection.loop.failures.count == 1


def test_a_delivery_shows_nothing_of_what_it_says(connection: Connection) -> None:
    seen: list[Delivery] = []
    connection.channel().consume("N.rpc", seen.append, lambda _tag: None)
    connection.fast.data_received(delivery(7))
    assert repr(seen) == "[<Delivery 7 of 6 bytes>]"


@pytest.mark.parametrize(
    "odd", [{"headers": {"x-servicebus-attempts": 2**63}}, {"message_id": "x" * 256}, {"headers": {"x": object()}}]
)
def test_what_cannot_be_encoded_is_not_counted_as_published(connection: Connection, odd: dict[str, Any]) -> None:
    """The broker confirms by its own count: one too many here, and each confirm would be told of another message."""
    channel = connection.channel(on_confirmed=lambda *_: None)
    assert channel.publish("", "q", b"first") == 1
    written = connection.written
    with pytest.raises((struct.error, Unreadable, UnsupportedAMQPFieldException)):
        channel.publish("", "q", b"second", **odd)
    assert connection.written == written
    assert channel.publish("", "q", b"third") == 2
