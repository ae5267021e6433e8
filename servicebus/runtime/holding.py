"""Holding: what becomes of a turn while the journal can be neither told nor asked, say because its disk is full.

What came in waits; callers are told why when that takes long. A call that has been run is answered at once, and so are
its copies: should this worker die before it can note the end, the journal still knows that the call was started, and
nobody runs it again. Only the end waits to be noted. A message waits as a whole, since its ack would let go of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from servicebus.protocol.interface import Incoming
from servicebus.runtime.job import Job, Outcome, Settlement
from servicebus.runtime.journal_outage import JournalOutage
from servicebus.runtime.reception import Arrival
from servicebus.transport.failurelog import FailureLog
from servicebus.wire.envelope import CALL
from servicebus.wire.fault import BUSY, Fault

__all__ = ["Holding", "Turned", "reply_to"]

_RETRY_MS = 500


class Turned(NamedTuple):
    """What became of outcomes and arrivals; an arrival in neither list is in its service's inbox."""

    settlements: list[Settlement]
    held: list[Arrival]
    """Another worker of the node has their ids just now: to be asked again."""


class Holding:
    """Belongs to the thread that turns the loop.

    Args:
        running: the dispatcher's jobs, by id.
    """

    def __init__(self, running: Mapping[str, Job], counters: Counter[str], failures: FailureLog):
        self._running = running
        self._counters = counters
        self._failures = failures

    def __repr__(self) -> str:
        return f"<Holding running={len(self._running)}>"

    def hold(self, outcomes: Sequence[Outcome], arrivals: Sequence[Arrival], outage: JournalOutage) -> Turned:
        """All *outcomes* and what is held are to be tried again; what is settled needs no more answer."""
        turned = Turned([], [])
        ran = {each.job.incoming.id: each for each in outcomes if each.job.incoming.kind is CALL}
        for outcome in ran.values():
            self._answer_claims(outcome, turned)
        for arrival in arrivals:
            is_call = arrival.incoming.kind is CALL and arrival.refusal is None
            copied = ran.get(arrival.incoming.id) if is_call else None
            if copied is not None:
                self._answer_copy(copied, arrival, turned)
            elif not outage.is_long or self._is_to_wait(arrival):
                turned.held.append(arrival)
            else:
                self._decline(arrival, outage, turned)
        return turned

    def _decline(self, arrival: Arrival, outage: JournalOutage, turned: Turned) -> None:
        self._counters["busy"] += 1
        try:
            fault = Fault(BUSY, outage.reason, retry_after_ms=_RETRY_MS)
            reply = arrival.protocol.encode_fault(arrival.incoming, fault)
            turned.settlements.append(Settlement([arrival.claim], reply))
        except Exception as error:
            self._failures.report("a reply", error)

    def _answer_claims(self, outcome: Outcome, turned: Turned) -> None:
        job = outcome.job
        claims = list(job.claims)
        job.claims.clear()  # of a lost connection's, the broker delivers what it has not seen acked again
        for claim in claims:
            try:
                turned.settlements.append(Settlement([claim], reply_to(outcome, claim.joined), job=job))
            except Exception as error:
                self._failures.report("a reply", error)

    def _answer_copy(self, outcome: Outcome, arrival: Arrival, turned: Turned) -> None:
        self._counters["joined"] += 1
        try:
            settlement = Settlement([arrival.claim], reply_to(outcome, arrival.incoming), job=outcome.job)
            turned.settlements.append(settlement)
        except Exception as error:
            self._failures.report("a reply", error)

    def _is_to_wait(self, arrival: Arrival) -> bool:
        """A message, another attempt of what runs here, or what has an end of its own."""
        id, is_call = arrival.incoming.id, arrival.incoming.kind is CALL
        return not is_call or id in self._running or arrival.refusal is not None or arrival.on_full is not None


def reply_to(outcome: Outcome, attempt: Incoming | None) -> bytes | None:
    """What *attempt* is answered; None: the one that ran. That it was not run is believed of one attempt only."""
    if attempt is None or outcome.is_final or outcome.fault is None or outcome.reply is None:
        return outcome.reply
    return outcome.job.protocol.encode_fault(attempt, outcome.fault)
