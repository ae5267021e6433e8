"""Which error ends a request, and what it says of each host."""

from __future__ import annotations

import time
from collections.abc import Sequence

from servicebus.client.link import Link
from servicebus.client.request import PendingRequest
from servicebus.errors import (
    CallError,
    CallInterrupted,
    CallRefused,
    CallTimeout,
    EnvelopeError,
    NoBrokerAvailable,
    NodeUnavailable,
    OutboxUnavailable,
    SendRefused,
    SendUnconfirmed,
    ServiceBusError,
    ServiceBusy,
)
from servicebus.policy.denials import DENIED
from servicebus.protocol.interface import UnsignedRefusal
from servicebus.wire.envelope import Kind
from servicebus.wire.printable import describe

Attempts = list[tuple[str, str]]

NACKED = "refused the message (nack): its queue is full, or a policy of the broker's refuses it"


class TooLargeForSome(NodeUnavailable):
    """Some brokers take nothing as large, and the others cannot be asked now. Only for what the outbox delivers."""


def out_of_time(request: PendingRequest, links: Sequence[Link], now: float) -> ServiceBusError:
    """The error of a request whose deadline has passed."""
    if request.link is not None:
        did_not = "answer"
        if request.kind is Kind.MESSAGE:
            did_not = "confirm" if request.maybe_ran else "confirm enough of those before it"
        request.tried(request.link.host.name, f"did not {did_not} in time")
    if request.kind is Kind.MESSAGE:
        return out_of_paths(request, links)
    if request.refusals and not request.maybe_ran:
        return ServiceBusy(str(request.address), reason=request.refused_with)
    if request.link is None:  # it waited for a path to the end: the links that broke say more than the time
        return out_of_paths(request, links)
    if refused := _refused_unsigned(request, links):
        return refused
    timeout = CallTimeout(str(request.address), now - request.started_at, request.attempts)
    if request.unsigned_refusals and not _is_proven(request, links):
        timeout.__cause__ = next(iter(request.unsigned_refusals.values()))
    return timeout


def out_of_paths(request: PendingRequest, links: Sequence[Link]) -> ServiceBusError:
    """The error of a request that found no usable path in time."""
    now = time.monotonic()
    address = str(request.address)
    attempts = [*request.attempts, *_other_hosts(request, links)]
    if not request.maybe_ran and any(link.refuses(request, now) for link in links):
        if request.is_from_outbox and not all(link.refuses(request, now) for link in links):
            return TooLargeForSome(address, attempts)
        return too_large(request, links, now)
    if request.maybe_ran and request.kind is Kind.MESSAGE:
        return SendUnconfirmed(address, attempts)
    if refused := _refused_unsigned(request, links):
        return refused
    if request.maybe_ran and request.kind is Kind.CALL:
        return CallInterrupted(address, ", ".join(f"{host} {what}" for host, what in attempts))
    if any(what == NACKED or what.startswith(DENIED) for _, what in attempts):
        return SendRefused(address, attempts)
    if any(link.is_usable for link in links):
        error = NodeUnavailable(address, attempts, not_done(request))
        paths = [link.paths.get(request.address.node) for link in links]
        error.__cause__ = next((path.doubt for path in paths if path is not None and path.doubt), None)
        return error
    return _with_cause(NoBrokerAvailable(address, attempts, not_done(request)), links)


def not_done(request: PendingRequest) -> str:
    """What certainly did not happen to *request*, whose attempts all came to nothing."""
    return "nothing was sent" if request.published_at is None else _NOT_DONE[request.kind]


_NOT_DONE = {Kind.CALL: "it did not run", Kind.MESSAGE: "it is not stored", Kind.CONTROL: "no answer came"}


def refused_again(request: PendingRequest, error: Exception) -> Exception:
    """What ends *request*, whose last attempt ended with *error* and did nothing: another attempt may have."""
    if not request.maybe_ran or request.kind is Kind.CONTROL:
        return error
    address = str(request.address)
    if request.kind is Kind.MESSAGE:
        return SendUnconfirmed(address, [*request.attempts, ("the next attempt", str(error))])
    uncertain = CallInterrupted(address, f"an attempt may have run, and the next one did not: {error}")
    uncertain.__cause__ = error
    return uncertain


