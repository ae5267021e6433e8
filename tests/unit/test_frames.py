"""The fast lane's frames, byte for byte against pika's own codec."""

from __future__ import annotations

import pika.frame
import pika.spec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.transport import frames
from servicebus.transport.fastlane import FastLane

short = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)
channels = st.integers(1, 65535)
headers = st.none() | st.dictionaries(
    short.filter(bool), st.integers(-(2**31), 2**31 - 1) | st.text(max_size=20), min_size=1
)
FRAME_MAX = 4096
MOST = FRAME_MAX - frames.FRAME_OVERHEAD


def by_pika(channel, exchange, routing_key, mandatory, body, properties):
    """What pika writes for one publish."""
    written = [
        pika.frame.Method(
            channel, pika.spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        ).marshal(),
        pika.frame.Header(channel, len(body), properties).marshal(),
    ]
    written += [pika.frame.Body(channel, body[start : start + MOST]).marshal() for start in range(0, len(body), MOST)]
    return b"".join(written)


def by_us(channel, exchange, routing_key, mandatory, body, **properties):
    return frames.publish_frames(channel, exchange, routing_key, body, FRAME_MAX, mandatory=mandatory, **properties)


@given(
    channels, short, short, st.booleans(), st.binary(max_size=300), st.none() | short, st.none() | short,
    st.none() | st.integers(0, 10**9).map(str), st.none() | short, st.booleans(), headers,
)  # fmt: skip
def test_a_publish_is_written_as_pika_writes_it(
    channel, exchange, key, mandatory, body, correlation_id, reply_to, expiration, message_id, persistent, table
):
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
def test_bodies_around_the_frame_limit_are_cut_as_pika_cuts_them(size):
    body = bytes(n % 251 for n in range(size))
    assert by_us(7, "x", "y", True, body) == by_pika(7, "x", "y", True, body, pika.BasicProperties())


@given(channels, st.integers(0, 2**64 - 1), st.booleans())
def test_an_ack_is_written_as_pika_writes_it(channel, tag, multiple):
    by_pika = pika.frame.Method(channel, pika.spec.Basic.Ack(tag, multiple)).marshal()
    assert frames.ack_frame(channel, tag, multiple) == by_pika


def test_a_short_string_over_255_bytes_is_refused():
    with pytest.raises(frames.Unreadable):
        frames.publish_frames(1, "x" * 256, "", b"", FRAME_MAX)


# -- reading -------------------------------------------------------------------------------------------------------


def delivery(channel, consumer_tag, tag, redelivered, key, body, properties):
    """What a broker writes for one delivery, in pika's words."""
    return content(
        channel, pika.spec.Basic.Deliver(consumer_tag, tag, redelivered, "the exchange", key), body, properties
    )


def content(channel, method, body, properties):
    written = [
        pika.frame.Method(channel, method).marshal(),
        pika.frame.Header(channel, len(body), properties).marshal(),
    ]
    written += [pika.frame.Body(channel, body[at : at + MOST]).marshal() for at in range(0, len(body), MOST)]
    return b"".join(written)


class Pika:
    """Keeps what the lane passes on."""

    def __init__(self):
        self.data = b""

    def data_received(self, data):
        self.data += data

    def connection_made(self, transport): ...

    def connection_lost(self, error): ...

    def eof_received(self): ...


def lane_with_consumer(channel, consumer_tag):
    pika_side, found = Pika(), []
    lane = FastLane(pika_side)
    lane.add_consumer(
        channel,
        consumer_tag,
        lambda tag, about, body: found.append((tag, *about, body)),
    )
    return lane, pika_side, found


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
    channel, consumer_tag, tag, redelivered, key, body, properties, step
):
    data = delivery(channel, consumer_tag, tag, redelivered, key, body, pika.BasicProperties(**properties))
    lane, pika_side, found = lane_with_consumer(channel, consumer_tag)
    for start in range(0, len(data), step):
        lane.data_received(data[start : start + step])
    expected = [properties.get(name) for name in ("correlation_id", "reply_to", "message_id", "headers")]
    assert found == [(tag, *expected, body)]
    assert pika_side.data in (b"", frames.HEARTBEAT_FRAME)


