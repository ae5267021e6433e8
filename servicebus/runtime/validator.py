"""Validator: a delivery becomes a validated Job, or is refused. Decides what needs no journal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

from servicebus._secret import SecretText
from servicebus.errors import EnvelopeError
from servicebus.protocol.interface import AgentProtocol, RequestRefused, wrong_queue
from servicebus.runtime.job import Disposition, Inbox, Job, PendingDelivery, PendingEvent, dead_letter, later_attempt
from servicebus.runtime.refusal_log import RefusalLog
from servicebus.runtime.registration import former_key, stream_key
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.interface import Delivery
from servicebus.wire.encryption import NOT_ENCRYPTED
from servicebus.wire.envelope import CALL, MESSAGE, Kind
from servicebus.wire.events import event_key
from servicebus.wire.fault import DEFECT, EXPIRED, IS_STREAM, NO_STREAM, REFUSED, UNKNOWN_SERVICE, Fault, describe
from servicebus.wire.printable import printable

ServiceKey = tuple[Kind, str]
"""Kind, ``category.name``."""
_SHOWN = 250

DUE_S = 0.01
"""What is due within a moment is due."""


class Validator:
    """Belongs to the I/O thread."""

    def __init__(
        self,
        services: Mapping[ServiceKey, Inbox],
        counters: Counter[str],
        refusals: RefusalLog,
        failures: FailureLog,
    ):
        self._services = services
        self._counters = counters
        self._refusals = refusals
        self._failures = failures

    def validate(
        self,
        delivery: Delivery,
        epoch: int,
        protocol: AgentProtocol,
        kind: Kind,
        on_full: Callable[[], None] | None = None,
    ) -> Job | Disposition:
        """Verify *delivery*, which came in the queue for *kind*."""
        try:
            incoming = protocol.decode_request(delivery)
            if incoming.kind is not kind:
                raise wrong_queue(incoming, kind)
            job = Job(delivery, epoch, incoming.reply_to, incoming, protocol, None, None, on_full)
            if incoming.caller and (fault := protocol.denial(incoming)) is not None:
                return self._denied(job, fault)
            if incoming.due_ms and kind is MESSAGE:
                wait_s = incoming.due_ms / 1000 - time.time()
                if wait_s > DUE_S:  # a copy that was put past the delay queues; there it is held until it is due
                    return Disposition([job], None, later_attempt(wait_s, incoming.stamps.wait.attempts))
            key = incoming.key if incoming.stream is None else stream_key(incoming.key)
            service = self._services.get((kind, key))
            if incoming.contract:  # an earlier version, perhaps, that is served to the callers who know it
                service = self._services.get((kind, former_key(key, incoming.contract)), service)
            job.service = service
            if service is None:
                return self._unknown(job)
            if service.service.encrypted and type(incoming.raw_params) is not SecretText:
                return self._not_encrypted(job)
            if incoming.remaining_s is not None:
                if incoming.remaining_s <= 0:
                    return self._expired(job)
                job.deadline = time.monotonic() + incoming.remaining_s
            return job
        except RequestRefused as refused:
            return self._refuse(refused, delivery, epoch, protocol, kind)
        except Exception as error:
            pending = pending_event(delivery, epoch, protocol) or PendingDelivery(delivery, epoch, "")
            return self._unread(pending, protocol, kind, error)

    def _denied(self, job: Job, fault: Fault) -> Job | Disposition:
        """Before anything else, so that its caller learns nothing of the service."""
        reason, _, detail = fault.text.partition(": ")
        self._refusals.refused(job.incoming.kind, EnvelopeError(reason, detail))
        if job.incoming.kind is MESSAGE:
            job.refusal = Disposition([job], None, dead_letter(reason, detail))
            return job
        return Disposition([job], job.protocol.encode_fault(job.incoming, fault))

    def _not_encrypted(self, job: Job) -> Job | Disposition:
        """It has to be, and was to be seen on its way."""
        key = job.incoming.key.removeprefix("event ")
        error = EnvelopeError(NOT_ENCRYPTED, f"what goes to {key} has to be encrypted, by its service")
        return self._answered_or_dead(job, error)

    def _answered_or_dead(self, job: Job, error: EnvelopeError) -> Job | Disposition:
        self._refusals.refused(job.incoming.kind, error)
        if job.incoming.kind is MESSAGE:
            job.refusal = Disposition([job], None, dead_letter(error.reason, error.detail))
            return job
        fault = Fault(REFUSED, f"{error.reason}: {error.detail}")
        return Disposition([job], job.protocol.encode_fault(job.incoming, fault))

    def _unknown(self, job: Job) -> Job | Disposition:
        incoming = job.incoming
        if incoming.kind is CALL and (fault := self._of_the_other_form(job)) is not None:
            return Disposition([job], job.protocol.encode_fault(incoming, fault))
        self._counters["refused.unknown-service"] += 1
        key = printable(incoming.key[:_SHOWN])  # version 1 does not limit what a caller may name
        hint = self._hint(incoming.key)
        self._refusals.log.warning(f"no service {key} for {incoming.kind.value}s; asked for by {incoming.id}")
        if incoming.kind is MESSAGE:
            is_event = bool(incoming.event)
            what = f"{job.subscription} takes no events any more" if is_event else f"no message service {key}{hint}"
            job.refusal = Disposition([job], None, dead_letter(UNKNOWN_SERVICE, what))
            return job
        fault = Fault(UNKNOWN_SERVICE, f"the node has no RPC service {incoming.key}{hint}")
        return Disposition([job], job.protocol.encode_fault(incoming, fault))

    def _hint(self, key: str) -> str:
        """How a service of that name is to be asked; "" if there is none, or an earlier version of it alone."""
        ways = {(CALL, key): "call()", (CALL, stream_key(key)): "stream()", (MESSAGE, key): "send()"}
        ways |= {(MESSAGE, event_key(key)): "publish() of an event"}
        return next((f"; it is asked by {way}" for each, way in ways.items() if each in self._services), "")

    def _of_the_other_form(self, job: Job) -> Fault | None:
        """The refusal of a call to a service that answers a stream, or the other way round."""
        key = job.incoming.key
        if job.incoming.stream is None and (CALL, stream_key(key)) in self._services:
            return Fault(REFUSED, f"{IS_STREAM}: {key} is a stream; ask for it by stream(), not by call()")
        if job.incoming.stream is not None and (CALL, key) in self._services:
            return Fault(REFUSED, f"{NO_STREAM}: {key} gives one result; ask for it by call(), not by stream()")
        return None

    def _expired(self, job: Job) -> Disposition:
        """Not begun, so a Sender whose clock says otherwise can send it again."""
        self._counters[EXPIRED] += 1
        fault = Fault(EXPIRED, "the deadline passed on its way")
        return Disposition([job], job.protocol.encode_fault(job.incoming, fault))

    def _refuse(
        self, refused: RequestRefused, delivery: Delivery, epoch: int, protocol: AgentProtocol, kind: Kind
    ) -> Job | Disposition:
        reason, incoming = refused.error.reason, refused.incoming
        self._refusals.refused(kind, refused.error)
        # A message that was confirmed must not vanish, even if it is only our clock or our secret that is wrong.
        copy = dead_letter(reason, refused.error.detail, is_known_new=False) if kind is MESSAGE else None
        reply = refused.reply_in(kind)
        if incoming is None:
            pending = pending_event(delivery, epoch, protocol) or PendingDelivery(delivery, epoch, refused.reply_to)
            return Disposition([pending], reply, copy)
        job = Job(delivery, epoch, refused.reply_to, incoming, protocol)
        disposition = Disposition([job], reply, copy)
        if incoming.kind is not kind:
            return disposition
        job.refusal = disposition
        return job

    def _unread(self, pending: PendingDelivery, protocol: AgentProtocol, kind: Kind, error: Exception) -> Disposition:
        """A defect of ours, or input that triggers one: it costs this delivery alone. A caller is told."""
        self._failures.report(f"the reading of a {kind.value}", error)
        self._counters[f"refused.{DEFECT}"] += 1
        text = f"it could not be read: {describe(error)}"
        if kind is MESSAGE:
            return Disposition([pending], None, dead_letter(DEFECT, text, is_known_new=False))
        disposition = Disposition([pending])
        with suppress(Exception):  # it may have been raised by the same
            fault = Fault(REFUSED, f"{DEFECT}: {text}")
            disposition.reply, pending.reply_to = protocol.encode_fault_unread(pending.delivery, fault)
        return disposition


def pending_event(delivery: Delivery, epoch: int, protocol: AgentProtocol) -> PendingEvent | None:
    """Of the queue of a subscription: a dead letter of it says whose it is. None of another queue."""
    return PendingEvent(delivery, epoch, "", protocol.subscription) if protocol.subscription else None
