"""The whole error tree, on one page.

Every error survives pickling and carries the facts one can act on as attributes. pika's and lxml's errors are mapped
to these in the file that calls them, with ``raise ... from``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servicebus._problems import InvalidParam as InvalidParam

__all__ = [
    "AddressError",
    "CallError",
    "CallInterrupted",
    "CallRefused",
    "CallTimeout",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionLost",
    "ContractError",
    "ContractMismatch",
    "DurationError",
    "EnvelopeError",
    "InvalidParams",
    "InvalidReply",
    "JournalUnavailable",
    "LifecycleError",
    "MessageTooLarge",
    "NoBrokerAvailable",
    "NodeUnavailable",
    "OutboxFull",
    "OutboxUnavailable",
    "PermissionDenied",
    "QueueConflict",
    "QueueStranded",
    "RemoteError",
    "SendRefused",
    "SendUnconfirmed",
    "ServiceBusError",
    "ServiceBusy",
    "SignatureError",
    "StreamInterrupted",
    "TransportError",
    "UnknownService",
]


class ServiceBusError(Exception):
    """Root of everything that servicebus raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own pickling calls the class with the message alone, which loses keyword-only facts.
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(cls: type[ServiceBusError], args: tuple[Any, ...], facts: dict[str, Any]) -> ServiceBusError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class ConfigurationError(ServiceBusError):
    """Raised when the configuration cannot be used; the text names file, line and key as far as they are known."""

    def __init__(self, message: str, *, path: str | None = None, line: int | None = None, key: str | None = None):
        where = ":".join(str(part) for part in (path, line) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)
        self.path, self.line, self.key = path, line, key


class AddressError(ServiceBusError, ValueError):
    """Raised when a text is not an address ``NODE.category.name``, or not the name or pattern of an event."""

    def __init__(self, text: str, reason: str, wanted: str = "an address NODE.category.name"):
        shown = repr(text) if isinstance(text, str) else f"a value of type {type(text).__name__}"
        super().__init__(f"{shown} is not {wanted}: {reason}")
        self.text, self.reason = text, reason


class DurationError(ServiceBusError, ValueError):
    """Raised when a time is not a number of seconds, or not one that the parameter takes."""


class ContractError(ServiceBusError):
    """Raised when something is no description of a node, or a schema in it cannot be used."""


class LifecycleError(ServiceBusError):
    """Raised when something is asked of an object whose state does not allow it."""

    def __init__(self, state: object, event: object):
        super().__init__(f"{event} is not possible while {state}")
        self.state, self.event = state, event


class JournalUnavailable(ServiceBusError):
    """Raised when the journal can be neither read nor written now; nothing has changed, and asking again may work."""

    def __init__(self, where: str, reason: str, *, holder: int | None = None):
        super().__init__(f"journal {where}: {reason}")
        self.where, self.reason = where, reason
        self.holder = holder
        """The process that keeps it locked, where that is the reason and it is known."""


class EnvelopeError(ServiceBusError):
    """Raised when bytes are no acceptable envelope, or a value cannot become one.

    ``reason`` is a short stable word that counters and tests use: ``malformed``, ``oversized``, ``unreadable``,
    ``too-deep``, ``dtd``, ``bad-json``, ``signature``, ``stale``, ``replayed``, ``wrong-node``, ``wrong-queue``,
    ``unknown-service``, ``permission-denied``, ``invalid-params``, ``contract-mismatch``, ``unencodable``.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class SignatureError(EnvelopeError):
    """Raised when a token does not belong to the envelope that carries it, or no known key made it."""

    def __init__(self, detail: str = "the token does not match; do both sides have the same secret_token?"):
        super().__init__("signature", detail)


class OutboxUnavailable(ServiceBusError):
    """Raised when the file of a Sender's outbox cannot be used; the message is not stored."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"outbox {path} {reason}")
        self.path, self.reason = path, reason


class TransportError(ServiceBusError):
    """Root of what goes wrong between this process and a broker."""

    reply_code = 0
    """The AMQP code with which the broker closed the channel; 0 if it did not."""
    kind = "closed"
    """One of those of ConnectFailed: how soon another attempt makes sense, and who can do something about it."""


