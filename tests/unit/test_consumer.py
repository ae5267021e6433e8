"""The consumer and the drain without a broker: what stale connections say, and which queue of calls is asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from virtual_bus import VirtualBus
from virtual_worker import VirtualWorker

from servicebus.configuration import Configuration
from servicebus.errors import ConnectionLost, QueueStranded
from servicebus.policy.connection import ConnectionState
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.control import ControlRequests
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.drain import Drain
from servicebus.runtime.journal import MemoryJournal
from servicebus.runtime.maintenance import MaintenanceState
from servicebus.runtime.pipeline import Pipeline
from servicebus.transport.connection_manager import Loss
from servicebus.transport.interface import Asked, Script
from servicebus.transport.sharedloop import SharedLoop
from servicebus.wire.address import rpc_queue
from servicebus.wire.signing import Keyring

CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "a secret of the test"})


class Connection:
    blocked: str | None = None

    def __init__(self) -> None:
        self.is_open = True
        self.goodbyes: list[str] = []

    def close(self) -> None:
        self.goodbyes.append("close")

    def abort(self, _reason: str) -> None:
        self.is_open = False
        self.goodbyes.append("abort")


class Place:
    def __init__(self) -> None:
        self.loop = SharedLoop("test")
        keyring = Keyring(CONFIG.secrets)
        self.dispatcher = Dispatcher(self.loop, {}, MemoryJournal(), "mq-a")
        pipeline = Pipeline(self.loop, self.dispatcher, "mq-a", 64, lambda _error: None)
        control = ControlRequests(CONFIG, keyring, ProtocolV2(CONFIG, keyring), self.dispatcher)
        self.consumer = NodeConsumer(self.loop, CONFIG.hosts[0], CONFIG, pipeline, control)
        self.connections: list[Any] = [Connection(), Connection()]
        self.consumer.connections.connections = tuple(self.connections)

    def say(self, connection: Any, reason: str | None) -> None:
        connection.blocked = reason
        self.consumer.connections.connection_blocked(connection, reason)


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.loop.close()


def test_a_broker_is_blocked_for_as_long_as_one_of_the_connections_is(place: Place) -> None:
    publishes, consumes = place.connections
    place.say(publishes, "low on memory")
    assert place.consumer.blocked == "low on memory"
    place.say(consumes, "low on disk")
    place.say(consumes, None)
    assert place.consumer.blocked == "low on memory", "the one that publishes is blocked still"
    place.say(publishes, None)
    assert place.consumer.blocked is None


@pytest.mark.parametrize("is_blocked_before", [False, True])
def test_what_a_stale_connection_says_of_an_alarm_is_ignored(
    place: Place, is_blocked_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its broker may be another member of the cluster, or the alarm may be over: the new connections know."""
    stale = place.connections[0]
    if is_blocked_before:
        place.say(stale, "low on memory")
    newer: list[Any] = [Connection(), Connection()]
    place.consumer.connections.connections = tuple(newer)
    assert place.consumer.blocked is None
    caplog.clear()
    place.say(stale, "low on memory")
    assert place.consumer.blocked is None
    newer[0].blocked = "low on disk"
    place.say(stale, None)
    assert place.consumer.blocked == "low on disk"
    assert caplog.records == []


@pytest.mark.parametrize("first", [0, 1])
def test_the_connection_that_is_closed_first_does_not_cut_the_other_off(place: Place, first: int) -> None:
    """A reset drops what the broker has not read yet: the last acks. It would deliver handled messages again."""
    place.consumer.connections.state = ConnectionState.UP
    place.consumer.stop()
    place.consumer.close()
    place.connections[first].is_open = False
    place.consumer.connections.connection_lost(
        place.connections[first], ConnectionLost("mq-a", "Normal shutdown", sent=True)
    )
    assert not place.consumer.is_closed
    place.connections[1 - first].is_open = False
    place.consumer.connections.connection_lost(
        place.connections[1 - first], ConnectionLost("mq-a", "Normal shutdown", sent=True)
    )
    assert place.consumer.is_closed
    assert [connection.goodbyes for connection in place.connections] == [["close"], ["close"]]


