"""The contract of connections: what is told, when, and what becomes of what they held."""

from __future__ import annotations

import pytest
from transport_rigs import Line, Peer, Rig

from servicebus.errors import ConnectFailed
from servicebus.transport.steps import consume, declare_queue, set_prefetch

QUEUE = "contract.work"


def held(peer: Peer, body: str = "held") -> Line:
    """A channel of *peer* that holds one delivery unacknowledged."""
    line = peer.channel()
    line.ask(declare_queue(QUEUE, durable=True), set_prefetch(1), consume(QUEUE, line.got.append))
    line.publish(QUEUE, body)
    assert line.bodies(1) == [body]
    return line


def count(rig: Rig) -> tuple[int, int]:
    """Messages and consumers of the queue."""
    peer = Peer(rig).opened()
    ((_, messages, consumers),) = peer.channel().ask(declare_queue(QUEUE, durable=True, passive=True))
    peer.connection.abort("counted")
    return messages, consumers


def test_it_opens_and_knows_its_host_and_the_brokers_version(rig: Rig) -> None:
    peer = Peer(rig).opened()
    assert peer.connection.is_open
    assert peer.connection.host == rig.host
    assert peer.connection.loop is rig.loop
    assert int(peer.connection.server_version.split(".")[0]) >= 3
    assert peer.connection.blocked is None
    peer.connection.abort("done")


def test_one_that_is_refused_fails_once(rig: Rig) -> None:
    rig.refuse()
    peer = Peer(rig)
    rig.until(lambda: peer.failure)
    assert peer.failure is not None and peer.failure.kind == "refused"
    assert not peer.connection.is_open
    peer.connection.abort("too late")
    peer.connection.close()
    assert Peer(rig).told == []
    assert peer.told == ["failed"]


def test_one_that_gets_no_answer_fails_after_its_time(rig: Rig) -> None:
    rig.freeze()
    peer = Peer(rig, handshake_timeout_s=0.3)
    rig.until(lambda: peer.told)
    assert peer.told == ["failed"]
    assert peer.failure is not None and peer.failure.kind == "silent"
    rig.thaw()
    Peer(rig).opened().connection.abort("done")
    assert peer.told == ["failed"]


def test_a_goodbye_ends_channels_and_connection_once(rig: Rig, peer: Peer) -> None:
    line = peer.channel()
    peer.connection.close()
    assert not line.open_channel.is_open, "at once"
    assert line.publish("nowhere", "x") == [0]
    assert peer.told == ["opened"]
    rig.until(lambda: peer.loss)
    assert not peer.connection.is_open
    assert line.failure is not None
    peer.connection.close()
    peer.connection.abort("too late")
    Peer(rig).opened().connection.abort("done")
    assert peer.told == ["opened", "lost"]


def test_no_channel_is_opened_behind_a_goodbye(rig: Rig, peer: Peer) -> None:
    told: list[object] = []
    peer.connection.close()
    assert peer.connection.is_open, "its end is not told yet"
    peer.connection.open_channel(told.append, told.append)
    rig.until(lambda: peer.loss)
    assert told == []


def test_what_was_sent_before_a_goodbye_arrives(rig: Rig, peer: Peer) -> None:
    line = held(peer)
    line.publish(QUEUE, "last words")
    line.open_channel.ack(line.got[0].tag)
    peer.connection.close()
    rig.until(lambda: peer.loss)
    rig.until(lambda: count(rig) == (1, 0))


def test_an_abort_is_told_later_with_its_reason(rig: Rig, peer: Peer) -> None:
    line = peer.channel()
    peer.connection.abort("it fell silent")
    assert not (peer.connection.is_open or line.open_channel.is_open), "at once"
    assert peer.told == ["opened"] and line.failure is None, "but told later"
    rig.until(lambda: peer.loss and line.failure)
    assert peer.loss is not None and peer.loss.reason == "it fell silent"
    peer.connection.open_channel(lambda _channel: pytest.fail("opened"), lambda _error: pytest.fail("closed"))
    peer.connection.abort("again")
    Peer(rig).opened().connection.abort("done")
    assert peer.told == ["opened", "lost"]


def test_an_abort_before_it_opens_is_a_failed_attempt(rig: Rig) -> None:
    peer = Peer(rig)
    peer.connection.abort("superseded")
    assert peer.told == []
    rig.until(lambda: peer.told)
    Peer(rig).opened().connection.abort("done")
    assert peer.told == ["failed"]
    assert isinstance(peer.failure, ConnectFailed) and peer.failure.reason == "superseded"


def test_what_an_aborted_one_held_goes_back(rig: Rig, peer: Peer) -> None:
    held(peer)
    peer.connection.abort("gone")
    rig.until(lambda: count(rig) == (1, 0))


def test_one_that_breaks_is_told_once_and_gives_back_what_it_held(rig: Rig, peer: Peer) -> None:
    line = held(peer)
    rig.drop()
    rig.until(lambda: peer.loss and line.failure)
    assert not (peer.connection.is_open or line.open_channel.is_open)
    assert peer.told == ["opened", "lost"]
    rig.until(lambda: count(rig) == (1, 0))


def test_the_broker_hears_of_an_abandoned_one_only_when_it_is_dismissed(rig: Rig, peer: Peer) -> None:
    line = held(peer)
    dismiss = peer.connection.abandon("its network swallows everything")
    assert not (peer.connection.is_open or line.open_channel.is_open)
    assert peer.told == ["opened"]
    rig.until(lambda: peer.loss)
    assert count(rig) == (0, 1)
    dismiss()
    rig.until(lambda: count(rig) == (1, 0))
    dismiss()
    assert peer.told == ["opened", "lost"]


def test_bytes_prove_that_the_other_end_lives(rig: Rig, peer: Peer) -> None:
    line, connection = peer.channel(), peer.connection
    received, written = connection.bytes_received, connection.bytes_written
    line.sync()
    assert connection.bytes_received > received
    assert connection.bytes_written > written
    rig.until(lambda: connection.bytes_acknowledged >= connection.bytes_written > 0)


def test_nothing_is_received_of_a_frozen_broker_and_everything_when_it_goes_on(rig: Rig, peer: Peer) -> None:
    line = peer.channel()
    line.sync()
    rig.freeze()
    received, answers = peer.connection.bytes_received, list[str]()
    line.open_channel.set_prefetch(0, lambda _answer: answers.append("answered"))
    silent = Peer(rig, handshake_timeout_s=0.3)
    rig.until(lambda: silent.told)
    assert (answers, peer.connection.bytes_received) == ([], received)
    rig.thaw()
    rig.until(lambda: answers)


def test_an_alarm_stops_those_that_publish_and_tells_them(rig: Rig, peer: Peer) -> None:
    publishes, consumes = peer.channel(confirms=True), Peer(rig).opened()
    line = held(consumes)
    publishes.publish(QUEUE, "before")
    assert publishes.outcomes(1) == {1: True}
    rig.block()
    publishes.publish(QUEUE, "during")
    rig.until(lambda: peer.blocked)
    publishes.publish(QUEUE, "during, too")
    assert peer.connection.blocked and [peer.connection.blocked] == peer.blocked
    line.open_channel.ack(line.got[0].tag)
    assert line.bodies(2) == ["held", "before"], "who only consumes goes on"
    assert publishes.outcomes(1) == {1: True}
    assert len(peer.blocked) == 1, "told once"
    rig.unblock()
    assert publishes.outcomes(3) == {1: True, 2: True, 3: True}
    rig.until(lambda: peer.connection.blocked is None)
    assert peer.blocked[-1] is None
    consumes.connection.abort("done")