class ConnectFailed(TransportError):
    """Raised when a connection to a broker could not be opened; nothing was sent."""

    def __init__(self, host: str, reason: str, *, kind: str = "unreachable"):
        super().__init__(f"{host}: {reason}")
        self.host, self.reason = host, reason
        self.kind = kind
        """``refused``, ``unreachable``, ``silent``, ``tls``, ``credentials``, ``topology``, ``limits``, ``closed``."""


class QueueConflict(ConnectFailed):
    """Raised when a queue exists with another type, or other arguments, than it is declared with."""

    def __init__(self, host: str, reason: str, *, queue: str):
        super().__init__(host, reason, kind="topology")
        self.queue = queue


class ConnectionLost(TransportError):
    """Raised when an open connection broke; whether what was sent arrived is uncertain if ``sent``."""

    def __init__(self, host: str, reason: str, *, sent: bool):
        super().__init__(f"{host}: {reason}" + (" (after something was sent)" if sent else ""))
        self.host, self.reason, self.sent = host, reason, sent


class MessageTooLarge(ConnectionLost):
    """Raised when the broker closed the channel because a message of ``size`` bytes exceeds its ``limit``."""

    def __init__(self, host: str, *, size: int, limit: int):
        reason = f"a message of {size} bytes is larger than the broker takes ({limit}): raise its max_message_size"
        super().__init__(host, reason, sent=True)
        self.size, self.limit = size, limit


class QueueStranded(ConnectionLost):
    """Raised when a queue lives on one member of a cluster, and that member is away; nothing was sent."""

    def __init__(self, host: str, reason: str, *, queue: str):
        super().__init__(host, reason, sent=False)
        self.queue = queue


class NoBrokerAvailable(TransportError):
    """Raised when no configured broker could be used: it did not run, is not stored. Lists what each host did."""

    def __init__(self, target: str, attempts: Sequence[tuple[str, str]], outcome: str = "nothing was sent"):
        super().__init__(f"no broker reachable for {target}: {_listed(attempts)}; {outcome}")
        self.target, self.attempts = target, tuple(attempts)


class SendRefused(TransportError):
    """Raised when brokers refused a message (nack), and no other broker took it: it is stored nowhere."""

    def __init__(self, target: str, attempts: Sequence[tuple[str, str]]):
        super().__init__(f"no broker took the message to {target}: {_listed(attempts)}; it is not stored")
        self.target, self.attempts = target, tuple(attempts)


class SendUnconfirmed(TransportError):
    """Raised when a message was published but no broker confirmed it in time: it may or may not be delivered."""

    def __init__(self, target: str, attempts: Sequence[tuple[str, str]]):
        tried = f"no broker confirmed the message to {target}: {_listed(attempts)}"
        super().__init__(f"{tried}; whether it is stored is unknown")
        self.target, self.attempts = target, tuple(attempts)


class CallError(ServiceBusError):
    """Root of what goes wrong with one call or message; ``address`` is that of its service."""

    def __init__(self, address: str, message: str):
        super().__init__(f"{address}: {message}")
        self.address = address


class CallTimeout(CallError, TimeoutError):
    """Raised when the deadline passed without a reply, counted over all brokers that were tried."""

    def __init__(self, address: str, waited_s: float, attempts: Sequence[tuple[str, str]] = ()):
        tried = f"; tried {_listed(attempts)}" if attempts else ""
        super().__init__(address, f"no reply within {waited_s:.3g} s{tried}")
        self.waited_s, self.attempts = waited_s, tuple(attempts)


class CallInterrupted(CallError):
    """Raised when a call was sent, its path died, and whether it ran is unknown."""

    def __init__(self, address: str, reason: str):
        super().__init__(address, f"interrupted, outcome unknown: {reason}")
        self.reason = reason


class StreamInterrupted(CallError):
    """Raised when a stream ended before its end, because its path or its worker died; what came before is valid.

    ``position`` is the number of items that were received, counted from the begin of the stream: of a service that is
    ``resumable`` the rest can be asked for by ``stream(..., position=error.position)``.
    """

    def __init__(self, address: str, position: int, reason: str):
        super().__init__(address, f"the stream was interrupted at item {position}: {reason}")
        self.position, self.reason = position, reason


