"""What ``doctor --fix`` does: it declares and binds what is missing, as an agent would."""

from __future__ import annotations

from collections.abc import Sequence

from servicebus.operations.doctor.amqp_facts import exchange_types
from servicebus.operations.doctor.facts import FleetFacts
from servicebus.operations.doctor.finding import DoctorFinding
from servicebus.operations.queue_types import declaration_of
from servicebus.operations.session import Session
from servicebus.transport.steps import bind_queue, declare_exchange
from servicebus.wire.address import messages_queue
from servicebus.wire.events import events_exchange

__all__ = ["mend"]


def mend(session: Session, fleet: FleetFacts, finding: DoctorFinding) -> None:
    """Do what *finding* proposes. Raises TransportError; fine if it is done already."""
    repair, config = finding.repair, fleet.config
    assert repair is not None
    with session.channel() as channel:
        what = repair.describe()
        if repair.kind == "exchange":
            channel.run(declare_exchange(repair.name, kind=exchange_types(config)[repair.name]), what)
            return
        exchange, routing_keys = repair.exchange, repair.routing_keys
        if repair.kind == "queue":
            own = config.with_node_name(finding.node)
            channel.run(declaration_of(session, own, repair.name), what)
            exchange, routing_keys = _bindings_of(fleet, finding.node, repair.name)
        for key in routing_keys:
            channel.run(bind_queue(repair.name, exchange, key), what)


def _bindings_of(fleet: FleetFacts, node: str, queue: str) -> tuple[str, Sequence[str]]:
    """How a queue that stores messages is bound; delay queues and dead letters are published to by their names."""
    exchange = fleet.config.exchange_name
    if queue == messages_queue(node):
        return exchange, (queue,)
    return events_exchange(exchange), fleet.subscriptions.get(node, {}).get(queue, ())
