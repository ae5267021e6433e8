"""Which rights on a broker an agent and a Sender need: names that must fit, and the patterns that fit them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from servicebus.transport.stored import stored_queues
from servicebus.wire.address import control_queue, rpc_queue
from servicebus.wire.events import events_exchange

__all__ = ["RIGHTS", "NeededRights", "covers", "needed_rights"]

RIGHTS = ("configure", "write", "read")
_DEFAULT_EXCHANGE = "amq.default"
_OWN_QUEUE = "amq.gen-of-a-worker"


@dataclass(frozen=True, slots=True)
class NeededRights:
    """For one user."""

    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By right: names of exchanges and queues that it must cover."""
    patterns: Mapping[str, str] = field(default_factory=dict)
    """By right: the least that covers them, for ``set_permissions``."""

    def lacking(self, permissions: Mapping[str, str]) -> dict[str, list[str]]:
        """By right: the names that *permissions* do not cover."""
        found = {
            right: [each for each in self.names[right] if not covers(permissions[right], each)] for right in RIGHTS
        }
        return {right: names for right, names in found.items() if names}


def needed_rights(exchange: str, nodes: Sequence[str], *, has_events: bool = False) -> NeededRights:
    """Those of the agents of *nodes*; without any, those of a Sender.

    Args:
        has_events: the nodes have subscribed to events.
    """
    events = events_exchange(exchange)
    if not nodes:
        quoted = f"{re.escape(exchange)}([.]events)?"
        write = f"^(amq[.]default|{quoted})$"
        return NeededRights({"configure": (), "write": (exchange,), "read": ()}, _patterns("^$", write, "^$"))
    queues = [name for node in nodes for name in (rpc_queue(node), control_queue(node), *stored_queues(node))]
    exchanges = [exchange, events] if has_events else [exchange]
    own = [*queues, _OWN_QUEUE]
    names = {"configure": [*exchanges, *own], "write": [_DEFAULT_EXCHANGE, *own], "read": [*exchanges, *own]}
    quoted = "|".join([f"{re.escape(exchange)}([.]events)?", *(f"{re.escape(node)}[.].*" for node in nodes)])
    every = f"^({quoted}|amq[.]gen.*)$"
    # To write to the exchange is for services that call others.
    return NeededRights(names, _patterns(every, f"^(amq[.]default|{quoted}|amq[.]gen.*)$", every))


def covers(pattern: str, name: str) -> bool:
    """Whether a right with this pattern is one for *name*; an empty pattern is none for anything."""
    try:
        return pattern != "" and re.search(pattern, name) is not None
    except re.error:  # Erlang's patterns know more than Python's
        return True


def _patterns(configure: str, write: str, read: str) -> dict[str, str]:
    return {"configure": configure, "write": write, "read": read}
