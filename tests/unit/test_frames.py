"""The fast path's frames, byte for byte against pika's own codec."""

from __future__ import annotations

import hashlib
import struct
import time
from typing import Any

import pika.frame
import pika.spec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.transport import frames
from servicebus.transport.contents import HEAD_BYTES
from servicebus.transport.fastpath import FastPath
from servicebus.transport.interface import Flaw, Origin
from servicebus.transport.tables import Unreadable

short = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)
channels = st.integers(1, 65535)
headers = st.none() | st.dictionaries(
    short.filter(bool), st.integers(-(2**31), 2**31 - 1) | st.text(max_size=20), min_size=1
)
FRAME_MAX = 4096
MOST = FRAME_MAX - frames.FRAME_OVERHEAD


def by_pika(
    channel: int, exchange: str, routing_key: str, mandatory: bool, body: bytes, properties: pika.BasicProperties
) -> bytes:
    """What pika writes for one publish."""
    written = [
        pika.frame.Method(
            channel, pika.spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        ).marshal(),
        pika.frame.Header(channel, len(body), properties).marshal(),
    ]
    written += [pika.frame.Body(channel, body[start : start + MOST]).marshal() for start in range(0, len(body), MOST)]
    return b"".join(written)


def by_us(channel: int, exchange: str, routing_key: str, mandatory: bool, body: bytes, **properties: Any) -> bytes:
    written = frames.write_properties(**properties)
    return frames.publish_frames(channel, exchange, routing_key, mandatory, *written, body, FRAME_MAX)


@given(
    channels, short, short, st.booleans(), st.binary(max_size=300), st.none() | short, st.none() | short,
    st.none() | st.integers(0, 10**9).map(str), st.none() | short, st.booleans(), headers,
)  # fmt: skip
def test_a_publish_is_written_as_pika_writes_it(
    channel: int,
    exchange: str,
    key: str,
    mandatory: bool,
    body: bytes,
    correlation_id: str | None,
    reply_to: str | None,
    expiration: str | None,
    message_id: str | None,
    persistent: bool,
    table: dict[str, Any] | None,
) -> None:
    properties = pika.BasicProperties(
        correlation_id=correlation_id,
        reply_to=reply_to,
        expiration=expiration,
        message_id=message_id,
        delivery_mode=2 if persistent else None,
        headers=table,
    )
    ours = by_us(
        channel,
        exchange,
        key,
        mandatory,
        body,
        correlation_id=correlation_id,
        reply_to=reply_to,
        expiration=expiration,
        message_id=message_id,
        persistent=persistent,
        headers=table,
    )
    assert ours == by_pika(channel, exchange, key, mandatory, body, properties)