def test_frames_cut_at_every_byte_are_read():
    data = delivery(3, "c", 9, False, "key", b"body", pika.BasicProperties(correlation_id="id", reply_to="r"))
    other = pika.frame.Method(3, pika.spec.Basic.CancelOk("c")).marshal()
    for cut in range(len(data) + len(other)):
        lane, pika_side, found = lane_with_consumer(3, "c")
        lane.data_received((other + data)[:cut])
        lane.data_received((other + data)[cut:])
        assert [entry[0] for entry in found] == [9], cut
        assert pika_side.data.replace(frames.HEARTBEAT_FRAME, b"") == other, cut


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 200))
def test_what_is_not_ours_reaches_pika_whole_and_in_order(kinds, step):
    """Other consumers' deliveries, returns, heartbeats and methods are pika's."""
    foreign = [
        pika.frame.Heartbeat().marshal(),
        pika.frame.Method(3, pika.spec.Channel.Flow(True)).marshal(),
        delivery(3, "other", 4, False, "k", b"x" * 50, pika.BasicProperties()),
        pika.frame.Method(4, pika.spec.Basic.Ack(4)).marshal(),
    ]
    ours = delivery(3, "mine", 5, False, "k", b"y" * 70, pika.BasicProperties())
    data = b"".join(ours if kind == 4 else foreign[kind] for kind in kinds)
    lane, pika_side, found = lane_with_consumer(3, "mine")
    for start in range(0, len(data), step):
        lane.data_received(data[start : start + step])
    expected = b"".join(foreign[kind] for kind in kinds if kind != 4)
    # The lane may feed pika one heartbeat for those it kept from it.
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
    channel, code, text, exchange, key, correlation_id, message_id, body, step
):
    method = pika.spec.Basic.Return(code, text, exchange, key)
    properties = pika.BasicProperties(correlation_id=correlation_id, message_id=message_id)
    data = content(channel, method, body, properties)
    lane, pika_side, _ = lane_with_consumer(channel, "c")
    found = []
    lane.add_returns(channel, lambda why, to, k, about, b: found.append((why, to, k, about[0], about[2], b)))
    for start in range(0, len(data), step):
        lane.data_received(data[start : start + step])
    assert found == [(f"{code} {text}", exchange, key, correlation_id, message_id, body)]
    assert pika_side.data in (b"", frames.HEARTBEAT_FRAME)
    lane.remove_channel(channel)
    lane.data_received(data)
    assert pika_side.data.replace(frames.HEARTBEAT_FRAME, b"", 1) == data
    assert len(found) == 1


def test_confirms_of_registered_channels_do_not_reach_pika():
    lane, pika_side, _ = lane_with_consumer(1, "c")
    confirmed = []
    lane.add_confirms(5, lambda number, multiple: confirmed.append((number, multiple)))
    ack, nack = pika.spec.Basic.Ack(7, multiple=True), pika.spec.Basic.Nack(8)
    lane.data_received(pika.frame.Method(5, ack).marshal() + pika.frame.Method(5, nack).marshal())
    assert confirmed == [(7, True)]
    assert pika_side.data.replace(frames.HEARTBEAT_FRAME, b"") == pika.frame.Method(5, nack).marshal()


def test_a_frame_without_its_end_is_refused():
    lane, _, _ = lane_with_consumer(1, "c")
    with pytest.raises(frames.Unreadable, match="has no end"):
        lane.data_received(pika.frame.Heartbeat().marshal()[:-1] + b"\x00")


def test_a_brokers_version_header_goes_to_pika():
    """The broker answers a version that it does not speak with ``AMQP`` and its own, which is no frame."""
    lane, pika_side, _ = lane_with_consumer(1, "c")
    lane.data_received(b"AMQP\x00\x00\x09\x01")
    assert pika_side.data == b"AMQP\x00\x00\x09\x01"


def test_a_closed_channel_takes_its_consumers_along():
    lane, pika_side, found = lane_with_consumer(3, "c")
    lane.remove_channel(3)
    data = delivery(3, "c", 1, False, "k", b"", pika.BasicProperties())
    lane.data_received(data)
    assert (found, pika_side.data) == ([], data)