def interrupted(request: PendingRequest, links: Sequence[Link], why: str) -> CallError:
    """The error of a call that is not sent again, though it may have run."""
    return _refused_unsigned(request, links) or CallInterrupted(str(request.address), why)


def _refused_unsigned(request: PendingRequest, links: Sequence[Link]) -> CallRefused | None:
    """The error of a request whose node does not know our secret, by all that is known; None if it may.

    Only words for an end that has other reasons: that no ping was answered by a signed pong, or that the time is over.
    An answer that is not signed ends nothing. Nor is it taken for the reason once the node has proved that it has a
    secret in common with us, or while it is said of one attempt alone.
    """
    if request.kind is Kind.MESSAGE or not request.is_said_not_run or _is_proven(request, links):
        return None
    node = request.address.node
    concerned = [request.pinned] if request.pinned is not None else links
    doubts = {link.host.name: link.paths[node].doubt for link in concerned if node in link.paths}
    hosts = [host for host, doubt in doubts.items() if isinstance(doubt, UnsignedRefusal)]
    if not hosts:
        return None
    cause = doubts[hosts[0]]
    detail = (
        f"{cause.detail if cause else ''} Compare secret_token in this program's configuration with that of "
        f"{node}'s agent (servicebus config check shows the ids of the keys); over {', '.join(hosts)}"
    )
    error = CallRefused(str(request.address), "signature", detail)
    error.__cause__ = cause
    return error


def _is_proven(request: PendingRequest, links: Sequence[Link]) -> bool:
    paths = [link.paths.get(request.address.node) for link in links]
    return any(path is not None and path.is_proven for path in paths)


def defect(request: PendingRequest, error: Exception) -> ServiceBusError:
    """The error of a request for which our own code has raised *error*."""
    address = str(request.address)
    why = f"a defect ended it: {describe(error)}"
    if request.maybe_ran and request.kind is Kind.MESSAGE:
        return SendUnconfirmed(address, [*request.attempts, ("this process", why)])
    return CallInterrupted(address, why) if request.maybe_ran else CallError(address, why)


def closed(request: PendingRequest) -> CallError:
    """The error of a request whose Sender was closed."""
    return CallError(str(request.address), "the Sender was closed before the answer came")


def too_large(request: PendingRequest, links: Sequence[Link], now: float) -> EnvelopeError:
    """The error of a request that is larger than the ``max_message_size`` of every broker that works."""
    size = request.size
    limits = [(link.host.name, link.size_limit.refuses(size, now)) for link in links]
    told = ", ".join(f"{host} takes {limit}" for host, limit in limits if limit is not None)
    what = f"{size} bytes, where {told}: raise max_message_size of the broker; {not_done(request)}"
    return EnvelopeError("oversized", what)


def not_kept(error: ServiceBusError | None, why: ServiceBusError) -> ServiceBusError:
    """The error of a message that no broker has taken because of *error*, nor the outbox because of *why*."""
    if isinstance(error, SendUnconfirmed):
        error.__cause__ = why
        return error
    if isinstance(why, OutboxUnavailable):
        reason = f"{why.reason}; the message is not stored"
        why = OutboxUnavailable(why.path, f"{reason}: {error}" if error is not None else reason)
    why.__cause__ = error
    return why


def _with_cause(error: NoBrokerAvailable, links: Sequence[Link]) -> NoBrokerAvailable:
    """The failed connection as the cause: it knows the kind, and refused credentials are worth more than a silence."""
    failures = [link.failure for link in links if link.failure is not None]
    error.__cause__ = next(
        (failure for failure in failures if failure.kind == "credentials"), failures[-1] if failures else None
    )
    return error


def _other_hosts(request: PendingRequest, links: Sequence[Link]) -> Attempts:
    """Why each host is of no use to *request* now, where its own attempts do not say so already."""
    told = {host for host, _ in request.attempts}
    concerned = [request.pinned] if request.pinned is not None else links
    return [(link.host.name, _of_no_use(link, request)) for link in concerned if link.host.name not in told]


def _of_no_use(link: Link, request: PendingRequest) -> str:
    if why := link.denies(request, time.monotonic()):
        return why
    path = link.paths.get(request.address.node)
    if link.is_usable and path is not None and not path.health.is_healthy:
        return path.health.reason
    return link.describe()
