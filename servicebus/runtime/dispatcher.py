"""Dispatcher: delivery -> the inbox of its service; outcome -> what the broker is told. The I/O thread's own."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from servicebus.errors import EnvelopeError
from servicebus.runtime.dialect import Dialect, Refused
from servicebus.runtime.job import Burial, Claim, Incoming, Job, Outcome, Settlement
from servicebus.runtime.journal import Journal, Standing
from servicebus.runtime.service_thread import ServiceThread
from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import Fault

LOG = logging.getLogger(__name__)

_BUSY_RETRY_MS = 50
_LOGGED_REFUSALS_PER_S = 5
_KEPT_BURIALS = 1024

ServiceKey = tuple[Kind, str]


class Dispatcher:
    """Every delivery ends in exactly one Settlement, now or when its service has finished."""

    def __init__(self, services: Mapping[ServiceKey, ServiceThread], journal: Journal, host_name: str):
        self.counters: Counter[str] = Counter()
        self.is_stopping = False
        self._services = services
        self._journal = journal
        self._host_name = host_name
        self._running: dict[str, Job] = {}
        self._unburied: dict[str, Burial] = {}
        """Messages that failed and whose dead letter the broker has not confirmed yet."""
        self._log_window = (0.0, 0)

    def __repr__(self) -> str:
        return f"<Dispatcher running={len(self._running)} services={len(self._services)}>"

    @property
    def unfinished(self) -> int:
        return len(self._running)

    def admit(self, delivery: Delivery, generation: int, dialect: Dialect, lane: Kind) -> Settlement | None:
        """Put *delivery* into its service's inbox (None), or say what to do with it instead."""
        try:
            incoming = dialect.read(delivery)
            if incoming.kind is not lane:
                raise Refused(EnvelopeError("malformed", f"a {incoming.kind.value} in the queue for {lane.value}s"))
        except Refused as refused:
            return self._refuse(refused, Claim(delivery, generation, refused.reply_to), lane)
        claim = Claim(delivery, generation, incoming.reply_to)
        service = self._services.get((lane, incoming.key))
        if service is None:
            return self._unknown(incoming, claim, dialect)
        return self._begin(incoming, claim, dialect, service)

    def finished(self, outcome: Outcome) -> Settlement:
        """The settlement of a job that its service has left."""
        job = outcome.job
        incoming = job.incoming
        self._running.pop(incoming.id, None)
        if outcome.has_run:
            self._journal.finish(incoming.id, outcome.reply)
        else:
            self._journal.forget(incoming.id)
        self._count(outcome)
        if incoming.kind is Kind.MESSAGE and outcome.fault is not None:
            burial = _burial(outcome.fault)
            if outcome.has_run:
                self._keep(incoming.id, burial)
            return Settlement(job.claims, burial=burial, buries=incoming.id)
        return Settlement(job.claims, outcome.reply)

    def buried(self, id: str) -> None:
        """The dead letter of message *id* is stored."""
        self._unburied.pop(id, None)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _begin(self, incoming: Incoming, claim: Claim, dialect: Dialect, service: ServiceThread) -> Settlement | None:
        standing, answer = self._journal.begin(incoming.id, time.time(), incoming.expires_at)
        if standing is not Standing.NEW:
            return self._seen_before(incoming, claim, standing, answer, dialect)
        if self.is_stopping and incoming.kind is Kind.CALL:
            # Asked after the journal: a copy of a call that runs here waits for its answer and must not run elsewhere.
            self._journal.forget(incoming.id)
            self.counters["stopping"] += 1
            return Settlement([claim], dialect.write_fault(incoming, Fault("stopping", "the agent is stopping")))
        deadline = None if incoming.remaining_s is None else time.monotonic() + incoming.remaining_s
        job = Job(incoming, dialect, claim, deadline)
        if service.put(job):
            self._running[incoming.id] = job
            return None
        self._journal.forget(incoming.id)
        if incoming.is_patient:
            return Settlement([claim], aside=True)
        self.counters["busy"] += 1
        if incoming.kind is Kind.MESSAGE:
            return Settlement([claim], aside=True)
        fault = Fault("busy", f"the inbox of {incoming.key} is full", retry_after_ms=_BUSY_RETRY_MS)
        return Settlement([claim], dialect.write_fault(incoming, fault))

    def _seen_before(
        self, incoming: Incoming, claim: Claim, standing: Standing, answer: bytes | None, dialect: Dialect
    ) -> Settlement | None:
        job = self._running.get(incoming.id)
        if standing is Standing.RUNNING and job is not None:
            # Redelivered after a reconnect, or re-sent over a recovered path: it waits for the run under way.
            self.counters["joined"] += 1
            job.claims.append(claim)
            return None
        burial = self._unburied.get(incoming.id)
        if burial is not None:
            # It failed, and the connection was lost before its dead letter was stored: acked now, it would vanish.
            return Settlement([claim], burial=burial, buries=incoming.id)
        self.counters["refused.replayed"] += 1
        if answer is None and incoming.kind is Kind.CALL:
            self._log_refusal(f"call {incoming.id} to {incoming.key} refused: replayed, and its answer is gone")
            fault = Fault("refused", "replayed: this id was executed already, and its answer is no longer stored")
            answer = dialect.write_fault(incoming, fault)
        return Settlement([claim], answer)

    def _keep(self, id: str, burial: Burial) -> None:
        self._unburied[id] = burial
        if len(self._unburied) > _KEPT_BURIALS:
            del self._unburied[next(iter(self._unburied))]

    def _unknown(self, incoming: Incoming, claim: Claim, dialect: Dialect) -> Settlement:
        self.counters["refused.unknown-service"] += 1
        self._log_refusal(f"no service {incoming.key} for {incoming.kind.value}s; asked for by {incoming.id}")
        if incoming.kind is Kind.MESSAGE:
            return Settlement([claim], burial=Burial("unknown-service", f"no message service {incoming.key}"))
        fault = Fault("unknown-service", f"the node has no RPC service {incoming.key}")
        return Settlement([claim], dialect.write_fault(incoming, fault))

    def _refuse(self, refused: Refused, claim: Claim, lane: Kind) -> Settlement:
        reason = refused.error.reason
        self.counters[f"refused.{reason}"] += 1
        self._log_refusal(f"{lane.value} refused: {refused.error}")
        # A message that was confirmed must not vanish, even if it is only our clock or our secret that is wrong.
        burial = Burial(reason, refused.error.detail) if lane is Kind.MESSAGE else None
        return Settlement([claim], refused.reply, burial)

    def _count(self, outcome: Outcome) -> None:
        fault = outcome.fault
        if fault is None:
            self.counters[f"executed.{outcome.job.incoming.kind.value}"] += 1
        elif fault.type == "refused":
            self.counters[f"refused.{fault.text.partition(':')[0]}"] += 1
        elif outcome.has_run:
            self.counters["failed"] += 1
        else:
            self.counters[fault.type] += 1

    def _log_refusal(self, text: str) -> None:
        """One line each, but never a flood that a stranger could cause; the counters miss nothing."""
        second, logged = self._log_window
        now = time.monotonic()
        if now - second >= 1.0:
            second, logged = now, 0
        if logged < _LOGGED_REFUSALS_PER_S:
            LOG.warning("%s: %s", self._host_name, text)
        self._log_window = (second, logged + 1)

    def snapshot(self) -> dict[str, Any]:
        return {"unfinished": self.unfinished, **self.counters}


def _burial(fault: Fault) -> Burial:
    if fault.type == "refused":
        reason, _, detail = fault.text.partition(": ")
        return Burial(reason, detail)
    return Burial(fault.type, fault.text, fault.trace or "")
