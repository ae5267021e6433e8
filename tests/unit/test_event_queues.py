"""A worker with subscriptions, on a broker in memory: its queues, and what strangers and operators put into them."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from virtual_bus import NODE, VirtualBus
from virtual_worker import Note, VirtualWorker

from servicebus.client.publishing import EventPublisher
from servicebus.errors import ConfigurationError
from servicebus.operations.dead_letter import DeadLetter, RequeueCheck, RequeueStatus
from servicebus.runtime.event_queues import SUBSCRIPTION, queues_of
from servicebus.runtime.known_subscriptions import note_subscriptions
from servicebus.runtime.registration import register
from servicebus.runtime.service_thread import Service
from servicebus.transport.interface import Delivery
from servicebus.transport.memory import MemoryBroker
from servicebus.transport.memory_exchanges import MemoryExchange
from servicebus.transport.memory_queues import Message
from servicebus.wire import headers
from servicebus.wire.envelope import Kind

BILLING, MAIL = f"{NODE}.events.billing.invoice", f"{NODE}.events.mail.send"


@pytest.fixture
def worker(bus: VirtualBus) -> VirtualWorker:
    more = [
        Service(Kind.MESSAGE, "billing", "invoice", Note(), events=("orders.*",)),
        Service(Kind.MESSAGE, "mail", "send", Note(), events=("orders.created", "users.#")),
    ]
    return VirtualWorker(bus, more=more).start()


def seen(worker: VirtualWorker) -> dict[str, list[Any]]:
    """What each subscriber was given."""
    return {each.service.key: each.service.instance.seen for each in worker.services if each.service.events}


def publish(bus: VirtualBus, event: str = "orders.created", params: Any = "p", **how: Any) -> Future[Any]:
    future = bus.sender.publish_async(event, params, **how)
    bus.time.settle()
    return future


def put(worker: VirtualWorker, queue: str, body: bytes, marks: dict[str, Any] | None = None) -> None:
    """As anyone may who can publish on the broker."""
    broker = worker.broker
    with broker.working_for(worker.loop):
        broker.store(Message("", queue, body, (None, None, None, marks), True), broker.route("", queue))
    worker.time.settle()


def body_of(bus: VirtualBus, event: str = "orders.created") -> bytes:
    """An event that was signed and not published."""
    _, request = bus.sender._make_event(event, "p", None, None, None, "", None)
    return request.body


def dead_letters(worker: VirtualWorker) -> list[DeadLetter]:
    check = RequeueCheck(worker._config, NODE)
    found = []
    for message in worker.messages("dead"):
        _, _, message_id, marks = message.properties
        found.append(check.read(Delivery(None, 1, message.body, message_id=message_id, headers=marks)))  # type: ignore[arg-type]
    return found


def test_a_sender_publishes() -> None:
    from servicebus.sender import Sender

    assert issubclass(Sender, EventPublisher)


def test_each_subscription_has_a_durable_queue_on_the_topic_exchange(worker: VirtualWorker) -> None:
    assert worker.broker.exchanges["servicebus.events"] == MemoryExchange("topic", True)
    assert all(
        worker.broker.queues[queue].durable and worker.broker.queues[queue].consumers for queue in (BILLING, MAIL)
    )
    assert worker.consumer.channel(SUBSCRIPTION) is not None


def test_a_node_without_subscriptions_makes_nothing_for_them(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus).start()
    assert list(worker.broker.exchanges) == ["servicebus"] and worker.consumer.channel(SUBSCRIPTION) is None
    assert queues_of(worker._config, [each.service for each in worker.services]) == []


def test_each_subscriber_is_given_an_event_once(bus: VirtualBus, worker: VirtualWorker) -> None:
    assert publish(bus).result().subscribers
    assert publish(bus, "users.a.b").result().subscribers
    assert seen(worker) == {"billing.invoice": ["p"], "mail.send": ["p", "p"]}


def test_an_event_that_reaches_a_queue_twice_is_run_once(bus: VirtualBus, worker: VirtualWorker) -> None:
    body = body_of(bus)
    for queue in (BILLING, BILLING, MAIL):
        put(worker, queue, body)
    assert seen(worker) == {"billing.invoice": ["p"], "mail.send": ["p"]}
    assert worker.dispatcher.counters["refused.replayed"] == 1


@pytest.mark.parametrize(
    ("event", "queue", "reason"),
    [
        ("users.a", BILLING, "not-subscribed"),
        ("orders.deleted", MAIL, "not-subscribed"),
        ("orders.created", f"{NODE}.messages", "wrong-queue"),
        ("orders.created", f"{NODE}.messages.delay.1", "wrong-node"),
    ],
)
def test_a_copy_where_it_does_not_belong_is_a_dead_letter(
    bus: VirtualBus, worker: VirtualWorker, event: str, queue: str, reason: str
) -> None:
    put(worker, queue, body_of(bus, event))
    worker.time.advance(2)
    assert seen(worker) == {"billing.invoice": [], "mail.send": []}
    (letter,) = dead_letters(worker)
    assert letter.reason in (reason, "wrong-queue") and letter.event == event


def test_a_copy_of_an_event_in_the_queue_of_calls_is_not_answered(bus: VirtualBus, worker: VirtualWorker) -> None:
    put(worker, f"{NODE}.rpc", body_of(bus))
    assert worker.dispatcher.counters["refused.wrong-queue"] == 1 and not dead_letters(worker)


def test_a_stranger_cannot_name_the_subscription_of_what_waits(bus: VirtualBus, worker: VirtualWorker) -> None:
    put(worker, f"{NODE}.messages.delay.1", body_of(bus), {headers.SUBSCRIPTION: "mail.send"})
    worker.time.advance(2)
    assert seen(worker)["mail.send"] == []
    assert [letter.reason for letter in dead_letters(worker)] == ["wrong-queue"]


def failed(bus: VirtualBus, worker: VirtualWorker) -> DeadLetter:
    """The dead letter of an event that mail.send could not take."""
    mail = next(each.service.instance for each in worker.services if each.service.key == "mail.send")
    mail.raises["p"] = ValueError("no paper")
    publish(bus)
    mail.raises.clear()
    (letter,) = dead_letters(worker)
    return letter


def test_a_dead_letter_says_whose_it_is(bus: VirtualBus, worker: VirtualWorker) -> None:
    letter = failed(bus, worker)
    assert (letter.service, letter.event, letter.reason) == ("mail.send", "orders.created", "ValueError")
    assert seen(worker)["billing.invoice"] == ["p"]
    check = RequeueCheck(worker._config, NODE)
    assert check.status(letter, time.time())[0] is RequeueStatus.GOOD and check.queue_of(letter) == MAIL


def test_it_goes_back_to_its_subscription_alone(bus: VirtualBus, worker: VirtualWorker) -> None:
    letter = failed(bus, worker)
    marks = RequeueCheck(worker._config, NODE).with_ticket(letter, time.time()).headers
    put(worker, BILLING, letter.body, marks)  # a stranger's idea
    put(worker, MAIL, letter.body, marks)
    put(worker, MAIL, letter.body, marks)
    assert seen(worker) == {"billing.invoice": ["p"], "mail.send": ["p", "p"]}


@pytest.mark.parametrize("change", ["service", "node", "none"])
def test_a_dead_letter_of_another_subscription_or_node_is_not_sent_back(
    bus: VirtualBus, worker: VirtualWorker, change: str
) -> None:
    failed(bus, worker)
    (message,) = worker.messages("dead")
    marks = dict(message.properties[3] or {})
    if change == "service":
        marks[headers.SUBSCRIPTION] = "billing.invoice"
    elif change == "none":
        del marks[headers.SUBSCRIPTION]
    check = RequeueCheck(worker._config, NODE if change != "node" else "NODE-02")
    letter = check.read(Delivery(None, 1, message.body, headers=marks))  # type: ignore[arg-type]
    assert check.status(letter, time.time())[0] is RequeueStatus.UNVERIFIED


def test_what_waits_for_a_service_that_has_gone_is_a_dead_letter_of_it(bus: VirtualBus, worker: VirtualWorker) -> None:
    letter = failed(bus, worker)
    without = VirtualWorker(bus, bus.brokers[0])
    delivery = Delivery(None, 1, letter.body, headers={headers.SUBSCRIPTION: "mail.send"})  # type: ignore[arg-type]
    protocol = without.consumer.protocol_of(delivery)
    assert protocol.subscription == "mail.send"


def test_bindings_that_were_deleted_are_there_again(bus: VirtualBus, worker: VirtualWorker) -> None:
    worker.broker._routes.bindings.clear()
    for _ in range(2):
        worker.consumer.look_after_topology()
        worker.time.settle()
    assert publish(bus).result().subscribers
    assert seen(worker)["billing.invoice"] == ["p"]


def test_without_a_subscriber_the_other_broker_is_asked(bus: VirtualBus, worker: VirtualWorker) -> None:
    bus.sender.publish_async("nobody")
    bus.time.settle()
    for link in bus.links[1:]:
        link.connect(bus.time.now)
    bus.time.settle()
    with worker.broker.lock:
        worker.broker._routes.bindings.clear()
        broker = bus.brokers[1]
        broker._routes.declare("servicebus.events", kind="topic", durable=True, passive=False)
    more = [Service(Kind.MESSAGE, "billing", "invoice", Note(), events=("orders.*",))]
    other = VirtualWorker(bus, broker, more=more).start()
    receipt = publish(bus).result()
    assert receipt.subscribers and receipt.confirmed_by == "mq-b:5672"
    assert seen(other) == {"billing.invoice": ["p"]}


def bound(broker: MemoryBroker) -> set[str]:
    """The patterns by which billing.invoice gets events."""
    return {key for (exchange, key), queues in broker._routes.bindings.items() if BILLING in queues}


def restarted(bus: VirtualBus, broker: MemoryBroker, *events: str) -> VirtualWorker:
    """Another worker of the node, whose service names other patterns."""
    note_subscriptions(bus.config, {"billing.invoice": events})
    return VirtualWorker(bus, broker, more=[Service(Kind.MESSAGE, "billing", "invoice", Note(), events=events)])


def test_what_a_restarted_agent_does_not_name_any_more_is_unbound_on_each_broker(
    bus: VirtualBus, tmp_path: Path
) -> None:
    """Also where a broker was down at the first start, and after several changes."""
    bus.config = bus.configure(node_name=NODE, journal=str(tmp_path / "journal"))
    one, other = bus.brokers[:2]
    for broker in (one, other):
        restarted(bus, broker, "orders.*", "users.#").start()
    assert bound(one) == bound(other) == {"orders.*", "users.#"}
    restarted(bus, one, "orders.*", "sales").start()
    assert bound(one) == {"orders.*", "sales"} and bound(other) == {"orders.*", "users.#"}
    for broker in (one, other):
        worker = restarted(bus, broker, "users.#").start()
        assert bound(broker) == {"users.#"}
    worker.consumer.look_after_topology()  # an agent of the former version has bound it again
    worker.broker._routes.bind(BILLING, "servicebus.events", "sales")
    worker.broker._routes.bindings[("servicebus.events", "users.#")].clear()
    for _ in range(2):
        worker.consumer.look_after_topology()
        worker.time.settle()
    assert bound(other) == {"users.#"}


@pytest.mark.parametrize("events", [[], "", "a..b", ["a", "b*"], [5]])
def test_what_is_no_pattern_is_refused_before_anything_is_served(events: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"service a\.b"):
        register(Kind.MESSAGE, "a", "b", Note(), events=events)
