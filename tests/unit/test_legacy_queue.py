"""LegacyQueue: what Senders of py-servicebus 2.x send to a worker with ``compat``; on a broker in memory."""

from __future__ import annotations

import time as clocks
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from transport_rigs import Line, Peer
from virtual_bus import NODE, SECRET, VirtualBus, virtual_bus
from virtual_worker import VirtualWorker

from servicebus.compat.envelope import OldEvent, decode_reply, encode_event
from servicebus.compat.names import PING, PONG, node_queue
from servicebus.compat.tokens import DailyTokens
from servicebus.transport.steps import consume, declare_queue
from servicebus.wire.envelope import Kind


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    with virtual_bus(monkeypatch, hosts=1, compat=True, prefetch=40) as bus:
        yield bus


@pytest.fixture
def worker(bus: VirtualBus) -> VirtualWorker:
    worker = VirtualWorker(bus)
    return worker.start()


class OldSender:
    """Publishes as 2.19 does, and reads the texts that come back to its own queue."""

    def __init__(self, bus: VirtualBus):
        self.bus = bus
        rig: Any = SimpleNamespace(
            loop=bus.loop, connect=bus.network.connect, host=bus.config.hosts[0], until=bus.time.until
        )
        self.line: Line = Peer(rig).opened().channel()
        ((self.queue, *_),) = self.line.ask(declare_queue(exclusive=True))
        self.line.ask(consume(self.queue, self.line.got.append, no_ack=True))
        self._tokens = DailyTokens([SECRET], None)
        self._count = 0

    def publish(self, body: bytes, *, reply: bool = True) -> None:
        exchange, queue = self.bus.config.compat_exchange_name, node_queue(NODE)
        self.line.open_channel.publish(exchange, queue, body, reply_to=self.queue if reply else None)
        self.bus.time.settle()

    def send(self, service: str, params: bytes, *, reply: bool = True) -> None:
        self._count += 1
        event = OldEvent(str(self._count), self._tokens.make(clocks.time()), "test", service, params)
        self.publish(encode_event(event), reply=reply)

    def texts(self) -> list[str]:
        bodies = [delivery.body for delivery in self.line.got if delivery.body != PONG]
        return [decode_reply(body, 10_000).text for body in bodies]


@pytest.fixture
def old(bus: VirtualBus, worker: VirtualWorker) -> OldSender:
    return OldSender(bus)


def test_a_ping_is_answered_in_the_queue_that_it_came_by(old: OldSender, worker: VirtualWorker) -> None:
    old.publish(PING)
    assert [delivery.body for delivery in old.line.got] == [PONG]
    assert worker.dispatcher.counters["pings.compat"] == 1


def test_a_call_is_answered_and_a_message_is_run(old: OldSender, worker: VirtualWorker) -> None:
    old.send("echo", b'"hello"')
    assert old.texts() == ["hello"]
    old.send("note", b'"order"', reply=False)
    assert worker.note.seen == ["order"]
    worker.time.advance(1)
    assert worker.pipeline.is_idle
    assert worker.broker.queues[node_queue(NODE)].ready == []


def test_a_call_to_a_full_service_waits_for_room(old: OldSender, worker: VirtualWorker) -> None:
    """A caller of 2.x would take "busy" for its result."""
    service = worker.hold(Kind.CALL)
    for number in range(12):
        old.send("echo", str(number).encode())
    old.publish(PING)
    assert [delivery.body for delivery in old.line.got] == [PONG], "nothing blocks a ping"
    service.let_go()
    worker.time.advance(1)
    assert sorted(old.texts(), key=int) == [str(number) for number in range(12)]


def test_a_call_that_finds_the_line_full_is_told_so_at_once(old: OldSender, worker: VirtualWorker) -> None:
    """As many as ``prefetch`` wait; those that run, or have a place in the inbox, are not among them."""
    service = worker.hold(Kind.CALL)
    most = service.room + worker.bus.config.prefetch
    for number in range(most + 2):
        old.send("echo", str(number).encode())
    assert old.texts() == ["Service Error: busy: the inbox of test.echo is full"] * 2
    assert worker.dispatcher.counters["busy"] == 2
    service.let_go()
    worker.time.advance(10)
    assert sorted(worker.echo.seen) == list(range(most))
    assert worker.pipeline.is_idle


def test_calls_that_waited_come_again_after_a_connection_is_lost(old: OldSender, worker: VirtualWorker) -> None:
    service = worker.hold(Kind.CALL)
    for number in range(10):
        old.send("echo", str(number).encode())
    with worker.broker.lock:
        for session in list(worker.broker.sessions):
            if "consumes" in session.connection.label:
                session.cut("reset")
    worker.time.advance(2)
    service.let_go()
    worker.time.advance(2)
    assert sorted(worker.echo.seen) == list(range(10)), "each once"


def test_both_versions_are_served_beside_each_other(old: OldSender, bus: VirtualBus, worker: VirtualWorker) -> None:
    assert bus.result(bus.call("new")) == "new"
    old.send("echo", b'"old"')
    assert old.texts() == ["old"]
