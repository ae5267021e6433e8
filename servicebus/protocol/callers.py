"""Callers with keys of their own: their keys and rules, for those who read what they have signed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from servicebus.configuration import Configuration
from servicebus.policy.permissions import Permissions, Rules
from servicebus.protocol.interface import Incoming
from servicebus.wire.envelope import CALL, Envelope, callers_id
from servicebus.wire.fault import Fault, denied
from servicebus.wire.signing import Keyring

__all__ = ["CallerChecks", "keyring_of", "permissions_of", "set_caller"]


def keyring_of(config: Configuration) -> Keyring:
    """Of a node: it signs with the secret of the bus, and verifies requests of callers with their keys, too."""
    return Keyring(config.secrets, config.caller_secrets)


def permissions_of(config: Configuration) -> Permissions:
    """What its callers may do."""
    callers = config.callers.values()
    return Permissions({each.name: Rules(each.allow, each.deny, each.publish) for each in callers})


def set_caller(incoming: Incoming, caller: str) -> None:
    """*incoming* is signed with the key of *caller*: to the journal it has an id that no other's request can have."""
    incoming.caller = caller
    if incoming.stamps.ticket is None:
        incoming.id = callers_id(incoming.given_id, caller)


class CallerChecks:
    """Base of what reads requests of version 2: what their callers may do. For any thread."""

    _config: Configuration
    _keyring: Keyring

    @cached_property
    def _permissions(self) -> Permissions:
        return permissions_of(self._config)

    def denial(self, incoming: Incoming) -> Fault | None:
        target = incoming.event or f"{self._config.node_name}.{incoming.key}"
        decision = self._permissions.decide(incoming.caller, target, is_event=bool(incoming.event))
        if decision.is_allowed:
            return None
        doing = "publish" if incoming.event else "call" if incoming.kind is CALL else "send messages to"
        return denied(incoming.caller, decision.rule, f"{doing} {target}")

    def log_denial(self, incoming: Incoming) -> Fault | None:
        """Why the caller of *incoming* may not see log records of this node; None if it may."""
        if not incoming.caller:
            return None
        node = self._config.node_name
        decision = self._permissions.decide_by_name(incoming.caller, f"{node}.{incoming.key}")
        if decision.is_allowed:
            return None
        return denied(incoming.caller, decision.rule, f"see the log records of {node} ({node}.{incoming.key})")

    def may_know(self, caller: str, key: str, events: Sequence[str] = ()) -> bool:
        """Whether *caller* is told of the service *key*: one that it may ask, or that gets *events* of its."""
        if not caller:
            return True
        if events:
            return any(self._permissions.decide(caller, each, is_event=True).is_allowed for each in events)
        return self._permissions.decide(caller, f"{self._config.node_name}.{key}").is_allowed

    def _caller_by_ticket(self, envelope: Envelope) -> str:
        """Of a message for which a requeue ticket vouches. It says nothing of what the caller may do by now.

        Raises:
            SignatureError: there are callers, and its key is none that is known any more.
        """
        return self._keyring.caller_of(envelope.token) if self._config.callers else ""
