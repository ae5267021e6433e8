"""The Erlang of the rig, on the RabbitMQ that is installed: what a version does not understand breaks nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pika
import pika.exceptions
import pytest
from probe import Probe
from waiting import wait_until

from servicebus.testing import Broker
from tests.chaos import erlang

pytestmark = pytest.mark.brokers(count=1)

KINDS = {"classic": None, "quorum": {"x-queue-type": "quorum"}}


@pytest.fixture
def broker(brokers: list[Broker]) -> Broker:
    return brokers[0]


@pytest.fixture(params=KINDS)
def queue(request: pytest.FixtureRequest, broker: Broker) -> str:
    Probe(broker).declare("N.messages", durable=True, arguments=KINDS[request.param])
    return "N.messages"


@pytest.fixture
def channel(broker: Broker) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    parameters = pika.URLParameters(broker.url)
    parameters.client_properties = {"connection_name": f"the rig's pid {os.getpid()}"}
    connection = pika.BlockingConnection(parameters)
    yield connection.channel()
    if connection.is_open:
        connection.close()


def alarms(broker: Broker) -> str:
    return broker.evaluate("rabbit_alarm:get_alarms().")


@pytest.mark.parametrize(
    ("begin", "end"), [(erlang.MEMORY_ALARM, erlang.MEMORY_FREE), (erlang.DISK_ALARM, erlang.DISK_FREE)]
)
def test_alarms_begin_and_end(broker: Broker, begin: str, end: str) -> None:
    assert broker.evaluate(begin) == "ok"
    wait_until(lambda: alarms(broker) != "[]", 30, "an alarm")
    assert broker.evaluate(end) == "ok"
    wait_until(lambda: alarms(broker) == "[]", 30, "no alarm any more")


@pytest.mark.parametrize("expression", [erlang.CLOSE_ALL, erlang.CLOSE_ONE])
def test_connections_are_closed(
    broker: Broker, expression: str, channel: pika.adapters.blocking_connection.BlockingChannel
) -> None:
    assert broker.evaluate(expression) == "closed"
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker):
        channel.connection.process_data_events(time_limit=30)
    wait_until(lambda: broker.evaluate(expression) == "none")


def test_consumers_and_lengths_are_told(
    broker: Broker, queue: str, channel: pika.adapters.blocking_connection.BlockingChannel
) -> None:
    channel.basic_consume(queue, lambda *_: None)
    Probe(broker).publish(queue, b"one", delivery_mode=2)
    assert erlang.read_consumers(broker.evaluate(erlang.CONSUMERS)) == {queue: [os.getpid()]}
    wait_until(lambda: erlang.read_use(broker.evaluate(erlang.USE)) == (1, 1, {queue: 1}))


@pytest.mark.parametrize(
    ("act", "done"), [(erlang.cancel_consumer, "cancelled"), (erlang.forget_consumer, "forgotten")]
)
def test_a_consumer_is_removed(
    broker: Broker,
    queue: str,
    channel: pika.adapters.blocking_connection.BlockingChannel,
    act: Callable[[str], str],
    done: str,
) -> None:
    cancelled: list[object] = []
    channel.add_on_cancel_callback(cancelled.append)
    channel.basic_consume(queue, lambda *_: None)
    assert broker.evaluate(act(queue)) == done
    wait_until(lambda: not Probe(broker).consumers(queue))
    channel.connection.process_data_events()
    assert bool(cancelled) == (done == "cancelled")
    assert broker.evaluate(act(queue)) == "none"


def test_a_classic_queue_is_deleted_if_nothing_is_in_it(broker: Broker) -> None:
    probe, queue = Probe(broker), "N.rpc"
    probe.declare(queue, durable=True)
    probe.publish(queue, b"one", delivery_mode=2)
    assert "deleted" not in broker.evaluate(erlang.delete_queue(queue))
    assert [body for body, _ in probe.take_all(queue)] == [b"one"]
    wait_until(lambda: broker.evaluate(erlang.delete_queue(queue)) == "deleted", 20)
    assert probe.depth(queue) is None
    assert broker.evaluate(erlang.delete_queue(queue)) == "none"


def test_a_quorum_queue_is_kept(broker: Broker) -> None:
    probe, queue = Probe(broker), "N.messages"
    probe.declare(queue, durable=True, arguments=KINDS["quorum"])
    assert broker.evaluate(erlang.delete_queue(queue)) == "{kept,rabbit_quorum_queue}"
    assert probe.depth(queue) == 0


def test_a_queue_is_crashed_and_is_there_again_with_its_messages(broker: Broker, queue: str) -> None:
    probe = Probe(broker)
    probe.publish(queue, b"one", delivery_mode=2)
    assert broker.evaluate(erlang.crash_queue(queue)) == "crashed"
    wait_until(lambda: probe.depth(queue) == 1, 30)


def test_a_queue_is_full_and_has_room_again_and_keeps_what_it_has(broker: Broker, queue: str) -> None:
    def is_refused() -> bool:
        with Probe(broker).channel() as channel:
            channel.confirm_delivery()
            try:
                channel.basic_publish("", queue, b"one", pika.BasicProperties(delivery_mode=2))
            except pika.exceptions.NackError:
                return True
            return False

    Probe(broker).publish(queue, b"first", delivery_mode=2)
    assert not is_refused()
    for definition in (erlang.REJECT, erlang.FULL):
        assert broker.evaluate(erlang.set_policy("full", r"^N\.messages$", definition)) == "ok"
        wait_until(lambda: erlang.have_taken(broker.evaluate(erlang.with_policy("full")), definition), 30)  # noqa: B023
    wait_until(is_refused, 30)
    assert broker.evaluate(erlang.accept_publishes("full")) == "ok"
    wait_until(lambda: not is_refused(), 30)
    assert broker.evaluate(erlang.accept_publishes("full")) != "ok"
    assert {body for body, _ in Probe(broker).take_all(queue)} == {b"first", b"one"}


def test_what_a_broker_does_not_understand_is_told_from_what_is_not_there(broker: Broker) -> None:
    for unknown in ("rabbit_networking:no_such_function().", "lists:keyfind(1, 2).", "no_such_module:it()."):
        assert erlang.is_misunderstood(broker.evaluate(unknown))
    for other in ("{error, not_found}.", "exit(noproc).", "erlang:error(badarg)."):
        assert not erlang.is_misunderstood(broker.evaluate(other))
