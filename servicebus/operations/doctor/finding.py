"""DoctorFinding: one thing that is wrong; and the kinds that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["KINDS", "DoctorFinding", "FindingKind", "Repair", "Severity"]

Severity = Literal["error", "warning"]


class FindingKind(NamedTuple):
    """What all findings with one code have in common."""

    severity: Severity
    what: str
    """For the list of all of them in docs/doctor.rst."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What ``--fix`` does: it adds what is missing, and removes and changes nothing."""

    kind: Literal["exchange", "queue", "binding"]
    name: str
    """Of the exchange or queue."""
    exchange: str = ""
    """To which the queue is to be bound."""
    routing_keys: Sequence[str] = ()

    def describe(self) -> str:
        """What it does, as an order."""
        if self.kind == "binding":
            return f"bind queue {self.name} to exchange {self.exchange} with {', '.join(self.routing_keys)}"
        return f"declare {self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One thing that is wrong. Texts never hold a secret, nor the words of a broker where a code says the same."""

    code: str
    """One of ``KINDS``."""
    host: str
    """The broker's name; "" if it is about no single one."""
    what: str
    cause: str
    fix: str
    node: str = ""
    repair: Repair | None = field(default=None, compare=False)

    @property
    def severity(self) -> Severity:
        return KINDS[self.code].severity

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        about = {"host": self.host or None, "node": self.node or None}
        texts = {"what": self.what, "cause": self.cause, "fix": self.fix}
        return {"code": self.code, "severity": self.severity, **about, **texts, "fixable": self.repair is not None}


