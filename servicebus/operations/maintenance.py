"""The mark by which an operator takes a broker out of service, and what is still under way there.

The workers see the mark and leave (servicebus/runtime/maintenance.py); here it is only set, removed and waited for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from servicebus.configuration import Configuration
from servicebus.errors import TransportError
from servicebus.operations.session import Session
from servicebus.transport.steps import delete_queue
from servicebus.transport.stored import type_arguments
from servicebus.wire.address import drained_mark, messages_queue, rpc_queue

__all__ = ["LEASE_S", "DrainMark", "NodeStatus"]

LEASE_S = 15.0
"""How long the mark of a drill outlives it."""

_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node does on a broker."""

    node: str
    workers: int
    """That take calls there."""
    calls: int
    """That wait."""
    messages: int
    """That wait; those that wait for their time are not counted."""
    is_known: bool = True
    """It has queues there; False for a name that no agent has ever used on this broker."""

    @property
    def has_left(self) -> bool:
        """Nothing is under way; the broker may be stopped."""
        return not (self.workers or self.messages)


class DrainMark:
    """The mark on one broker."""

    def __init__(self, session: Session, config: Configuration):
        self.name = drained_mark(config.exchange_name)
        self._session = session
        self._config = config

    def __repr__(self) -> str:
        return f"<DrainMark {self.name} on {self._session.host.name}>"

    def stands(self) -> bool:
        """Whether the broker is marked."""
        return self._session.facts(self.name) is not None

    def set(self, lease_s: float | None = None) -> bool:
        """Mark the broker; False if it was already.

        Args:
            lease_s: the broker removes the mark when nothing has looked at it for so long, by ``stands()`` for example.
                None: it stays until it is removed.
        """
        if self.stands():
            return False
        # Durable, and of the type that messages have: on a cluster it must outlive a member as they do. The workers ask
        # for it by publishing to it, and it keeps nothing of that, so no delivery limit matters.
        arguments = {**type_arguments(self._config), "x-max-length": 0} if lease_s is None else _leased(lease_s)
        with self._session.channel() as channel:
            channel.declare(self.name, durable=True, arguments=arguments)
        return True

    def is_leased(self, lease_s: float) -> bool:
        """Whether a mark stands that is one for *lease_s*; to look renews it."""
        if not self.stands():
            return False
        with self._session.channel() as channel:
            try:
                channel.declare(self.name, durable=True, arguments=_leased(lease_s))
            except TransportError as error:
                if error.reply_code == 406:  # it is there with other arguments
                    return False
                raise
        return True

    def remove(self) -> bool:
        """Take the mark away; False if there was none."""
        if not self.stands():
            return False
        with self._session.channel() as channel:
            channel.run(delete_queue(self.name), f"the deletion of queue {self.name}")
        return True

    def status_of(self, node: str) -> NodeStatus:
        """What *node* does there now."""
        rpc = rpc_queue(node)
        # On a cluster the queue of calls has a spare name for each member that may be away.
        spares = (f"{rpc}~{number}" for number in range(2, len(self._session.host.members) // 2 + 2))
        queues = [facts for facts in map(self._session.facts, (rpc, *spares)) if facts is not None]
        messages = self._session.facts(messages_queue(node))
        return NodeStatus(
            node,
            workers=sum(facts.consumers for facts in queues),
            calls=sum(facts.ready for facts in queues),
            messages=messages.ready if messages is not None else 0,
            is_known=bool(queues) or messages is not None,
        )

    def wait_left(self, nodes: tuple[str, ...], timeout_s: float) -> list[NodeStatus]:
        """What the nodes do there once all of them have left, or when *timeout_s* has passed."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = [self.status_of(node) for node in nodes]
            if all(each.has_left for each in found) or time.monotonic() >= deadline:
                return found
            time.sleep(_LOOK_S)

    def wait_returned(self, nodes: tuple[str, ...], timeout_s: float) -> list[NodeStatus]:
        """The same for when each of the nodes takes calls there; one that is not known there is not waited for."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = [self.status_of(node) for node in nodes]
            if all(each.workers or not each.is_known for each in found) or time.monotonic() >= deadline:
                return found
            time.sleep(_LOOK_S)


def _leased(lease_s: float) -> dict[str, Any]:
    # A publish is no use of a queue, so that the questions of the workers do not keep it. Classic: a quorum queue is
    # not renewed by a look, and what ends with its lease need not outlive a member.
    return {"x-queue-type": "classic", "x-max-length": 0, "x-expires": int(lease_s * 1000)}
