"""Answers: what a reply, a confirm or a return means for the request that it belongs to."""

from __future__ import annotations

import time

from servicebus.client.discovery import Discoveries
from servicebus.client.future import Receipt
from servicebus.client.hosts import NO_SUBSCRIBER
from servicebus.client.link import Link
from servicebus.client.nodes import Path
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.client.request_errors import NACKED, not_done, refused_again
from servicebus.client.scheduler import RequestScheduler
from servicebus.client.streams import Streams
from servicebus.client.watch import NO_CONSUMER, Canceller, PathWatch
from servicebus.errors import EnvelopeError, InvalidReply, NodeUnavailable, ServiceBusy
from servicebus.protocol.interface import UnsignedRefusal
from servicebus.transport.interface import Delivery, Returned
from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.envelope import MESSAGE
from servicebus.wire.events import EVENTS
from servicebus.wire.fault import EXPIRED, NOT_RUN, REFUSED, UNKNOWN_SERVICE, Fault, error_from_fault

LOG = get_logger(__name__)

_QUEUE_MAY_APPEAR_S = 0.25
"""After a message came back unroutable or was refused, its queue there is not tried again for so long."""
_FOLLOWERS = 2
"""So many messages that wait for a node go on their way when one is confirmed."""
_CORRECTIONS = 3
"""So often a call is sent again because its node's clock says that it is late."""