class Channel:
    """Runs a script as far as its first step, and remembers which queue that asks for."""

    is_open = True
    asked: Asked | None = None

    def __init__(self) -> None:
        self.queues: list[str] = []

    def declare_queue(self, queue: str, *_: Any, **_how: Any) -> None:
        self.queues.append(queue)

    def run(self, script: Script, _on_done: Callable[[], None]) -> None:
        step = next(script)
        step(self, lambda _answer: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("taken", ["NODE-01.rpc", "NODE-01.rpc~2"])
def test_a_drain_asks_for_the_queue_of_calls_that_was_taken(
    place: Place, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first name may live on a member that is away: the worker consumes a spare one then."""
    channel = Channel()
    place.consumer._transient._taken[rpc_queue("NODE-01")] = taken
    monkeypatch.setattr(place.consumer, "channel", lambda _name: channel)
    drain = Drain(place.loop, place.consumer, place.dispatcher, [], 5.0, lambda _s: None)
    drain._ask_for_waiting_calls()
    assert channel.queues == [taken]


# -- what it does about what it learns -----------------------------------------------------------------------------


@pytest.fixture
def losses(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[Loss]:
    losses: list[Loss] = []
    monkeypatch.setattr(place.consumer.connections, "lose", losses.append)
    return losses


def test_a_queue_out_of_reach_is_tried_at_once_under_another_name(place: Place, losses: list[Loss]) -> None:
    """Over the same member: it is the queue's that is away."""
    place.consumer._transient._taken["NODE-01.rpc"] = "NODE-01.rpc"
    place.consumer.subscription_broken(QueueStranded("mq-a", "its member is down", queue="NODE-01.rpc"))
    (loss,) = losses
    assert loss.at_once and loss.keeps_member
    assert place.consumer._transient._stranded == {"NODE-01.rpc"}


def test_where_no_other_name_helps_all_are_tried_again_after_a_pause(place: Place, losses: list[Loss]) -> None:
    place.consumer._transient._stranded.add("NODE-01.rpc")
    place.consumer.subscription_broken(QueueStranded("mq-a", "its member is down", queue="NODE-01.messages"))
    (loss,) = losses
    assert loss.keeps_member and not loss.at_once
    assert place.consumer._transient._stranded == set()


@pytest.mark.parametrize(
    ("state", "is_sent"),
    [(ConnectionState.UP, True), (ConnectionState.DRAINING, True), (ConnectionState.BACKOFF, False)],
)
def test_the_echo_is_sent_until_the_connections_end(place: Place, state: ConnectionState, is_sent: bool) -> None:
    place.consumer.connections.state = state
    publisher: Any = Mock()
    place.consumer._publisher = publisher
    place.consumer.send_echo()
    assert publisher.echo.called is is_sent


def test_no_echo_is_sent_or_missed_while_the_broker_reads_nothing(place: Place) -> None:
    place.consumer.connections.state = ConnectionState.UP
    publisher: Any = Mock()
    place.consumer._publisher = publisher
    place.say(place.connections[0], "low on memory")
    before = time.monotonic()
    place.consumer.send_echo()
    assert not publisher.echo.called
    assert place.consumer._control.echoed_at >= before


@pytest.fixture
def worker(bus: VirtualBus) -> VirtualWorker:
    return VirtualWorker(bus).start()


def test_a_reconnect_that_we_asked_for_is_no_outage(worker: VirtualWorker, caplog: pytest.LogCaptureFixture) -> None:
    epoch = worker.consumer.epoch
    worker.consumer.renew("the broker is in use again")
    worker.time.until(lambda: worker.state == "consuming" and worker.consumer.epoch > epoch)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_once_all_are_consumed_no_queue_counts_as_out_of_reach(worker: VirtualWorker) -> None:
    epoch = worker.consumer.epoch
    worker.consumer._transient._stranded.add("NODE-01.rpc~2")
    worker.consumer.renew("of the test")
    worker.time.until(lambda: worker.state == "consuming" and worker.consumer.epoch > epoch)
    assert worker.consumer._transient._stranded == set()


def test_on_a_broker_in_maintenance_missing_queues_are_no_matter(worker: VirtualWorker) -> None:
    assert worker.consumer._is_settled()
    worker.consumer.maintenance._state = MaintenanceState.LEAVING
    assert not worker.consumer._is_settled()