@pytest.mark.parametrize("size", [0, 1, MOST - 1, MOST, MOST + 1, 2 * MOST - 1, 2 * MOST, 2 * MOST + 1, 100_000])
def test_bodies_around_the_frame_limit_are_cut_as_pika_cuts_them(size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    assert by_us(7, "x", "y", True, body) == by_pika(7, "x", "y", True, body, pika.BasicProperties())


@given(channels, st.integers(0, 2**64 - 1), st.booleans())
def test_an_ack_is_written_as_pika_writes_it(channel: int, tag: int, multiple: bool) -> None:
    by_pika = pika.frame.Method(channel, pika.spec.Basic.Ack(tag, multiple)).marshal()
    assert frames.ack_frame(channel, tag, multiple) == by_pika


def test_a_short_string_over_255_bytes_is_refused() -> None:
    with pytest.raises(Unreadable):
        by_us(1, "x" * 256, "", True, b"")
    with pytest.raises(Unreadable):
        by_us(1, "", "", True, b"", message_id="x" * 256)


# -- reading -------------------------------------------------------------------------------------------------------


def delivery(
    channel: int,
    consumer_tag: str,
    tag: int,
    redelivered: bool,
    key: str,
    body: bytes,
    properties: pika.BasicProperties,
) -> bytes:
    """What a broker writes for one delivery, in pika's words."""
    return content(
        channel, pika.spec.Basic.Deliver(consumer_tag, tag, redelivered, "the exchange", key), body, properties
    )


def content(channel: int, method: Any, body: bytes, properties: pika.BasicProperties) -> bytes:
    written = [
        pika.frame.Method(channel, method).marshal(),
        pika.frame.Header(channel, len(body), properties).marshal(),
    ]
    written += [pika.frame.Body(channel, body[at : at + MOST]).marshal() for at in range(0, len(body), MOST)]
    return b"".join(written)


class Pika:
    """Keeps what the fast path passes on."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_made(self, transport: object) -> None: ...

    def connection_lost(self, error: object) -> None: ...

    def eof_received(self) -> None: ...


def path_with_consumer(channel: int, consumer_tag: str, most_bytes: int = 100_000) -> tuple[FastPath, Pika, list[Any]]:
    pika_side = Pika()
    found: list[Any] = []
    path = FastPath(pika_side, most_bytes)
    path.add_consumer(
        channel,
        consumer_tag,
        lambda tag, _again, about, body, *flaw: found.append((tag, *about, body, *flaw)),
    )
    return path, pika_side, found


@given(
    channels, short, st.integers(0, 2**64 - 1), st.booleans(), short, st.binary(max_size=2 * MOST),
    st.fixed_dictionaries(
        {},
        optional={
            "content_type": short, "content_encoding": short, "headers": headers,
            "delivery_mode": st.sampled_from([1, 2]),
            "priority": st.integers(0, 255), "correlation_id": short, "reply_to": short,
            "expiration": st.integers(0, 10**9).map(str), "message_id": short, "timestamp": st.integers(0, 2**40),
            "type": short, "user_id": short, "app_id": short, "cluster_id": short,
        },
    ),
    st.integers(1, 400),
)  # fmt: skip
def test_a_delivery_is_read_whatever_its_properties_and_wherever_it_is_cut(
    channel: int,
    consumer_tag: str,
    tag: int,
    redelivered: bool,
    key: str,
    body: bytes,
    properties: dict[str, Any],
    step: int,
) -> None:
    data = delivery(channel, consumer_tag, tag, redelivered, key, body, pika.BasicProperties(**properties))
    path, pika_side, _ = path_with_consumer(channel, consumer_tag)
    found = []
    path.add_consumer(channel, consumer_tag, lambda tag, again, about, body: found.append((tag, again, *about, body)))
    for start in range(0, len(data), step):
        path.data_received(data[start : start + step])
    expected = [properties.get(name) for name in ("correlation_id", "reply_to", "message_id", "headers")]
    assert found == [(tag, redelivered, *expected, body)]
    assert pika_side.data in (b"", frames.HEARTBEAT_FRAME)


def test_frames_cut_at_every_byte_are_read() -> None:
    data = delivery(3, "c", 9, False, "key", b"body", pika.BasicProperties(correlation_id="id", reply_to="r"))
    other = pika.frame.Method(3, pika.spec.Basic.CancelOk("c")).marshal()
    for cut in range(len(data) + len(other)):
        path, pika_side, found = path_with_consumer(3, "c")
        path.data_received((other + data)[:cut])
        path.data_received((other + data)[cut:])
        assert [entry[0] for entry in found] == [9], cut
        assert pika_side.data.replace(frames.HEARTBEAT_FRAME, b"") == other, cut


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 200))
def test_what_is_not_ours_reaches_pika_whole_and_in_order(kinds: list[int], step: int) -> None:
    """Other consumers' deliveries, returns, heartbeats and methods are pika's."""
    foreign = [
        pika.frame.Heartbeat().marshal(),
        pika.frame.Method(3, pika.spec.Channel.Flow(True)).marshal(),
        delivery(3, "other", 4, False, "k", b"x" * 50, pika.BasicProperties()),
        pika.frame.Method(4, pika.spec.Basic.Ack(4)).marshal(),
    ]
    ours = delivery(3, "mine", 5, False, "k", b"y" * 70, pika.BasicProperties())
    data = b"".join(ours if kind == 4 else foreign[kind] for kind in kinds)
    path, pika_side, found = path_with_consumer(3, "mine")
    for start in range(0, len(data), step):
        path.data_received(data[start : start + step])
    expected = b"".join(foreign[kind] for kind in kinds if kind != 4)
    # The fast path may feed pika one heartbeat for those it kept from it.
    assert pika_side.data.replace(frames.HEARTBEAT_FRAME, b"") == expected.replace(frames.HEARTBEAT_FRAME, b"")
    assert len(found) == kinds.count(4)


@given(
    channels,
    st.integers(200, 599),
    short,
    short,
    short,
    short,
    short,
    st.binary(max_size=2 * MOST),
    st.integers(1, 400),
)
def test_what_comes_back_is_read_wherever_it_is_cut(
    channel: int,
    code: int,
    text: str,
    exchange: str,
    key: str,
    correlation_id: str,
    message_id: str,
    body: bytes,
    step: int,
) -> None:
    method = pika.spec.Basic.Return(code, text, exchange, key)
    properties = pika.BasicProperties(correlation_id=correlation_id, message_id=message_id)
    data = content(channel, method, body, properties)
    path, pika_side, _ = path_with_consumer(channel, "c")
    found = []
    path.add_returns(channel, lambda why, to, k, about, b: found.append((why, to, k, about[0], about[2], b)))
    for start in range(0, len(data), step):
        path.data_received(data[start : start + step])
    assert found == [(f"{code} {text}", exchange, key, correlation_id, message_id, body)]
    assert pika_side.data in (b"", frames.HEARTBEAT_FRAME)
    path.remove_channel(channel)
    path.data_received(data)
    assert pika_side.data.replace(frames.HEARTBEAT_FRAME, b"", 1) == data
    assert len(found) == 1


def test_confirms_of_registered_channels_do_not_reach_pika() -> None:
    path, pika_side, _ = path_with_consumer(1, "c")
    confirmed = []
    path.add_confirms(5, lambda number, multiple: confirmed.append((number, multiple)))
    ack, nack = pika.spec.Basic.Ack(7, multiple=True), pika.spec.Basic.Nack(8)
    path.data_received(pika.frame.Method(5, ack).marshal() + pika.frame.Method(5, nack).marshal())
    assert confirmed == [(7, True)]
    assert pika_side.data.replace(frames.HEARTBEAT_FRAME, b"") == pika.frame.Method(5, nack).marshal()


def test_a_frame_without_its_end_is_refused() -> None:
    path, _, _ = path_with_consumer(1, "c")
    with pytest.raises(Unreadable, match="has no end"):
        path.data_received(pika.frame.Heartbeat().marshal()[:-1] + b"\x00")


def test_a_brokers_version_header_goes_to_pika() -> None:
    """The broker answers a version that it does not speak with ``AMQP`` and its own, which is no frame."""
    path, pika_side, _ = path_with_consumer(1, "c")
    path.data_received(b"AMQP\x00\x00\x09\x01")
    assert pika_side.data == b"AMQP\x00\x00\x09\x01"


def test_a_closed_channel_takes_its_consumers_along() -> None:
    path, pika_side, found = path_with_consumer(3, "c")
    path.remove_channel(3)
    data = delivery(3, "c", 1, False, "k", b"", pika.BasicProperties())
    path.data_received(data)
    assert (found, pika_side.data) == ([], data)


# -- what strangers write ------------------------------------------------------------------------------------------


def raw_delivery(tag: int, flags: int, properties: bytes, body: bytes, size: int | None = None) -> bytes:
    """A delivery to consumer "c" on channel 3 with a header frame written by hand."""
    method = pika.frame.Method(3, pika.spec.Basic.Deliver("c", tag, False, "", "q")).marshal()
    payload = struct.pack(">HHQH", 60, 0, len(body) if size is None else size, flags) + properties
    head = frames.FRAME_HEAD.pack(frames.HEADER, 3, len(payload)) + payload + b"\xce"
    bodies = [pika.frame.Body(3, body[at : at + MOST]).marshal() for at in range(0, len(body), MOST)]
    return b"".join([method, head, *bodies])


HEADERS_OF = {
    "time in milliseconds": b"\x07sent-atT" + struct.pack(">Q", 1795900000000),
    "name that is no text": b"\x01\xffV",
    "unknown type": b"\x01nz",
    "deep": b"\x01n" + b"A\x00\x00\x00\xff" * 50,
}
POISON = {
    **{what: (frames.HEADERS, struct.pack(">I", len(table)) + table) for what, table in HEADERS_OF.items()},
    "correlation id that is no text": (frames.CORRELATION_ID, b"\x02\xff\xfe"),
    "reply-to that is no text": (frames.REPLY_TO, b"\x01\xff"),
    "message id that is no text": (frames.MESSAGE_ID, b"\x01\xff"),
    "properties that end too soon": (frames.CORRELATION_ID, b"\x09abc"),
    "no properties where flags say so": (frames.CORRELATION_ID, b""),
    "flags that go on": (0x0001, b""),
}


@pytest.mark.parametrize("what", POISON)
@pytest.mark.parametrize("step", [7, 10_000])
def test_properties_that_cannot_be_read_cost_that_delivery_alone(what: str, step: int) -> None:
    flags, properties = POISON[what]
    good = delivery(3, "c", 1, False, "q", b"good", pika.BasicProperties(correlation_id="i"))
    data = good + raw_delivery(2, flags, properties, b"its body") + good
    path, pika_side, found = path_with_consumer(3, "c")
    for start in range(0, len(data), step):
        path.data_received(data[start : start + step])
    assert found[0] == found[2] == (1, "i", None, None, None, b"good")
    tag, *nothing, body, flaw = found[1]
    assert (tag, nothing, body, flaw.reason) == (2, [None] * 4, b"its body", "unreadable")
    header = struct.pack(">HHQH", 60, 0, 8, flags) + properties
    assert hashlib.sha256(header).hexdigest() in flaw.detail
    assert pika_side.data in (b"", frames.HEARTBEAT_FRAME)


@pytest.mark.parametrize("step", [1, 7, 60, 200, 10_000])
def test_what_is_consumed_whole_is_the_same_wherever_it_is_cut(step: int) -> None:
    about = pika.BasicProperties(message_id="m", content_type="text/plain", app_id="a", headers={"own": 1})
    data = b"".join(
        [
            delivery(3, "c", 1, False, "key", b"body", about),
            delivery(3, "c", 2, True, "key", b"", about),
            delivery(3, "c", 3, False, "key", b"x" * (MOST + 1), about),
            *(raw_delivery(4 + n, *poison, b"bad") for n, poison in enumerate(POISON.values())),
            delivery(3, "c", 99, False, "other key", b"x" * 2000, pika.BasicProperties()),
        ]
    )
    found: list[Any] = []
    path = FastPath(Pika(), MOST + 1000)
    path.add_consumer(3, "c", lambda *what: found.append(what), whole=True)
    for start in range(0, len(data), step):
        path.data_received(data[start : start + step])
    raw = b"".join(about.encode())
    flags, known = int.from_bytes(raw[:2], "big"), (None, None, "m", {"own": 1})
    origin = Origin("the exchange", "key", flags, raw[2:])
    assert found[0] == (1, False, known, b"body", None, origin) and found[1] == (2, True, known, b"", None, origin)
    assert found[2] == (3, False, known, b"x" * (MOST + 1), None, origin)
    assert [what[4].reason for what in found[3:-1]] == ["unreadable"] * len(POISON)
    empty = Origin("the exchange", "other key", 0, b"")
    assert found[-1] == (99, False, (None,) * 4, b"x" * 2000, None, empty)


@given(st.integers(0, 0xFFFF), st.binary(max_size=200), st.binary(max_size=20))
def test_any_header_frame_is_one_delivery(flags: int, properties: bytes, body: bytes) -> None:
    path, pika_side, found = path_with_consumer(3, "c")
    path.data_received(raw_delivery(5, flags, properties, body))
    path.data_received(raw_delivery(6, 0, b"", b""))
    assert [entry[0] for entry in found] == [5, 6]
    assert found[0][5] == body
    assert pika_side.data in (b"", frames.HEARTBEAT_FRAME)


@pytest.mark.parametrize("size", [1000, 1001, MOST, MOST + 1, 3 * HEAD_BYTES])
@pytest.mark.parametrize("step", [997, 10_000_000])
def test_a_body_that_is_too_long_is_kept_as_its_beginning_and_a_digest(size: int, step: int) -> None:
    body = bytes(n % 251 for n in range(size))
    path, _, found = path_with_consumer(3, "c", most_bytes=1000)
    data = delivery(3, "c", 9, False, "q", body, pika.BasicProperties(correlation_id="i"))
    for start in range(0, len(data), step):
        path.data_received(data[start : start + step])
    if size <= 1000:
        assert found == [(9, "i", None, None, None, body)]
        return
    ((tag, correlation_id, _, _, _, kept, flaw),) = found
    assert (tag, correlation_id, flaw.reason) == (9, "i", "oversized")
    assert body.startswith(kept)
    assert 0 < len(kept) <= HEAD_BYTES
    assert f"{size} bytes, allowed are 1000" in flaw.detail
    assert hashlib.sha256(body).hexdigest() in flaw.detail


def test_a_body_that_is_too_long_takes_no_memory_while_it_arrives() -> None:
    path, _, found = path_with_consumer(3, "c", most_bytes=1000)
    path.data_received(raw_delivery(1, 0, b"", b"", size=2**62))
    frame = pika.frame.Body(3, b"x" * MOST).marshal()
    for _ in range(1000):
        path.data_received(frame)
    content = path._contents[3]
    assert sum(map(len, content.pieces)) <= HEAD_BYTES
    assert not found


def test_what_comes_back_unreadable_is_told_without_its_properties() -> None:
    path, _, _ = path_with_consumer(3, "c")
    found = []
    path.add_returns(3, lambda *told: found.append(told))
    method = pika.frame.Method(3, pika.spec.Basic.Return(312, "NO_ROUTE", "x", "k")).marshal()
    deliver = pika.frame.Method(3, pika.spec.Basic.Deliver("c", 1, False, "", "q")).marshal()
    path.data_received(method + raw_delivery(1, frames.HEADERS, b"\xff", b"b")[len(deliver) :])
    assert found == [("312 NO_ROUTE", "x", "k", (None,) * 4, b"b")]


def test_answers_to_gets_come_in_their_order() -> None:
    path, pika_side, _ = path_with_consumer(3, "c")
    found = []
    for number in range(3):
        path.add_get(3, lambda *got, number=number: found.append((number, *got)))
    got = pika.spec.Basic.GetOk(7, True, "x", "k", 2)
    empty = pika.frame.Method(3, pika.spec.Basic.GetEmpty()).marshal()
    answer = content(3, got, b"body", pika.BasicProperties(message_id="m"))
    poison = content(3, got, b"bad", pika.BasicProperties(correlation_id=b"\xff"))
    path.data_received(answer + empty + poison)
    origin = Origin("x", "k", frames.MESSAGE_ID, b"\x01m")
    assert found[:2] == [(0, 7, True, (None, None, "m", None), b"body", None, origin), (1,)]
    assert found[2][:5] == (2, 7, True, (None,) * 4, b"bad")
    assert isinstance(found[2][5], Flaw)
    assert pika_side.data in (b"", frames.HEARTBEAT_FRAME)
    path.data_received(empty)
    assert pika_side.data.endswith(empty), "none of ours"


def test_a_frame_that_is_longer_than_was_agreed_on_is_refused_before_it_is_here() -> None:
    path, _, _ = path_with_consumer(3, "c")
    with pytest.raises(Unreadable, match="a frame of 131073 bytes"):
        path.data_received(frames.FRAME_HEAD.pack(frames.BODY, 3, 131073))


def test_pika_hears_that_the_broker_lives_while_a_long_frame_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    path, pika_side, _ = path_with_consumer(3, "c")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    data = raw_delivery(1, 0, b"", b"x" * MOST)
    for at in (100, 1000, 2000):
        path.data_received(data[at - 100 : at] if at == 100 else data[at - 1000 + 100 : at])
        now += 2
    assert pika_side.data == 3 * frames.HEARTBEAT_FRAME
