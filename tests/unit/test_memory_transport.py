"""The faults of a broker in memory, which no contract has; what it shares with RabbitMQ is in ``tests/contract``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from transport_rigs import Line, MemoryRig, Peer
from virtual_time import VirtualTime, virtual_time

from servicebus.configuration import Configuration
from servicebus.transport.memory import MemoryNetwork
from servicebus.transport.steps import bind_queue, consume, declare_exchange, declare_queue, delete_queue, set_prefetch
from servicebus.wire.envelope import DIRECT_REPLY_TO

QUEUE = "work"


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as time:
        yield time


@pytest.fixture
def rig(time: VirtualTime) -> MemoryRig:
    return MemoryRig(time)


@pytest.fixture
def line(rig: MemoryRig) -> Line:
    line = Peer(rig).opened().channel(confirms=True)
    line.ask(declare_queue(QUEUE, durable=True))
    return line


def test_a_queue_that_nacks_stores_nothing(rig: MemoryRig, line: Line) -> None:
    rig.broker.nacks.add(QUEUE)
    line.publish(QUEUE, "a")
    rig.broker.nacks.clear()
    assert line.outcomes(1) == {1: True}, "what is set is so for what arrives then"
    rig.broker.nacks.add(QUEUE)
    line.publish(QUEUE, "b")
    assert line.outcomes(2) == {1: True, 2: False}
    assert [message.body for message in rig.broker.queues[QUEUE].ready] == [b"a"]


def test_confirms_are_held_and_told_together(rig: MemoryRig, line: Line, time: VirtualTime) -> None:
    rig.broker.holds_confirms = True
    for body in "abc":
        line.publish(QUEUE, body)
        time.advance(1)
    assert line.events == []
    rig.broker.release_confirms()
    time.settle()
    assert line.events == [(3, True, True)]


def test_everything_takes_its_time_both_ways(rig: MemoryRig, line: Line, time: VirtualTime) -> None:
    rig.broker.delay_s = 0.25
    began = time.now
    line.sync()
    assert time.now - began == pytest.approx(0.5)


def test_a_broker_that_stops_loses_what_is_transient(rig: MemoryRig, line: Line, time: VirtualTime) -> None:
    ((transient, *_),) = line.ask(declare_queue(exclusive=True))
    line.publish(QUEUE, "kept", persistent=True)
    line.publish(QUEUE, "lost")
    line.outcomes(2)
    rig.broker.stop()
    failed = Peer(rig)
    time.settle()
    assert line.failure is not None
    assert failed.failure is not None and failed.failure.kind == "refused"
    rig.broker.accept()
    again = Peer(rig).opened().channel()
    assert again.ask(declare_queue(QUEUE, passive=True)) == [(QUEUE, 1, 0)]
    assert again.refused(declare_queue(transient, passive=True)).reply_code == 404


def test_a_queue_that_is_mute_is_not_answered_for(rig: MemoryRig, line: Line, time: VirtualTime) -> None:
    rig.broker.mute.add(QUEUE)
    answers: list[Any] = []
    line.open_channel.declare_queue(QUEUE, answers.append, durable=True)
    other = Peer(rig).opened().channel()
    other.sync()
    time.advance(60)
    assert answers == []


def test_an_alternate_queue_takes_what_no_other_takes(rig: MemoryRig, line: Line) -> None:
    line.ask(declare_exchange("bus"))
    rig.broker.alternates["bus"] = QUEUE
    line.publish("nobody", "a", exchange="bus")
    line.outcomes(1)
    assert line.returned == []
    assert len(rig.broker.queues[QUEUE].ready) == 1


def test_a_reset_into_a_frozen_network_is_lost_until_the_heartbeat(rig: MemoryRig, time: VirtualTime) -> None:
    peer = Peer(rig).opened()
    line = peer.channel()
    line.ask(declare_queue(QUEUE, durable=True), consume(QUEUE, line.got.append))
    rig.broker.freeze()
    peer.connection.abort("silent")
    rig.broker.thaw()
    time.advance(60)
    assert len(rig.broker.queues[QUEUE].consumers) == 1
    time.advance(120)
    assert len(rig.broker.queues[QUEUE].consumers) == 0


def test_an_attempt_to_connect_goes_on_when_a_broker_is_thawed(rig: MemoryRig, time: VirtualTime) -> None:
    rig.broker.freeze()
    peer = Peer(rig)
    time.advance(10)
    assert peer.told == []
    rig.broker.thaw()
    time.settle()
    assert peer.told == ["opened"]


def test_a_body_that_is_as_long_as_allowed_comes_whole(rig: MemoryRig) -> None:
    rig.broker.max_message_size = 16 << 20
    most_bytes = 1 << 20
    line = Peer(rig, most_bytes).opened().channel()
    line.ask(declare_queue(QUEUE, durable=True), consume(QUEUE, line.got.append))
    line.publish(QUEUE, "x" * most_bytes, "x" * (most_bytes + 1))
    line.bodies(2)
    whole, cut = line.got
    assert (len(whole.body), whole.flaw) == (most_bytes, None)
    assert len(cut.body) < most_bytes and cut.flaw is not None and cut.flaw.reason == "oversized"


@pytest.mark.parametrize("how", ["ack", "reject", "keep"])
def test_a_cancelled_consumer_is_told_whether_it_may_have_kept_a_delivery_for_too_long(
    rig: MemoryRig, time: VirtualTime, how: str
) -> None:
    line = Peer(rig).opened().channel()
    line.ask(declare_queue(QUEUE, durable=True))
    (consumer_tag,) = line.ask(consume(QUEUE, line.got.append))
    line.publish(QUEUE, "a")
    line.bodies(1)
    channel: Any = line.open_channel
    if how == "ack":
        channel.ack(line.got[0].tag)
    elif how == "reject":
        channel.reject(line.got[0].tag, requeue=False)
    channel.become_cancelled(consumer_tag)
    time.advance(1)
    assert ("consumer_timeout" in str(line.failure)) == (how == "keep")


def test_what_a_channel_has_asked_before_it_was_closed_is_done_and_not_answered(
    rig: MemoryRig, line: Line, time: VirtualTime
) -> None:
    answers: list[Any] = []
    line.open_channel.declare_queue("another", answers.append, durable=True)
    line.open_channel.close()
    time.settle()
    assert "another" in rig.broker.queues and answers == []


def test_what_follows_what_the_broker_has_refused_is_not_done(rig: MemoryRig, line: Line, time: VirtualTime) -> None:
    answers: list[Any] = []
    line.open_channel.declare_queue("there is none", answers.append, passive=True)
    line.publish(QUEUE, "too late")
    time.settle()
    assert line.failure is not None and answers == []
    assert rig.broker.queues[QUEUE].ready == []


def test_a_connection_that_is_being_closed_says_goodbye_once(rig: MemoryRig, time: VirtualTime) -> None:
    peer = Peer(rig).opened()
    connection: Any = peer.connection
    connection.close()
    written = connection.bytes_written
    connection.close()
    assert connection.bytes_written == written
    time.settle()
    assert peer.told == ["opened", "lost"]


def test_of_a_quorum_queue_it_is_told_how_often_a_message_came_back(rig: MemoryRig, time: VirtualTime) -> None:
    line = Peer(rig).opened().channel()
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 2}
    line.ask(declare_queue(QUEUE, durable=True, arguments=arguments), set_prefetch(1), consume(QUEUE, line.got.append))
    line.publish(QUEUE, "a", headers={"mine": 1})
    for number in range(3):
        line.bodies(number + 1)
        line.open_channel.reject(line.got[-1].tag, requeue=True)
    time.settle()
    assert [delivery.headers for delivery in line.got] == [
        {"mine": 1},
        {"mine": 1, "x-delivery-count": 1},
        {"mine": 1, "x-delivery-count": 2},
    ]
    assert rig.broker.queues[QUEUE].ready == []


def test_a_network_is_brokers_by_their_addresses(time: VirtualTime) -> None:
    network = MemoryNetwork("mq-a:5672", "mq-b:5672")
    config = Configuration({"hosts": ["mq-a", "mq-b"], "secret_token": "a secret of the test"})
    rig = MemoryRig(time)
    rig.connect = network.connect
    network["mq-a:5672"].refuse("credentials", "who are you")
    told = []
    for rig.host in config.hosts:
        peer = Peer(rig)
        time.settle()
        told.append(peer.told)
    assert told == [["failed"], ["opened"]]
    assert [broker.connects for broker in network.brokers.values()] == [1, 1]


def test_an_alternate_queue_takes_nothing_that_another_takes(rig: MemoryRig, line: Line) -> None:
    line.ask(declare_exchange("bus"), declare_queue("other", durable=True), bind_queue("other", "bus", "key"))
    rig.broker.alternates["bus"] = QUEUE
    line.publish("key", "a", exchange="bus")
    line.outcomes(1)
    assert {name: len(queue.ready) for name, queue in rig.broker.queues.items()} == {QUEUE: 0, "other": 1}


def test_what_was_held_of_a_queue_that_is_gone_is_gone(rig: MemoryRig, time: VirtualTime) -> None:
    peer = Peer(rig).opened()
    line, other = peer.channel(), peer.channel()
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": 0,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
    }
    other.ask(declare_queue("dead", durable=True), declare_queue(QUEUE, durable=True, arguments=arguments))
    line.ask(consume(QUEUE, line.got.append))
    line.publish(QUEUE, "a")
    line.bodies(1)
    rig.broker.forget_queue(QUEUE)
    line.open_channel.close()
    time.settle()
    assert other.ask(declare_queue("dead", passive=True)) == [("dead", 0, 0)]


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_process_that_ends_is_found_out_as_soon_as_the_broker_goes_on(
    rig: MemoryRig, time: VirtualTime, is_frozen: bool
) -> None:
    watcher = MemoryRig(time)
    watcher.connect = rig.connect
    peer = Peer(rig).opened()
    line = peer.channel()
    line.ask(declare_queue(QUEUE, durable=True), consume(QUEUE, line.got.append))
    if is_frozen:
        rig.broker.freeze()
    rig.broker.end_process(rig.loop, is_killed=True)
    assert len(rig.broker.queues[QUEUE].consumers) == is_frozen
    rig.broker.thaw()
    assert rig.broker.queues[QUEUE].consumers == []
    assert Peer(watcher).opened().channel().ask(declare_queue(QUEUE, passive=True)) == [(QUEUE, 0, 0)]


def test_a_queue_that_is_asked_for_lives_for_its_whole_time_again(time: VirtualTime, rig: MemoryRig) -> None:
    line = Peer(rig).opened().channel()
    line.ask(declare_queue("short", durable=True, arguments={"x-expires": 1000}))
    time.advance(0.7)
    line.ask(declare_queue("short", passive=True))
    time.advance(0.7)
    assert "short" in rig.broker.queues
    time.advance(0.7)
    assert "short" not in rig.broker.queues


def test_what_has_been_delivered_keeps_no_timer(rig: MemoryRig, line: Line) -> None:
    line.ask(consume(QUEUE, line.got.append, no_ack=True))
    before = len(rig.loop._timers)
    line.publish(QUEUE, *("a" * 100), expiration_ms=600_000)
    assert len(line.bodies(100)) == 100
    assert len(rig.loop._timers) - before < 10


def test_a_broker_that_stops_loses_exchanges_that_are_not_durable(
    rig: MemoryRig, line: Line, time: VirtualTime
) -> None:
    line.ask(declare_exchange("stays"), declare_exchange("goes", durable=False))
    rig.broker.stop()
    assert list(rig.broker.exchanges) == ["stays"]


def test_a_classic_queue_does_not_tell_how_often_a_message_came_back(rig: MemoryRig) -> None:
    line = Peer(rig).opened().channel()
    line.ask(declare_queue(QUEUE, durable=True), set_prefetch(1), consume(QUEUE, line.got.append))
    line.publish(QUEUE, "a", headers={"mine": 1})
    line.bodies(1)
    line.open_channel.reject(line.got[0].tag, requeue=True)
    line.bodies(2)
    assert [delivery.headers for delivery in line.got] == [{"mine": 1}] * 2


def test_a_direct_reply_that_must_be_routed_arrives_and_comes_back(rig: MemoryRig) -> None:
    """As with RabbitMQ 3.10."""
    peer = Peer(rig).opened()
    caller, node = peer.channel(), peer.channel()
    node.ask(declare_queue(QUEUE, durable=True), consume(QUEUE, node.got.append))
    caller.ask(consume(DIRECT_REPLY_TO, caller.got.append, no_ack=True))
    caller.publish(QUEUE, "question", reply_to=DIRECT_REPLY_TO)
    node.bodies(1)
    node.publish(node.got[0].reply_to or "", "answer")
    assert caller.bodies(1) == ["answer"]
    node.sync()
    assert len(node.returned) == 1


def test_a_queue_without_consumers_may_be_deleted_if_it_is_unused(rig: MemoryRig, line: Line) -> None:
    line.ask(delete_queue(QUEUE, if_unused=True))
    assert rig.broker.queues == {}


def test_a_channel_that_is_closed_waits_for_no_direct_replies(rig: MemoryRig, time: VirtualTime) -> None:
    line = Peer(rig).opened().channel()
    line.ask(consume(DIRECT_REPLY_TO, line.got.append, no_ack=True))
    assert len(rig.broker.replies) == 1
    line.open_channel.close()
    time.settle()
    assert rig.broker.replies == {}


def test_what_is_sent_later_arrives_later(rig: MemoryRig, line: Line, time: VirtualTime) -> None:
    rig.broker.delay_s = 1.0
    line.publish(QUEUE, "a")
    time.advance(0.6)
    line.publish(QUEUE, "b")
    time.advance(0.5)
    assert [message.body for message in rig.broker.queues[QUEUE].ready] == [b"a"]
    time.advance(0.5)
    assert [message.body for message in rig.broker.queues[QUEUE].ready] == [b"a", b"b"]


def test_a_connection_has_no_more_channels_than_the_broker_allows(rig: MemoryRig) -> None:
    rig.broker.channel_max = 2
    peer = Peer(rig).opened()
    lines = [Line(peer) for _ in range(3)]
    rig.until(lambda: lines[2].failure)
    assert [line.failure is None and line.opened().open_channel.is_open for line in lines] == [True, True, False]