class Answers:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        pending: PendingRequests,
        scheduler: RequestScheduler,
        watch: PathWatch,
        canceller: Canceller,
        discoveries: Discoveries,
        streams: Streams,
        clock_skew_s: float = 60.0,
    ):
        self.unverified = 0
        self.late = 0
        self._pending = pending
        self._scheduler = scheduler
        self._watch = watch
        self._canceller = canceller
        self._discoveries = discoveries
        self._streams = streams
        self._unverified = RateLimitedLog(LOG, "replies")
        self._clock_skew_ms = clock_skew_s * 1000

    def replied(self, link: Link, delivery: Delivery) -> None:
        request = self._pending.in_flight.get(delivery.correlation_id or "")
        if request is None:
            self._unexpected(link, delivery)
            return
        try:
            protocol = request.protocol
            assert protocol is not None, "it travels"
            if (path := request.path) is None or path.link is not link:
                path = request.path_on(link)
            if path is None and protocol is not link.newest:
                self.late += 1  # of an attempt in version 2; version 1 is believed by where it comes from
                return
            try:
                if delivery.flaw is not None:
                    raise EnvelopeError(delivery.flaw.reason, delivery.flaw.detail)
                reply = protocol.decode_reply(request, delivery.body)
            except EnvelopeError as error:
                self._not_verified(request, link, error)
                return
            if path is not None:  # it lives; whether it takes new calls, only a pong says
                path.clock.heard(time.monotonic())
                if protocol is link.newest:
                    path.is_proven = True
            if reply.fault is not None:
                self._faulted(request, reply.fault, reply.attempt, link)
                return
            self._pending.answered(request, path)
            if request.hedge is not None:
                self._cancel_other(request, path)
            try:
                value = protocol.decode_result(reply.message)
            except EnvelopeError as error:
                request.fail(InvalidReply(str(request.address), str(error)))
            else:
                request.complete((request.event_id, value))
        except Exception as error:
            if not _is_believed(request, delivery.body):
                raise  # a stranger's, perhaps: it costs this delivery, not the request
            self._scheduler.give_up(request, error, self.replied)

    def _unexpected(self, link: Link, delivery: Delivery) -> None:
        wire_id, now = delivery.correlation_id or "", time.monotonic()
        if self._streams.answered(link, delivery, now):
            return
        if not (self._watch.answered(wire_id, delivery.body, now) or self._discoveries.answered(link, delivery, now)):
            self.late += 1
            LOG.debug("%s: reply to %r, which no request waits for (any more)", link.host.name, wire_id)

    def _not_verified(self, request: PendingRequest, link: Link, error: EnvelopeError) -> None:
        self.unverified += 1
        request.doubted(link.host.name, error)
        if isinstance(error, UnsignedRefusal) and (attempt := request.attempt_on(link)):
            request.refused_unsigned(attempt, error)
        self._unverified.warning(f"{link.host.name}: ignored a reply to {request.address}: {error}")

    def confirmed(self, link: Link, request: PendingRequest, is_ack: bool) -> None:
        is_event = request.address.node == EVENTS
        if is_ack and not request.returned:
            self._pending.finish(request)
            request.complete(Receipt(request.event_id, link.host.name, subscribers=True if is_event else None))
            if self._pending.waiting:  # twice as many each time: its queue may have room for all, or for one
                self._scheduler.go_on(request.address.node, time.monotonic(), _FOLLOWERS)
            return
        request.not_run()
        now, why, reason = time.monotonic(), "has no queue for the messages of the node", "no-queue"
        if is_event and request.returned:
            self._no_subscriber(request, link, now)
            return
        if not request.returned:
            # Stored nowhere: its queue is full, or a policy refuses it. The next broker may have room.
            why, reason = NACKED, "nacked"
            link.path(request.address.node, now).lacks_queue_until = now + _QUEUE_MAY_APPEAR_S
        self._scheduler.take_back(request, link, why, now, reason)

    def unroutable(self, link: Link, returned: Returned) -> None:
        wire_id = returned.correlation_id or returned.message_id or ""
        now = time.monotonic()
        request = self._pending.in_flight.get(wire_id)
        if request is None or (request.link is not link and request.path_on(link) is None):
            if not (self._discoveries.returned(link, wire_id, now) or self._streams.returned(wire_id)):
                self._watch.returned(wire_id, now)
            return
        if request.kind is MESSAGE:
            request.came_back()
            if request.address.node == EVENTS:
                return
            path = link.path(request.address.node, now)
            path.lacks_queue_until = now + _QUEUE_MAY_APPEAR_S
            self._watch.ask(path, now)
        else:
            self._not_run(request, link, NO_CONSUMER, now)

    def _no_subscriber(self, request: PendingRequest, link: Link, now: float) -> None:
        """The broker of *link* knows no subscription to this event. Another one may: they share nothing."""
        request.tried(link.host.name, NO_SUBSCRIBER)
        if self._scheduler.has_way(request, now):
            self._scheduler.take_back(request, link, NO_SUBSCRIBER, now, "no-subscriber")
        else:
            self._pending.finish(request)
            request.complete(Receipt(request.event_id, subscribers=False))

    def _cancel_other(self, request: PendingRequest, path: Path | None) -> None:
        """It was answered over *path*; the attempt on the other one, if there is one, is of no interest any more."""
        if request.hedge is not None and request.path is not None:
            self._canceller.cancel_on(request.path if path is request.hedge else request.hedge, request)

    def _faulted(self, request: PendingRequest, fault: Fault, answered: int, link: Link) -> None:
        now, attempt = time.monotonic(), request.attempt_on(link)
        if fault.type in NOT_RUN and answered != attempt:
            # Played again, or for an attempt that was given up: it says nothing about the one that travels.
            self.late += 1
            LOG.debug("%s: %s for a former attempt of %s", link.host.name, fault.type, request.id)
            return
        if fault.type == "stopping":
            # The agent is draining and has not run it: as good as an unroutable call, but said in time.
            self._not_run(request, link, "the agent there is stopping", now)
            return
        error = error_from_fault(fault, str(request.address), now - request.started_at)
        is_early = fault.type == EXPIRED and self._corrects_clock(request, fault, link, now)
        if not isinstance(error, ServiceBusy) and not is_early:
            if fault.type == REFUSED and request.path is not None:
                request.path.shift_ms = 0  # the node behind it may be another now, with another clock
            path = request.path_on(link)
            self._pending.answered(request, path)
            self._cancel_other(request, path)
            if fault.type in NOT_RUN:
                request.not_run(attempt)
            if fault.type == EXPIRED and request.refusals and not request.maybe_ran:
                # Nor did an attempt before run; the last one came too late to be refused again.
                error = ServiceBusy(str(request.address), reason=request.refused_with)
            elif fault.type in (REFUSED, UNKNOWN_SERVICE):
                error = refused_again(request, error)
            request.fail(error)
            return
        request.not_run(attempt)
        if request.hedge is not None:
            why, reason = ("is busy", "busy") if isinstance(error, ServiceBusy) else (str(error), "clock")
            self._scheduler.take_back(request, link, why, now, reason)
            return
        self._pending.finish(request)
        if isinstance(error, ServiceBusy):
            self._scheduler.pause(request, error)
        else:
            # By our clock it is not late: the two do not agree. Sent again, it is dated by the node's.
            request.lost(link)
            self._scheduler.route(request, now)

    def _corrects_clock(self, request: PendingRequest, fault: Fault, link: Link, now: float) -> bool:
        """Whether *request*, which the node takes for late, is to be sent again, dated by the node's clock.

        The node's time is a little old when it comes, so a date by it is never too late. And it is bounded by
        ``clock_skew``, for so much longer than the first attempt is good the node remembers the id.
        """
        path = request.path_on(link)
        if path is None or fault.clock_ms is None or now >= request.deadline or request.corrections >= _CORRECTIONS:
            return False
        shift_ms = fault.clock_ms - request.clock_ms()
        if shift_ms == request.shift_ms or abs(shift_ms) > self._clock_skew_ms:
            request.tried(link.host.name, f"says that its clock and ours are {abs(shift_ms) / 1000:.3f} s apart")
            return False
        request.clock_corrected()
        path.shift_ms = shift_ms
        return True

    def _not_run(self, request: PendingRequest, link: Link, why: str, now: float) -> None:
        """The path takes no calls, and surely did not run this one. Those that it took before may be under way."""
        path, attempt = request.path_on(link), request.attempt_on(link)
        may_be_another = False
        if path is not None:
            path.outstanding.pop(request.id, None)
            path.health.fail(why)
            may_be_another = self._watch.ask(path, now)
        request.not_run(attempt)
        if request.pinned is None:
            self._scheduler.take_back(request, link, why, now, "no-consumer" if why is NO_CONSUMER else "stopping")
            return
        self._pending.finish(request)
        request.lost(link)
        if may_be_another:
            self._scheduler.wait(request, now)
        else:
            request.fail(NodeUnavailable(str(request.address), [(request.pinned.host.name, why)], not_done(request)))


def _is_believed(request: PendingRequest, body: bytes) -> bool:
    """Whether a reply is its node's: then whatever is wrong with it is the end of the request."""
    try:
        return request.protocol is not None and request.protocol.decode_reply(request, body) is not None
    except Exception:  # asked only after something has raised: what raises again here proves nothing either
        return False
