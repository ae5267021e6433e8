"""Checks of exchanges, queues and bindings, and of what waits in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from servicebus.operations.doctor.amqp_facts import exchange_types
from servicebus.operations.doctor.facts import BrokerFacts, FleetFacts, QueueLook
from servicebus.operations.doctor.finding import DoctorFinding, Repair
from servicebus.operations.migrate import moving_queue
from servicebus.operations.queue_types import LIMITED, wanted_type
from servicebus.transport.stored import PRIORITY_ARGUMENTS, stored_queues
from servicebus.wire.address import control_queue, messages_queue, rpc_queue
from servicebus.wire.events import events_exchange, is_event_queue
from servicebus.wire.printable import counted

__all__ = [
    "bindings", "dead_messages", "exchanges", "foreign_bindings", "half_moved", "queue_attributes", "queue_types",
    "returns", "stored", "unheard_calls", "unused_subscriptions", "waiting",
]  # fmt: skip

_MIGRATE = "servicebus migrate-queue"
_OURS = (messages_queue, rpc_queue, control_queue)


def exchanges(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    config = fleet.config
    for name, state in broker.exchanges.items():
        kind = exchange_types(config)[name]
        is_events = name == events_exchange(config.exchange_name)
        if state == "missing" and not (is_events and not any(fleet.subscriptions.values())):
            cause = "no agent has ever connected to this virtual host, or it was deleted"
            fix = f"start an agent with this host, or declare it: {kind}, durable (--fix)"
            yield DoctorFinding(
                "exchange-missing",
                broker.name,
                f"there is no exchange {name}",
                cause,
                fix,
                repair=Repair("exchange", name),
            )
        elif state == "otherwise":
            what = f"exchange {name} is not {kind}, or not durable"
            cause = "another program has declared it, or exchange_name is that of another program"
            fix = f"use another exchange_name, or stop its users, delete it (rabbitmqadmin delete exchange name={name})"
            yield DoctorFinding("exchange-otherwise", broker.name, what, cause, f"{fix} and start an agent")


def returns(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    if broker.returns is False:
        name = fleet.config.exchange_name
        what = f"exchange {name} does not return what no queue takes"
        cause = (
            "it has an alternate exchange, by an argument or a policy: messages to a node that is away would be lost"
        )
        fix = f"remove it: rabbitmqctl list_policies (alternate-exchange), or delete {name} and start an agent"
        yield DoctorFinding("alternate-exchange", broker.name, what, cause, fix)


def stored(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    """Queues that store messages, and are gone though the node is at home on this broker."""
    for node in fleet.own_nodes:
        names = [*stored_queues(node), *fleet.subscriptions.get(node, {})]
        is_known = any(broker.queues.get(each) is not None for each in (rpc_queue(node), *names))
        for name in names:
            if is_known and name in broker.queues and broker.queues[name] is None:
                cause = f"it was deleted, or the agent of {node} does not run, or may not declare it"
                fix = f"start the agent of {node}, or declare it as queue_type says (--fix)"
                yield DoctorFinding(
                    "queue-missing", broker.name, f"there is no queue {name}", cause, fix, node, Repair("queue", name)
                )


def queue_types(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for node in fleet.own_nodes:
        config = fleet.config.with_node_name(node)
        for name, look in _of(broker, [*stored_queues(node), *fleet.subscriptions.get(node, {})]):
            if look.fits or not look.kind:
                continue
            wanted = wanted_type(config, name)
            fix = f"stop the agents of {node}, then: {_MIGRATE} {broker.name} --queue {name}"
            if look.kind == LIMITED and wanted == "quorum":
                cause = "it was declared before RabbitMQ 4.0; what came back 20 times is dropped"
                yield DoctorFinding(
                    "delivery-limit", broker.name, f"queue {name} has a delivery limit", cause, fix, node
                )
            elif look.kind == "another":
                cause = "it has other arguments (a time to live, a length, a dead-letter exchange) or attributes"
                what = f"queue {name} is not declared as this node does"
                yield DoctorFinding("queue-otherwise", broker.name, what, cause, fix, node)
            else:
                what = f"queue {name} is {look.kind}, and should be {wanted}"
                cause = "queue_type or priorities of the file have changed, or differ between agents of the node"
                yield DoctorFinding("queue-type", broker.name, what, cause, fix, node)


def queue_attributes(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    """Of the queues for calls and control, which exist while they are used: so AMQP cannot ask without making them."""
    for node in fleet.own_nodes:
        for name in (rpc_queue(node), control_queue(node)):
            found = _managed_queues(broker).get(name)
            if found is None:
                continue
            wanted: dict[str, Any] = {"durable": True, "auto_delete": True}
            arguments = {"x-expires": 60_000}
            if fleet.config.priorities and name == rpc_queue(node):
                arguments |= PRIORITY_ARGUMENTS
            given = dict(found.get("arguments") or {})
            given.pop("x-queue-type", None)
            differing = [key for key, value in wanted.items() if found.get(key) is not value]
            differing += sorted(key for key in {*arguments, *given} if arguments.get(key) != given.get(key))
            if differing:
                what = f"queue {name} has other {', '.join(differing)} than this node declares"
                cause = "another program has declared it, or agents of the node have different priorities"
                fix = f"stop the agents of {node}: it goes with its last consumer; delete it if it stays"
                yield DoctorFinding("queue-otherwise", broker.name, what, cause, fix, node)


def bindings(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    if broker.managed is None or broker.managed.bindings is None:
        return
    exchange = fleet.config.exchange_name
    bound = {(each["source"], each["destination"], each["routing_key"]) for each in broker.managed.bindings}
    known = _managed_queues(broker)
    for node in fleet.own_nodes:
        wanted: list[tuple[str, str, Sequence[str]]] = [(exchange, of(node), (of(node),)) for of in _OURS]
        wanted += [
            (events_exchange(exchange), queue, keys) for queue, keys in fleet.subscriptions.get(node, {}).items()
        ]
        for source, queue, keys in wanted:
            lacking = [key for key in keys if queue in known and (source, queue, key) not in bound]
            if lacking and not _is_spared(queue, node, exchange, bound):
                what = f"queue {queue} is not bound to exchange {source} with {', '.join(lacking)}"
                cause = "it was unbound, or the exchange was deleted and declared again"
                repair = Repair("binding", queue, source, lacking)
                fix = "bind it (--fix); an agent does so within 15 s where it may"
                yield DoctorFinding("binding-missing", broker.name, what, cause, fix, node, repair)


def _is_spared(queue: str, node: str, exchange: str, bound: set[tuple[str, str, str]]) -> bool:
    """On a cluster another queue may be bound in its place: ``NODE.rpc~2``."""
    return any((exchange, f"{queue}~{number}", queue) in bound for number in range(2, 5))


def foreign_bindings(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for each in (broker.managed.bindings if broker.managed is not None else None) or ():
        queue, key = each["destination"], each["routing_key"]
        if each["source"] != fleet.config.exchange_name or each.get("destination_type") == "exchange":
            continue
        is_a_nodes = key.rpartition(".")[2] in ("rpc", "control", "messages")
        if is_a_nodes and queue.partition("~")[0] not in (key, moving_queue(key)):
            cause = "it was bound by hand, to look at the traffic: each message is copied into it, and fills it"
            fix = f"unbind it, or delete it: rabbitmqctl delete_queue {queue}"
            what = f"queue {queue} gets a copy of what is sent to {key}"
            yield DoctorFinding("binding-foreign", broker.name, what, cause, fix, key.rpartition(".")[0])


def half_moved(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for name, look in broker.queues.items():
        if look is not None and name.endswith(".moving"):
            what = f"queue {name} is there, with {counted(look.ready, 'message')}"
            cause = "migrate-queue was interrupted"
            fix = f"run it again: {_MIGRATE} {broker.name} --queue {name.removesuffix('.moving')}"
            yield DoctorFinding("half-moved", broker.name, what, cause, fix)


def waiting(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for name, look in broker.queues.items():
        if look is None or not (name.endswith(".messages") or is_event_queue(name)):
            continue
        node = name.partition(".")[0]
        if look.ready and not look.consumers and not broker.is_drained:
            what = f"{counted(look.ready, 'message', 'wait')} in {name}, and no worker takes them"
            cause = f"no agent of {node} is connected to this broker"
            fix = "start it, or look why its worker does not consume: servicebus status on its machine"
            yield DoctorFinding("no-consumer", broker.name, what, cause, fix, node)
        elif look.ready >= fleet.backlog:
            what = f"{counted(look.ready, 'message', 'wait')} in {name}"
            cause = "its services are slower than what is sent to them, or one holds them up"
            fix = "more threads for its services, workers_per_host, or further agents with this node_name"
            yield DoctorFinding("backlog", broker.name, what, cause, fix, node)


def unheard_calls(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for name, look in broker.queues.items():
        if look is not None and name.endswith(".rpc") and not look.consumers and not broker.is_drained:
            what = f"queue {name} is there, and no worker consumes it: calls wait in it until they time out"
            cause = "another program has declared it, or its worker was lost in this minute"
            fix = f"delete it: rabbitmqctl delete_queue {name}; it belongs to the workers"
            yield DoctorFinding("calls-unheard", broker.name, what, cause, fix, name.removesuffix(".rpc"))


def dead_messages(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for name, look in broker.queues.items():
        if look is not None and look.ready and name.endswith(".dead"):
            node = name.removesuffix(".dead")
            cause = "services raised, or refused what came; each has its reason"
            fix = f"servicebus dead list --node {node}; then requeue or drop them"
            what = f"{node} has {counted(look.ready, 'dead letter')}"
            yield DoctorFinding("dead-letters", broker.name, what, cause, fix, node)


def unused_subscriptions(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for name, look in broker.queues.items():
        is_subscription = is_event_queue(name) and not name.endswith(".moving")
        if look is not None and is_subscription and not look.consumers and not broker.is_drained:
            node, _, service = name.partition(".events.")
            cause = f"{node} has subscribed with it before, and does not any more, or is not connected"
            fix = f"start it; if the service is gone for good: servicebus events drop {service} --node {node}"
            what = f"queue {name} collects events, and no worker takes them"
            yield DoctorFinding("subscription-unused", broker.name, what, cause, fix, node)


def _of(broker: BrokerFacts, names: list[str]) -> Iterator[tuple[str, QueueLook]]:
    for name in names:
        look = broker.queues.get(name)
        if look is not None:
            yield name, look


def _managed_queues(broker: BrokerFacts) -> Mapping[str, Mapping[str, Any]]:
    return (broker.managed.queues if broker.managed is not None else None) or {}
