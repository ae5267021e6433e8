"""Types of queues: what a broker has of one, and how the configuration wants it declared there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from servicebus.configuration import Configuration
from servicebus.errors import QueueConflict
from servicebus.operations.session import Session
from servicebus.policy.broker_versions import has_delivery_limit, read_version
from servicebus.transport.interface import Step
from servicebus.transport.steps import declare_queue
from servicebus.transport.stored import PRIORITY_ARGUMENTS, has_priorities, stored_arguments

__all__ = ["LIMITED", "PRIORITIZED", "declaration_of", "type_of", "wanted_type"]

PRIORITIZED = "classic with priorities"

LIMITED = "quorum with a delivery limit"
"""RabbitMQ 4 has one by default, and it cannot be changed on a queue that is there."""


def declaration_of(session: Session, config: Configuration, name: str) -> Step:
    """As the configuration wants it, on this broker."""
    return declare_queue(name, durable=True, arguments=stored_arguments(config, session.server_version, name))


def wanted_type(config: Configuration, name: str) -> str:
    """How ``type_of()`` calls it if it is as the configuration wants it."""
    return PRIORITIZED if has_priorities(config, name) else config.message_queue_type


def _known_types(session: Session) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each type as a queue of ours may have been declared on this broker.

    Quorum first: where the virtual host has another default type than classic, a queue that names none is of that.
    """
    plain = {"x-queue-type": "quorum"}
    if has_delivery_limit(read_version(session.server_version)):
        yield "quorum", {**plain, "x-delivery-limit": -1}
        yield LIMITED, plain
    else:
        yield "quorum", plain
    yield "classic", {}
    yield PRIORITIZED, PRIORITY_ARGUMENTS


def type_of(session: Session, config: Configuration, name: str) -> tuple[str, bool]:
    """The type of a queue that exists, and whether it is as the configuration wants it: each is tried.

    A declaration that fits changes nothing; one that does not is refused.
    """
    wanted = wanted_type(config, name)
    is_accepted = _accepts(session, name, declaration_of(session, config, name))
    if is_accepted and not wanted.startswith("classic"):
        return wanted, True
    for kind, arguments in _known_types(session):
        if _accepts(session, name, declare_queue(name, durable=True, arguments=arguments)):
            return kind, is_accepted and kind == wanted
    return "another", False


def _accepts(session: Session, name: str, declaration: Step) -> bool:
    with session.channel() as channel:
        try:
            channel.run(declaration, f"the type of queue {name}")
        except QueueConflict:
            return False
    return True
