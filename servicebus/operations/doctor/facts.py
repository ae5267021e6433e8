"""The facts that checks read: plain values, of one broker and of the fleet. None means that it is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError

__all__ = ["BrokerFacts", "CertificateFacts", "FleetFacts", "ManagedFacts", "NodeFacts", "QueueLook"]


@dataclass(slots=True)
class CertificateFacts:
    """What a TLS handshake showed. Times are Unix seconds."""

    begins: float | None = None
    ends: float | None = None
    problem_code: int = 0
    """OpenSSL's code of why it does not verify; 0 if it does, or nothing is verified."""
    problem: str = ""
    """OpenSSL's words for that."""
    file_problem: str = ""
    """Why our own PEM files cannot be used."""
    own_begins: float | None = None
    """Of our own certificate."""
    own_ends: float | None = None


@dataclass(slots=True)
class QueueLook:
    """What AMQP says of a queue that is there."""

    ready: int
    consumers: int
    kind: str = ""
    """Its type, as ``operations.queue_types`` calls it; "" if it was not looked for."""
    fits: bool = True
    """It is as the configuration wants it."""


@dataclass(slots=True)
class ManagedFacts:
    """What the management API says, as it says it; what the user may not see is None."""

    overview: Mapping[str, Any] | None = None
    nodes: Sequence[Mapping[str, Any]] | None = None
    virtual_host: Mapping[str, Any] | None = None
    tags: Sequence[str] | None = None
    """Those of the bus's user."""
    permissions: Mapping[str, str] | None = None
    """``configure``, ``write`` and ``read``; empty texts if the user has none."""
    topic_permissions: Sequence[Mapping[str, Any]] | None = None
    policies: Sequence[Mapping[str, Any]] | None = None
    operator_policies: Sequence[Mapping[str, Any]] | None = None
    exchanges: Mapping[str, Mapping[str, Any]] | None = None
    queues: Mapping[str, Mapping[str, Any]] | None = None
    bindings: Sequence[Mapping[str, Any]] | None = None
    """Of the exchanges of the bus."""
    limits: Mapping[str, int] | None = None
    """Of the virtual host: ``max-queues``, ``max-connections``."""
    problems: dict[str, str] = field(default_factory=dict)
    """What could not be asked for, and why."""


@dataclass(slots=True)
class BrokerFacts:
    """One broker, that is one host of the file."""

    host: BrokerHost
    failure: TransportError | None = None
    """Why nothing below is known."""
    members_down: dict[str, str] = field(default_factory=dict)
    certificate: CertificateFacts | None = None
    version: str = ""
    channel_max: int = 0
    frame_max: int = 0
    blocked: str | None = None
    """The broker's reason for not reading what we publish."""
    exchanges: dict[str, str] = field(default_factory=dict)
    """``there``, ``missing``, ``otherwise`` or ``unknown``, by name."""
    queues: dict[str, QueueLook | None] = field(default_factory=dict)
    """None for one that is not there. Only those that were looked for."""
    is_drained: bool = False
    returns: bool | None = None
    """What no queue takes comes back."""
    takes_queues: bool = True
    """False: the virtual host has a limit of queues, and it is reached."""
    largest: int | None = None
    """The broker's limit of a message, if ours may be larger."""
    consumer_timeout_s: float | None = None
    """Infinite if it has none."""
    untimed: str = "neither AMQP nor the management API tells it: --rabbitmqctl"
    """Why that is not known."""
    refused: list[str] = field(default_factory=list)
    """What the user had no right to do."""
    same_as: str = ""
    """An earlier host that is the same broker, with the same virtual host."""
    managed: ManagedFacts | None = None
    unmanaged: str = ""
    """Why there is nothing of the management API."""

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def is_reached(self) -> bool:
        return self.failure is None


@dataclass(slots=True)
class NodeFacts:
    """One node."""

    name: str
    brokers: Sequence[str] = ()
    """Over which it has answered."""
    keys: Sequence[str] | None = None
    """Ids of the secrets that it verifies, the one that it signs with first."""
    encryption: Sequence[str] | None = None
    version: str = ""
    skew_s: float | None = None
    """How far its clock is ahead of ours."""
    skew_error_s: float = 0.0
    """How far that may be wrong."""
    contracts: Mapping[str, str] = field(default_factory=dict)
    """The hashes of its services."""
    refusal: str = ""
    """Why it does not answer us, where that is because of the signature."""
    stale: str = ""
    """Why it does not answer us, where that is because of the time of what we send."""

    @property
    def refuses(self) -> bool:
        """It is there, and answers that it does not answer us."""
        return bool(self.refusal or self.stale)


@dataclass(slots=True)
class FleetFacts:
    """All brokers of a file, and the nodes behind them."""

    config: Configuration
    brokers: Sequence[BrokerFacts]
    own_nodes: Sequence[str]
    """Those whose queues are looked at in full: the node of the file, or those that were named."""
    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)
    """Those that answered, and those that refused."""
    unheard: Mapping[str, str] = field(default_factory=dict)
    """Why the nodes behind a broker may be missing."""
    subscriptions: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """By own node: the queues of its subscriptions that this machine has noted, and their patterns."""
    key_ids: Sequence[str] = ()
    """Of the secrets of the file."""
    encryption_ids: Sequence[str] = ()
    backlog: int = 1000
    now: float = 0.0
    """Unix time."""

    @property
    def reached(self) -> list[BrokerFacts]:
        return [broker for broker in self.brokers if broker.is_reached]