KINDS: Mapping[str, FindingKind] = {
    # What the file says.
    "weak-secret": FindingKind("warning", "a secret is that of the samples, or can be guessed"),
    "default-credentials": FindingKind("warning", "user and password are guest, on another machine"),
    "plain-connection": FindingKind("warning", "credentials travel unencrypted to another machine"),
    "certificate-unverified": FindingKind("warning", "``tls.verify`` is false"),
    # Connecting.
    "unreachable": FindingKind("error", "no connection to the broker"),
    "member-unreachable": FindingKind("warning", "no connection to a member of a cluster"),
    "not-amqp": FindingKind("error", "something answers, and it is no AMQP broker, or asks for TLS"),
    "tls-refused": FindingKind("error", "the TLS handshake fails"),
    "tls-files": FindingKind("error", "a PEM file of ``tls`` cannot be used"),
    "certificate-untrusted": FindingKind("error", "no known authority has signed the broker's certificate"),
    "certificate-name": FindingKind("error", "the broker's certificate has another name"),
    "certificate-expired": FindingKind("error", "the broker's certificate is not valid now"),
    "certificate-expires": FindingKind("warning", "the broker's certificate ends within 30 days"),
    "client-certificate": FindingKind("error", "our own certificate is not valid now, or ends within 30 days"),
    "credentials": FindingKind("error", "the broker refuses user or password"),
    "virtual-host": FindingKind("error", "there is no such virtual host, or the user may not enter it"),
    "connection-limit": FindingKind("error", "a limit of the virtual host or user is reached"),
    "same-broker": FindingKind("error", "two hosts of the file are one broker"),
    # The broker.
    "version-untested": FindingKind("warning", "RabbitMQ is older than any version that is tested"),
    "version-advice": FindingKind("warning", "what is known of this version, and matters with this file"),
    "few-channels": FindingKind("error", "``channel_max`` is too small for an agent"),
    "small-frames": FindingKind("warning", "``frame_max`` is below 8192, which RabbitMQ 4.1 refuses"),
    "message-size": FindingKind("error", "``max_message_size`` is below ``max_envelope_bytes``"),
    "consumer-timeout": FindingKind("warning", "``consumer_timeout`` is under a minute"),
    "alarm": FindingKind("error", "the broker stores nothing, because memory or disk has run out"),
    "resources-low": FindingKind("warning", "memory, disk or file descriptors have nearly run out"),
    "member-down": FindingKind("error", "a member of the cluster does not run"),
    "partition": FindingKind("error", "the cluster is in pieces"),
    "drained": FindingKind("warning", "the broker is taken out of service by ``servicebus drain``"),
    "limit-near": FindingKind(
        "warning", "the virtual host or user has nearly reached its limit of queues or connections"
    ),
    "default-queue-type": FindingKind("warning", "the virtual host makes other queues than ``queue_type`` says"),
    # Rights.
    "permissions": FindingKind("error", "the user lacks a right that the bus needs"),
    "topic-permissions": FindingKind("warning", "a topic permission keeps the user from publishing or binding events"),
    "administrator": FindingKind("warning", "the user of the bus is an administrator of the broker"),
    # Exchanges and queues.
    "exchange-missing": FindingKind("error", "an exchange of the bus is not there"),
    "exchange-otherwise": FindingKind("error", "an exchange has another type, or other attributes"),
    "alternate-exchange": FindingKind("error", "what no queue takes is not returned"),
    "queue-missing": FindingKind("error", "a queue that stores messages of a node is not there"),
    "queue-type": FindingKind("error", "a queue has another type than ``queue_type`` says"),
    "queue-otherwise": FindingKind("error", "a queue has other arguments, or attributes"),
    "delivery-limit": FindingKind("warning", "a quorum queue drops what came back too often"),
    "binding-missing": FindingKind("error", "a queue of a node is not bound"),
    "binding-foreign": FindingKind("warning", "another queue gets a copy of what is sent to a node"),
    "half-moved": FindingKind("warning", "``migrate-queue`` was interrupted, and not run again"),
    "no-consumer": FindingKind("error", "messages wait, and no worker takes them"),
    "calls-unheard": FindingKind("error", "a queue for calls is there, and no worker consumes it"),
    "backlog": FindingKind("warning", "many messages wait"),
    "dead-letters": FindingKind("warning", "a node has dead letters"),
    "subscription-unused": FindingKind("warning", "a queue of events collects what no worker takes"),
    # Policies.
    "policy-message-ttl": FindingKind("error", "a policy drops messages by their age"),
    "policy-expires": FindingKind("error", "a policy deletes queues that are not used for a while"),
    "policy-max-length": FindingKind("error", "a policy limits the length of queues"),
    "policy-dead-letter": FindingKind("warning", "a policy sends rejected messages elsewhere"),
    "policy-delivery-limit": FindingKind("error", "a policy drops messages that came back too often"),
    "policy-federation": FindingKind("error", "a policy federates queues or exchanges of the bus"),
    "policy-mirrors": FindingKind("warning", "a policy mirrors queues"),
    "policy-consumer-timeout": FindingKind("warning", "a policy takes back messages that take long"),
    # The fleet.
    "node-silent": FindingKind("error", "workers consume a node's calls, and the node does not answer"),
    "node-missing": FindingKind("error", "the node of the file answers over no broker"),
    "node-not-there": FindingKind("error", "a node answers over other brokers, and not over this one"),
    "secret-differs": FindingKind("error", "a node refuses our signature"),
    "keys-differ": FindingKind("warning", "a node knows other keys than this file"),
    "encryption-differs": FindingKind("warning", "a node has other keys for encryption than this file"),
    "clock-skew": FindingKind(
        "error", "the clock of a node is wrong by more than half of ``clock_skew``; or it refuses us as stale"
    ),
    "versions-differ": FindingKind("warning", "nodes run different versions of servicebus"),
    "contracts-differ": FindingKind("warning", "one service has different contracts on different nodes"),
    "brokers-differ": FindingKind("warning", "brokers run different versions of RabbitMQ"),
    "queue-types-differ": FindingKind("error", "one queue has different types on different brokers"),
    "policies-differ": FindingKind("warning", "the bus has different policies on different brokers"),
    "rights-differ": FindingKind("warning", "users of the bus have different rights on different brokers"),
}
"""By code. ``docs/doctor.rst`` lists the same."""
