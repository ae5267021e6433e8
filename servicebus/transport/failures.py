"""pika's failures as ours: which host, what kind, and what to do about it."""

from __future__ import annotations

import re
import ssl

import pika.exceptions
from pika.adapters.utils import connection_workflow

from servicebus.configuration import BrokerHost
from servicebus.errors import (
    ConnectFailed,
    ConnectionLost,
    MessageTooLarge,
    QueueConflict,
    QueueStranded,
    TransportError,
)
from servicebus.transport.interface import Asked
from servicebus.wire.address import is_stored

_TOO_LARGE = re.compile(r"message size (\d{1,12}) is larger than .*?(\d{1,12})")
"""Nothing but this text has the two numbers. Whoever publishes knows by the code alone that something was refused."""


def connect_failure(
    host: BrokerHost, error: BaseException, connect_timeout_s: float, handshake_timeout_s: float
) -> ConnectFailed:
    """pika's nested failure as one of ours, with the kind that the backoff and the operator need."""
    causes = list(_unwrapped(error))
    for cause in causes:
        if isinstance(cause, pika.exceptions.ProbableAuthenticationError):
            return ConnectFailed(
                host.place, f"the broker refused the credentials of user {host.user!r}", kind="credentials"
            )
        if isinstance(cause, pika.exceptions.AuthenticationError):
            return ConnectFailed(host.place, "the broker offers no login method that we know", kind="credentials")
        if isinstance(cause, pika.exceptions.ProbableAccessDeniedError):
            return ConnectFailed(
                host.place,
                f"the broker refused virtual host {host.virtual_host!r} to user {host.user!r}",
                kind="credentials",
            )
        if isinstance(cause, pika.exceptions.ConnectionClosedByBroker):
            kind = "credentials" if cause.reply_code in (403, 530) else "closed"
            return ConnectFailed(host.place, f"the broker closed: {cause.reply_code} {cause.reply_text}", kind=kind)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConnectFailed(host.place, f"TLS certificate refused: {cause.verify_message}", kind="tls")
        if isinstance(cause, ssl.SSLError):
            return ConnectFailed(host.place, f"TLS failed: {cause.reason or cause}", kind="tls")
        if isinstance(cause, ConnectionRefusedError):
            return ConnectFailed(host.place, "connection refused", kind="refused")
        if isinstance(cause, (connection_workflow.AMQPConnectorStackTimeout, pika.exceptions.ConnectionOpenAborted)):
            return ConnectFailed(
                host.place, f"connected, but no answer to the handshake within {handshake_timeout_s:g} s", kind="silent"
            )
        if isinstance(cause, connection_workflow.AMQPConnectorSocketConnectError) and _is_timeout(cause.exception):
            return ConnectFailed(host.place, f"no connection within {connect_timeout_s:g} s", kind="unreachable")
    if any(isinstance(cause, pika.exceptions.IncompatibleProtocolError) for cause in causes):
        return _hung_up(host)
    for cause in causes:
        if isinstance(cause, OSError):
            return ConnectFailed(host.place, cause.strerror or str(cause) or type(cause).__name__, kind="unreachable")
    innermost = causes[-1]
    return ConnectFailed(host.place, str(innermost) or type(innermost).__name__, kind="closed")


def _hung_up(host: BrokerHost) -> ConnectFailed:
    """It closed in the middle of the handshake, without a reason: say what most often is one."""
    text = "the broker closed the connection during the handshake"
    if not host.use_ssl:
        return ConnectFailed(host.place, f"{text}; is it a TLS port?", kind="closed")
    if host.tls.certificate is None:
        return ConnectFailed(host.place, f"{text}; does it ask for tls.certificate and tls.key?", kind="tls")
    return ConnectFailed(host.place, f"{text}; does it know the authority of {host.tls.certificate}?", kind="tls")


def _unwrapped(error: BaseException) -> list[BaseException]:
    """*error* and everything pika wrapped into it, outermost first."""
    found: list[BaseException] = []
    queue: list[BaseException] = [error]
    while queue:
        current = queue.pop(0)
        if current in found:
            continue
        found.append(current)
        queue.extend(_inner(current))
    return found


def _inner(error: BaseException) -> list[BaseException]:
    inner = [item for item in getattr(error, "exceptions", ()) if isinstance(item, BaseException)]
    inner += [item for item in (getattr(error, "exception", None), error.__cause__) if isinstance(item, BaseException)]
    return inner + [item for item in error.args if isinstance(item, BaseException)]


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, (TimeoutError, pika.exceptions.AMQPConnectionError)) or "imeout" in type(error).__name__


def channel_failure(host: BrokerHost, error: BaseException, asked: Asked | None = None) -> TransportError:
    """Why a channel closed: topology conflicts and missing rights are ConnectFailed, the rest a lost connection.

    What the broker refused is told by its reply code and by what it was *asked* just then: its words differ from
    version to version.
    """
    if not isinstance(error, pika.exceptions.ChannelClosedByBroker):
        return ConnectionLost(host.place, closing_reason(error), sent=True)
    failure = _refusal(host, error.reply_code, f"{error.reply_code} {error.reply_text}", asked)
    failure.reply_code = error.reply_code
    return failure


def _refusal(host: BrokerHost, code: int, text: str, asked: Asked | None) -> TransportError:
    declared = asked.queue if asked is not None and asked.is_declaration else ""
    if code == 403:
        advice = "grant the right, or use other names"
        return ConnectFailed(host.place, f"the broker refused the topology: {text}; {advice}", kind="topology")
    if code == 406 and declared:
        return QueueConflict(host.place, _conflict(host, declared, text), queue=declared)
    if code == 406 and "inequivalent" in text:  # an exchange
        reason = f"the broker refused the topology: {text}; delete it, or use another name"
        return ConnectFailed(host.place, reason, kind="topology")
    # A declaration makes what is not there; so the queue is known, and out of reach.
    if code == 404 and declared:
        return stranded(host.place, declared)
    if code == 406 and (sizes := _TOO_LARGE.search(text)):
        return MessageTooLarge(host.place, size=int(sizes[1]), limit=int(sizes[2]))
    if code == 406 and "acknowledgement" in text:
        text += "; a service took longer than the broker's consumer_timeout, its work is delivered again"
    return ConnectionLost(host.place, f"the broker closed the channel: {text}", sent=True)


def _conflict(host: BrokerHost, queue: str, text: str) -> str:
    """What is not as it was declared, and what to do about it."""
    if is_stored(queue):
        what = f"queue {queue} has another type or other arguments than queue_type asks for"
        advice = f"move its messages with: servicebus migrate-queue {host.name}"
    else:
        what, advice = f"queue {queue} has other arguments than ours", "delete it, or use another name"
    return f"{what}; {advice} (the broker: {text})"


def stranded(place: str, queue: str) -> QueueStranded:
    """The failure of a queue that the broker knows and cannot reach."""
    reason = f"queue {queue} is out of reach: its member of the cluster is away, or it has crashed"
    if is_stored(queue):
        reason += "; its messages wait until it is started again; with queue_type: quorum they live on several members"
    return QueueStranded(place, reason, queue=queue)


def closing_reason(error: BaseException) -> str:
    if isinstance(error, (pika.exceptions.ConnectionClosed, pika.exceptions.ChannelClosed)):
        return f"closed: {error.reply_code} {error.reply_text}"
    return str(error) or type(error).__name__