class InvalidReply(CallError):
    """Raised when the service ran, and what it answered cannot be read here; ``errors`` as those of InvalidParams."""

    def __init__(self, address: str, reason: str, errors: Sequence[InvalidParam] = ()):
        super().__init__(address, f"it has answered, and the answer cannot be read: {reason}")
        self.reason, self.errors = reason, tuple(errors)


class CallRefused(CallError):
    """Raised when the node refused the envelope (stale, replayed, wrong node, not signed with a key it knows).

    Reason ``signature`` is what unsigned answers say, where none was signed: no proof that the call did not run. Of
    ``replayed`` and ``forgotten`` it did, or may have.
    """

    def __init__(self, address: str, reason: str, detail: str = "", *, sent: bool = True):
        by = "by the node" if sent else "before it was sent"
        super().__init__(address, f"refused {by} ({reason}){': ' + detail if detail else ''}")
        self.reason, self.detail = reason, detail


class PermissionDenied(CallRefused):
    """Raised when the node does not let ``caller`` do this, by ``rule`` of its own, or a service that raised Deny."""

    def __init__(self, address: str, detail: str = "", caller: str = "", rule: str = ""):
        super().__init__(address, "permission-denied", detail)
        self.caller, self.rule = caller, rule


class InvalidParams(CallRefused):
    """Raised when the params are not what the signature of the service says; it did not run.

    Unless ``sent`` is set they were refused by this program's own client or event, and the node was not asked.
    """

    _word = "invalid-params"

    def __init__(
        self, address: str, errors: Sequence[InvalidParam], detail: str = "", count: int = 0, sent: bool = True
    ):
        super().__init__(address, self._word, detail or "; ".join(map(str, errors)), sent=sent)
        self.errors, self.sent = tuple(errors), sent
        self.count = count or len(self.errors)
        """How many there are; more than ``errors`` lists if they are too many for one answer."""


class ContractMismatch(InvalidParams):
    """Raised when the params do not fit, and the caller was built against another version of the service; not run."""

    _word = "contract-mismatch"

    def __init__(self, address: str, errors: Sequence[InvalidParam], *how: Any, present: dict[str, Any] | None = None):
        super().__init__(address, errors, *how)
        self.present = present or {}
        """How the node describes it: plain values of a ServiceContract, without schemas if those are too long."""


class NodeUnavailable(CallError):
    """Raised when brokers are reachable, but no agent of the node consumes on any: it did not run, is not stored."""

    def __init__(self, address: str, attempts: Sequence[tuple[str, str]], outcome: str = "nothing was sent"):
        super().__init__(address, f"node is away: {_listed(attempts)}; {outcome}")
        self.attempts = tuple(attempts)


class OutboxFull(CallError):
    """Raised when no broker took a message and the outbox has no room for it: it is not stored."""

    def __init__(self, address: str, path: str, messages: int, size: int):
        stored = f"{messages} message{'' if messages == 1 else 's'}, {size} bytes"
        super().__init__(address, f"no broker takes it, and outbox {path} is full ({stored}); it is not stored")
        self.path, self.messages, self.size = path, messages, size


class UnknownService(CallError):
    """Raised when the node answers that it has no such service."""

    def __init__(self, address: str, hint: str = ""):
        super().__init__(address, f"the node has no such service{hint and '; '}{hint}")


class ServiceBusy(CallError):
    """Raised when the service took no call until the deadline (a full inbox, or it said *reason*): it was not run."""

    def __init__(self, address: str, retry_after_s: float | None = None, reason: str = ""):
        super().__init__(address, reason or "the service's inbox is full")
        self.retry_after_s, self.reason = retry_after_s, reason


class RemoteError(CallError):
    """Raised when the service itself raised; ``type``, ``message`` and ``trace`` are those of the remote exception."""

    def __init__(self, address: str, type: str, message: str, trace: str | None = None):
        super().__init__(address, f"{type}: {message}" if message else type)
        self.type, self.message, self.trace = type, message, trace


def _listed(attempts: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{host} {what}" for host, what in attempts) or "no host is configured"
