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
from servicebus.wire.printable import printable

ACCESS_REFUSED = 403
NOT_FOUND = 404
NOT_ALLOWED = 530
CHANNELS = 16
"""More than an agent ever has on one connection."""
_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError, BrokenPipeError, ConnectionResetError)
"""The other end has closed in the middle of a handshake: an end of file for some versions of OpenSSL, an error of the
socket for others (EPIPE with 3.5)."""
_LIMIT = "limit"
"""In what RabbitMQ says of limits that are reached. Only the advice and the next pause depend on it."""
_RIGHTS = "grant it with rabbitmqctl set_permissions, or use other names"
_TOO_LARGE = re.compile(r"message size (\d{1,12}) is larger than .*?(\d{1,12})")
"""Only this text has the two numbers. The code alone says that something was refused."""


def connect_failure(
    host: BrokerHost, error: BaseException, connect_timeout_s: float, handshake_timeout_s: float
) -> ConnectFailed:
    """pika's nested failure as one of ours, with the kind that the backoff and the operator need."""
    causes = list(_unwrapped(error))
    is_tcp = any(isinstance(cause, connection_workflow.AMQPConnectorSocketConnectError) for cause in causes)
    for cause in causes:
        if isinstance(cause, pika.exceptions.ProbableAuthenticationError):
            return ConnectFailed(
                host.place, f"the broker refused the credentials of user {host.user!r}", kind="credentials"
            )
        if isinstance(cause, pika.exceptions.AuthenticationError):
            return ConnectFailed(host.place, "the broker offers no login method that we know", kind="credentials")
        if isinstance(cause, pika.exceptions.ProbableAccessDeniedError):
            return _refused_virtual_host(host, printable(str(cause)))
        if isinstance(cause, pika.exceptions.ConnectionClosedByBroker):
            kind = "credentials" if cause.reply_code in (ACCESS_REFUSED, NOT_ALLOWED) else "closed"
            return ConnectFailed(host.place, f"the broker closed: {_words(cause)}", kind=kind)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConnectFailed(host.place, f"TLS certificate refused: {printable(cause.verify_message)}", kind="tls")
        if isinstance(cause, _HUNG_UP) and not is_tcp:
            return _hung_up(host)
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
    return ConnectFailed(host.place, printable(str(innermost)) or type(innermost).__name__, kind="closed")


def _refused_virtual_host(host: BrokerHost, text: str) -> ConnectFailed:
    """It does not exist, the user has no rights there, or a limit is reached: only the broker's text shows which."""
    if "StreamLostError" in text:
        return ConnectFailed(
            host.place,
            f"the broker closed the connection without a reason when user {host.user!r} had logged in and opened "
            f"virtual host {host.virtual_host!r}: see its log; from RabbitMQ 4.1 on, a frame_max under 8192 ends so",
            kind="closed",
        )
    reason = f"the broker refused virtual host {host.virtual_host!r} to user {host.user!r}: {text}"
    if _LIMIT in text:
        advice = "raise the limit (rabbitmqctl set_vhost_limits, set_user_limits), or close other connections"
        return ConnectFailed(
            host.place, f"{reason}; {advice}; an agent needs two for each of its workers", kind="limits"
        )
    advice = "create it (rabbitmqctl add_vhost), or grant the user rights in it (rabbitmqctl set_permissions)"
    return ConnectFailed(host.place, f"{reason}; {advice}", kind="credentials")


def connection_failure(host: BrokerHost, error: BaseException) -> ConnectionLost:
    """Why an open connection has ended."""
    lost = ConnectionLost(host.place, closing_reason(error), sent=True)
    if isinstance(error, pika.exceptions.ConnectionClosed) and error.reply_code == NOT_ALLOWED:
        # Tried again at once, it would be refused again at once.
        lost = ConnectionLost(host.place, f"{lost.reason}; raise the limit (rabbitmqctl set_user_limits)", sent=True)
        lost.kind = "limits"
    return lost


def too_few_channels(host: BrokerHost, count: int) -> ConnectFailed:
    """The failure of a channel that the agreed channel_max has no number for."""
    reason = f"the broker allows {count} channels on a connection, too few: raise its channel_max to {CHANNELS} or more"
    return ConnectFailed(host.place, reason, kind="limits")


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

    What the broker refused follows from its reply code and from what it was *asked* just then: its texts differ from
    version to version.
    """
    if not isinstance(error, pika.exceptions.ChannelClosedByBroker):
        return ConnectionLost(host.place, closing_reason(error), sent=True)
    return channel_refused(host, error.reply_code, _words(error), asked)


def channel_refused(host: BrokerHost, code: int, text: str, asked: Asked | None) -> TransportError:
    """Why the broker closed a channel, by its code and its words."""
    failure = _refusal(host, code, text, asked)
    failure.reply_code = code
    return failure


def _refusal(host: BrokerHost, code: int, text: str, asked: Asked | None) -> TransportError:
    declared = asked.queue if asked is not None and asked.is_declaration else ""
    if code == ACCESS_REFUSED:
        reason = f"the broker refused user {host.user!r} a right: {text}; {_RIGHTS}"
        return ConnectFailed(host.place, reason, kind="topology")
    if code == 406 and declared:
        return QueueConflict(host.place, _conflict(host, declared, text), queue=declared)
    if code == 406 and "inequivalent" in text:  # an exchange
        reason = f"the broker refused the topology: {text}; delete it, or use another name"
        return ConnectFailed(host.place, reason, kind="topology")
    # A declaration makes what is not there; so the queue is known, and out of reach.
    if code == NOT_FOUND and declared:
        return stranded(host.place, declared)
    if code == 406 and (sizes := _TOO_LARGE.search(text)):
        return MessageTooLarge(host.place, size=int(sizes[1]), limit=int(sizes[2]))
    if code == 406 and "acknowledgement" in text:
        text += "; a service took longer than the broker's consumer_timeout, its work is delivered again"
    return ConnectionLost(host.place, f"the broker closed the channel: {text}", sent=True)


def _conflict(host: BrokerHost, queue: str, text: str) -> str:
    """What is not as it was declared, and what to do about it."""
    if _LIMIT in text:
        what = f"the broker takes no more queues, and {queue} is missing"
        advice = "raise the limit (rabbitmqctl set_vhost_limits), or delete other queues"
    elif is_stored(queue):
        what = f"queue {queue} has another type or other arguments than queue_type and priorities ask for"
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
        return f"closed: {_words(error)}"
    return printable(str(error)) or type(error).__name__


def _words(error: pika.exceptions.ConnectionClosed | pika.exceptions.ChannelClosed) -> str:
    """Code and text of the broker's; it may name what a stranger has chosen."""
    return f"{error.reply_code} {printable(error.reply_text)}"
