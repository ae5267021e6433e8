"""Reception: a delivery, verified: an Arrival, or refused. What can be said of it without the journal is said here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from servicebus.protocol.interface import AgentProtocol, Incoming, RequestRefused, wrong_queue
from servicebus.runtime.job import Burial, Claim, Postponement, Settlement
from servicebus.runtime.journal import Start
from servicebus.runtime.service_thread import ServiceThread
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.interface import Delivery
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.envelope import MESSAGE, Kind
from servicebus.wire.fault import DEFECT, EXPIRED, REFUSED, UNKNOWN_SERVICE, Fault, describe
from servicebus.wire.printable import printable

ServiceKey = tuple[Kind, str]
_SHOWN = 250

DUE_S = 0.01
"""What is due within a moment is due."""


@dataclass(slots=True)  # not frozen: see job.py
class Arrival:
    """A verified request whose standing is not known yet."""

    incoming: Incoming
    claim: Claim
    protocol: AgentProtocol
    service: ServiceThread | None
    """None for one that is refused."""
    deadline: float | None = None
    """``time.monotonic()`` from which nobody waits for it."""
    on_full: Callable[[], None] | None = None
    """What to do when there is no room, instead of the usual."""
    refusal: Settlement | None = None
    """Its end, if it is new: the journal has to know of it, or a replay might be run at a better moment."""

    @property
    def start(self) -> Start:
        is_idempotent = self.service is not None and self.service.service.idempotent
        may_run_again = self.incoming.kind is MESSAGE or is_idempotent
        return Start(self.incoming.id, self.incoming.expires_at, may_run_again, self.incoming.sent_ms / 1000)

    @property
    def waits_for(self) -> ServiceThread | None:
        """The service that it waits for while that is full; None if it does not wait: a caller is told instead."""
        is_message = self.incoming.kind is MESSAGE and self.on_full is None and self.refusal is None
        return self.service if is_message else None


class Reception:
    """Belongs to the thread that turns the loop."""

    def __init__(
        self,
        services: Mapping[ServiceKey, ServiceThread],
        counters: Counter[str],
        refused: RateLimitedLog,
        failures: FailureLog,
    ):
        self._services = services
        self._counters = counters
        self._refused = refused
        self._failures = failures

    def receive(
        self,
        delivery: Delivery,
        generation: int,
        protocol: AgentProtocol,
        lane: Kind,
        on_full: Callable[[], None] | None = None,
    ) -> Arrival | Settlement:
        """Verify *delivery*, which came in the queue for *lane*."""
        try:
            incoming = protocol.decode_request(delivery)
            if incoming.kind is not lane:
                raise wrong_queue(incoming, lane)
            claim = Claim(delivery, generation, incoming.reply_to, None, incoming.stamps)
            if incoming.due_ms and lane is MESSAGE:
                wait_s = incoming.due_ms / 1000 - time.time()
                if wait_s > DUE_S:  # a copy that was put past the delay queues; there it is held until it is due
                    return Settlement([claim], postponement=Postponement(wait_s, incoming.stamps.wait.attempts))
            service = self._services.get((lane, incoming.key))
            if service is None:
                return self._unknown(incoming, claim, protocol)
            if incoming.remaining_s is None:
                return Arrival(incoming, claim, protocol, service, None, on_full)
            if incoming.remaining_s <= 0:
                return self._expired(incoming, claim, protocol)
            return Arrival(incoming, claim, protocol, service, time.monotonic() + incoming.remaining_s, on_full)
        except RequestRefused as refused:
            return self._refuse(refused, Claim(delivery, generation, refused.reply_to), protocol, lane)
        except Exception as error:
            return self._unread(Claim(delivery, generation, ""), protocol, lane, error)

    def _unknown(self, incoming: Incoming, claim: Claim, protocol: AgentProtocol) -> Arrival | Settlement:
        self._counters["refused.unknown-service"] += 1
        key = printable(incoming.key[:_SHOWN])  # version 1 lets a caller name what it likes
        self._refused.warning(f"no service {key} for {incoming.kind.value}s; asked for by {incoming.id}")
        if incoming.kind is MESSAGE:
            burial = Burial(UNKNOWN_SERVICE, f"no message service {key}")
            return Arrival(incoming, claim, protocol, None, refusal=Settlement([claim], burial=burial))
        fault = Fault(UNKNOWN_SERVICE, f"the node has no RPC service {incoming.key}")
        return Settlement([claim], protocol.encode_fault(incoming, fault))

    def _expired(self, incoming: Incoming, claim: Claim, protocol: AgentProtocol) -> Settlement:
        """Not begun, so a Sender whose clock says otherwise can send it again."""
        self._counters[EXPIRED] += 1
        return Settlement([claim], protocol.encode_fault(incoming, Fault(EXPIRED, "the deadline passed on its way")))

    def _refuse(
        self, refused: RequestRefused, claim: Claim, protocol: AgentProtocol, lane: Kind
    ) -> Arrival | Settlement:
        reason = refused.error.reason
        self._counters[f"refused.{reason}"] += 1
        self._refused.warning(f"{lane.value} refused: {refused.error}")
        # A message that was confirmed must not vanish, even if it is only our clock or our secret that is wrong.
        burial = Burial(reason, refused.error.detail, is_known_new=False) if lane is MESSAGE else None
        settlement = Settlement([claim], refused.reply_in(lane), burial)
        if refused.incoming is not None:
            claim.stamps = refused.incoming.stamps
        if refused.incoming is None or refused.incoming.kind is not lane:
            return settlement
        return Arrival(refused.incoming, claim, protocol, None, refusal=settlement)

    def _unread(self, claim: Claim, protocol: AgentProtocol, lane: Kind, error: Exception) -> Settlement:
        """A defect of ours, or what a stranger has found: it costs this delivery alone. A caller is told."""
        self._failures.report(f"the reading of a {lane.value}", error)
        self._counters[f"refused.{DEFECT}"] += 1
        text = f"it could not be read: {describe(error)}"
        if lane is MESSAGE:
            return Settlement([claim], burial=Burial(DEFECT, text, is_known_new=False))
        settlement = Settlement([claim])
        with suppress(Exception):  # it may have been raised by the same
            fault = Fault(REFUSED, f"{DEFECT}: {text}")
            settlement.reply, claim.reply_to = protocol.encode_fault_unread(claim.delivery, fault)
        return settlement
