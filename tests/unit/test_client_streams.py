"""What a Sender does about its streams: items in order, credits, signs of life, and what ends one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from virtual_bus import NODE, SECRET, TARGET, Node, VirtualBus, virtual_bus

from servicebus.client.streaming import ItemStream
from servicebus.client.streams import ALIVE_S, SILENT_S, StreamInbox, Streams
from servicebus.errors import CallTimeout, InvalidReply, NodeUnavailable, ServiceBusy, StreamInterrupted
from servicebus.protocol.interface import Incoming
from servicebus.transport.interface import BrokerChannel, Delivery
from servicebus.transport.memory import MemoryBroker
from servicebus.wire.fault import BUSY, INTERRUPTED, REFUSED, STOPPING, Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.streams import Chunk, Credit, items_id, write_chunk


class StreamingNode(Node):
    """One whose streams are played by hand."""

    def __init__(self, bus: VirtualBus) -> None:
        super().__init__(bus)
        self.asked: list[tuple[BrokerChannel, Incoming]] = []
        self.credits: list[Credit] = []
        self.is_resumable = False
        self.control.streams = self  # type: ignore[assignment]

    def credited(self, credit: Credit) -> None:
        self.credits.append(credit)

    def on_call(self, broker: MemoryBroker, channel: BrokerChannel, delivery: Delivery) -> None:
        incoming = self._protocol.decode_request(delivery)
        self.calls.append((broker.name, incoming.id, incoming.attempt))
        channel.ack(delivery.tag)
        self.asked.append((channel, incoming))

    def chunk(self, first: int, *items: int, of: int = -1, queue: str = "") -> None:
        channel, incoming = self.asked[of]
        texts = [str(item).encode() for item in items]
        body = self._protocol.encode_chunk(incoming, first, texts, queue or self.own_queue, self.is_resumable)
        channel.publish("", incoming.reply_to, body, correlation_id=items_id(incoming.id), mandatory=False)
        self.bus.time.settle()

    def end(self, outcome: Any, of: int = -1) -> None:
        self.reply(*self.asked[of], {"items": outcome} if isinstance(outcome, int) else outcome)
        self.bus.time.settle()


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    with virtual_bus(monkeypatch) as bus:
        yield bus


@pytest.fixture
def node(bus: VirtualBus) -> StreamingNode:
    node = StreamingNode(bus)
    for broker in reversed(bus.brokers):
        node.start(broker)
    return node


def asked(bus: VirtualBus, **how: Any) -> ItemStream[Any]:
    stream = bus.sender.stream(TARGET, [1], **how)
    bus.time.until(lambda: bus.engine.status()["travelling"])
    bus.time.settle()
    return stream


def inbox_of(stream: ItemStream[Any]) -> StreamInbox:
    assert stream._inbox is not None
    return stream._inbox


def advance_until_ended(bus: VirtualBus, stream: ItemStream[Any]) -> None:
    bus.time.until(lambda: inbox_of(stream).has_ended)


def test_the_terms_go_with_the_request(bus: VirtualBus, node: StreamingNode) -> None:
    asked(bus, prefetch=7)
    terms = node.asked[0][1].stream
    assert terms is not None and (terms.items, terms.position) == (7, None)
    asked(bus, position=0)
    assert (again := node.asked[1][1].stream) is not None and again.position == 0


def test_items_come_in_order_and_once(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus)
    node.chunk(0)
    node.chunk(0, 10, 11)
    node.chunk(0, 10, 11)
    node.chunk(2, 12)
    node.end(3)
    assert list(stream) == [10, 11, 12]
    assert list(stream) == [] and stream.position == 3


@pytest.mark.parametrize("what", ["gap", "end"])
def test_what_is_missing_interrupts_it(bus: VirtualBus, node: StreamingNode, what: str) -> None:
    stream = asked(bus)
    node.chunk(0, 10)
    node.chunk(2, 12) if what == "gap" else node.end(3)
    assert next(stream) == 10
    with pytest.raises(StreamInterrupted, match=r"at item 1: .*(did not arrive|of 3 items 1 arrived)") as caught:
        next(stream)
    assert caught.value.position == 1


@pytest.mark.parametrize("what", ["other request", "other secret", "other broker"])
def test_a_chunk_that_is_not_its_nodes_is_ignored(bus: VirtualBus, node: StreamingNode, what: str) -> None:
    stream = asked(bus)
    channel, incoming = node.asked[0]
    if what == "other request":
        asked(bus)
        body = node._protocol.encode_chunk(node.asked[1][1], 0, [b"666"], "q", False)
    elif what == "other secret":
        body = Node(bus, "another secret of it")._protocol.encode_chunk(incoming, 0, [b"666"], "q", False)
    else:
        body = b"<chunk>"
    channel.publish("", incoming.reply_to, body, correlation_id=items_id(incoming.id), mandatory=False)
    bus.time.settle()
    streams: Streams = bus.engine.streams
    assert streams.unverified == 1
    node.chunk(0, 10, of=0)
    node.end(1, of=0)
    assert list(stream) == [10]


def test_credits_follow_what_is_used_up(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus, prefetch=4)
    id = node.asked[0][1].id
    node.chunk(0, 1, 2)
    assert [next(stream), next(stream)] == [1, 2]
    assert node.credits == []
    node.chunk(2, 3, 4)
    assert next(stream) == 3
    bus.time.settle()
    assert [credit[:2] for credit in node.credits] == [(id, 6)], "two were used up"
    assert node.credits[0].bytes == inbox_of(stream).request.terms.bytes + len(b"1,2") + 1


def test_a_stream_whose_reader_is_slow_shows_that_it_lives(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus)
    bus.time.advance(3 * ALIVE_S)
    assert node.credits == [], "nobody runs it yet"
    node.chunk(0, 10)
    for _ in range(10):
        bus.time.advance(ALIVE_S)
        node.chunk(1)
    assert 8 <= len(node.credits) <= 11
    assert len({credit.items for credit in node.credits}) == 1
    assert next(stream) == 10


def test_a_stream_of_which_nothing_is_heard_is_interrupted(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus)
    node.chunk(0, 10)
    bus.time.advance(SILENT_S + 1)
    assert next(stream) == 10
    with pytest.raises(StreamInterrupted, match="nothing was heard"):
        next(stream)
    assert node.cancelled == [node.asked[0][1].id]


def test_a_credit_that_comes_back_interrupts_it(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus)
    node.chunk(0, 10, queue="amq.gen-of-one-that-is-gone")
    bus.time.advance(ALIVE_S + 0.2)
    assert next(stream) == 10
    with pytest.raises(StreamInterrupted, match="worker that ran it is gone"):
        next(stream)


def test_an_item_has_its_time(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus, item_timeout=5)
    node.chunk(0)
    future = next(stream._steps())
    bus.time.advance(4)
    node.chunk(0)
    assert not future.done()
    bus.time.advance(1.2)
    assert future.done()
    with pytest.raises(CallTimeout):
        next(stream)
    assert node.cancelled == [node.asked[0][1].id]


def test_without_a_time_limit_only_the_begin_has_a_deadline(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus, item_timeout=5)
    incoming = node.asked[0][1]
    assert incoming.stream is not None and incoming.stream.is_open and (incoming.remaining_s or 0) <= 5
    for number in range(30):
        node.chunk(number, number)
        bus.time.advance(2)
    node.end(30)
    assert list(stream) == list(range(30)) and node.cancelled == []


def test_what_does_not_begin_in_time_ends_though_no_reader_waits(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus, item_timeout=5)
    bus.time.advance(5.5)
    assert inbox_of(stream).has_ended and node.cancelled == [node.asked[0][1].id]
    with pytest.raises(CallTimeout):
        next(stream)


def test_a_time_limit_is_for_all_of_it(bus: VirtualBus, node: StreamingNode) -> None:
    stream = bus.sender.stream(TARGET, [1], 10, item_timeout=5)
    bus.time.until(lambda: node.asked)
    incoming = node.asked[0][1]
    assert incoming.stream is not None and not incoming.stream.is_open and 9 < (incoming.remaining_s or 0) <= 10
    for number in range(6):
        node.chunk(number, number)
        bus.time.advance(2)
    with pytest.raises(CallTimeout):
        list(stream)


def test_what_has_not_begun_in_time_says_why(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus, item_timeout=1)
    next(stream._steps())
    node.end(Fault(BUSY, "the inbox of test.echo is full", retry_after_ms=60_000))
    bus.time.advance(1.2)
    with pytest.raises(ServiceBusy, match="inbox"):
        next(stream)


def test_the_time_of_an_item_is_that_over_all_brokers(bus: VirtualBus, node: StreamingNode) -> None:
    node.is_resumable = True
    stream = asked(bus, item_timeout=5)
    steps = stream._steps()
    for _ in range(2):
        next(steps)
        bus.time.advance(2)
        node.chunk(0)
        node.end(Fault(INTERRUPTED, "lost"))
    with pytest.raises(CallTimeout, match=r"within (5|5\.\d+) s"):
        while True:
            bus.time.until(next(steps).done)


@pytest.mark.parametrize("items", [b"[1]", b"[1,2,3]", b"{}", b"[1,", b"NaN"])
def test_a_chunk_that_does_not_hold_what_it_says_ends_it(bus: VirtualBus, node: StreamingNode, items: bytes) -> None:
    stream = asked(bus)
    channel, incoming = node.asked[0]
    chunk = Chunk(incoming.id, 1, 0, 2, node.own_queue, False, items)
    body = write_chunk(Keyring([SECRET]), incoming.token, chunk)
    channel.publish("", incoming.reply_to, body, correlation_id=items_id(incoming.id), mandatory=False)
    bus.time.settle()
    with pytest.raises(InvalidReply):
        next(stream)
    bus.time.settle()
    assert list(stream) == [] and node.cancelled == [incoming.id]


def test_time_counts_only_while_a_reader_waits(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus, item_timeout=5)
    for _ in range(10):
        node.chunk(0)
        bus.time.advance(2)
    node.chunk(0, 10)
    assert next(stream) == 10


def test_one_that_is_resumable_is_asked_again_from_where_it_was(bus: VirtualBus, node: StreamingNode) -> None:
    node.is_resumable = True
    stream = asked(bus)
    node.chunk(0, 10, 11)
    node.end(Fault(INTERRUPTED, "the agent there is stopping"))
    assert [next(stream), next(stream)] == [10, 11]
    steps = stream._steps()
    next(steps)
    bus.time.settle()
    terms = node.asked[1][1].stream
    assert terms is not None and terms.position == 2
    assert node.asked[0][1].id != node.asked[1][1].id
    node.chunk(2, 12)
    node.end(3)
    assert list(stream) == [12]


def test_a_broker_that_is_lost_before_anything_came_is_no_end(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus)
    bus.brokers[0].refuse()
    bus.brokers[0].drop()
    bus.time.until(lambda: len(node.asked) == 2)
    assert node.calls[0][1] == node.calls[1][1] and node.asked[1][1].attempt == 2, "the same request, over the next one"
    node.chunk(0, 10)
    node.end(1)
    assert list(stream) == [10]


def test_what_may_have_begun_is_asked_for_as_what_goes_on(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus)
    node.end(Fault(INTERRUPTED, "its worker died while it ran"))
    steps = stream._steps()
    next(steps)
    bus.time.until(lambda: len(node.asked) == 2)
    assert (terms := node.asked[1][1].stream) is not None and terms.position == 0
    node.end(Fault(REFUSED, "not-resumable: the service begins its stream at the first item alone"))
    with pytest.raises(StreamInterrupted, match=r"at item 0: .* cannot begin again"):
        next(stream)


def test_a_stream_that_only_fails_is_given_up(bus: VirtualBus, node: StreamingNode) -> None:
    node.is_resumable = True
    stream = asked(bus)
    steps = stream._steps()
    with pytest.raises(StreamInterrupted, match="at item 0"):
        while True:
            count = len(node.asked)
            if not inbox_of(stream).has_ended:
                node.chunk(0)
                node.end(Fault(INTERRUPTED, "again and again"))
            future = next(steps)
            bus.time.until(lambda future=future, count=count: future.done() or len(node.asked) > count)  # type: ignore[misc]
    assert 5 < len(node.asked) < 12


def test_an_agent_that_stops_did_not_begin_it(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus)
    node.end(Fault(STOPPING, "the agent is stopping"))
    bus.time.until(lambda: len(node.asked) == 2)
    assert node.calls[0][1] == node.calls[1][1] and node.asked[1][1].attempt == 2, "the same request, once more"
    node.chunk(0, 10)
    node.end(1)
    assert list(stream) == [10]


def test_a_stream_that_nobody_serves_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with virtual_bus(monkeypatch, path_wait=1.0) as bus:
        stream = bus.sender.stream(TARGET, [1])
        bus.time.until(lambda: inbox_of(stream).has_ended)
        with pytest.raises(NodeUnavailable):
            next(stream)


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_reader_that_stops_has_it_cancelled(bus: VirtualBus, node: StreamingNode, how: str) -> None:
    stream: Any = asked(bus)
    node.chunk(0, 10)
    assert repr(stream) == f"<ItemStream of {NODE}.test.echo at item 0>"
    if how == "close":
        stream.close()
    else:
        del stream
    bus.time.settle()
    assert node.cancelled == [node.asked[0][1].id]
    assert bus.engine.status()["travelling"] == 0
    node.chunk(1, 11)
    assert repr(bus.engine.streams) == "<Streams open=0>"


def test_a_sender_that_is_closed_ends_it(bus: VirtualBus, node: StreamingNode) -> None:
    stream = asked(bus)
    node.chunk(0, 10)
    bus.close()
    assert next(stream) == 10
    with pytest.raises(Exception, match="the Sender was closed"):
        next(stream)
