"""History: what happened on a bus in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from servicebus.runtime.copy_store import CopyStore
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.job import Disposition, Job, Outcome
from servicebus.transport.loop import EventLoop

__all__ = ["History", "HistoryEntry"]

What = Literal["called", "sent", "executed", "retried", "dead-lettered"]


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that happened to a call or message."""

    at: float
    """Seconds since the bus was opened, by its clock."""
    what: What
    """``called`` and ``sent``: by a Sender. ``executed``: a service has run it to its end, which may be an error at its
    caller. ``retried``: it comes again later. ``dead-lettered``: it is among the dead letters."""
    id: str
    """Of the request, unique on the wire: ``request.get_event().id`` in a service."""
    target: str
    """``category.name`` of its service; the name of an event that was sent, ``event category.name`` where it came."""
    broker: str = ""
    """Over which it came to the service."""
    attempt: int = 0
    """Counted from 1."""
    detail: str = ""
    """What a service raised, or why it is a dead letter."""
    event_id: int = 0
    """What ``call()`` or ``send()`` returned for it; 0 if a service asked."""
    context: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    """The text pairs that travel with it."""

    def __str__(self) -> str:
        words = [f"{self.at:9.3f} s  {self.what:<13} {self.target} {self.id}"]
        words += [f"on {self.broker}"] if self.broker else []
        words += [f"attempt {self.attempt}"] if self.attempt > 1 else []
        words += [f"({self.detail})"] if self.detail else []
        return " ".join(words)


class History(list[HistoryEntry]):
    """The entries in their order; ``str()`` gives them a line each."""

    def __str__(self) -> str:
        return "\n".join(str(entry) for entry in self) or "(nothing happened)"

    def of(self, id: str) -> History:
        """What happened to the request *id*."""
        return History(entry for entry in self if entry.id == id)

    def only(self, what: What) -> History:
        """The entries of one kind."""
        return History(entry for entry in self if entry.what == what)


Record = Callable[..., None]
"""``record(what, job, broker, attempt, detail)``"""


def id_of(job: Job) -> str:
    """The id of a request in the history: that which its publisher, or a caller with a key of its own, has given it."""
    incoming = job.incoming
    return incoming.given_id if job.event or (incoming.caller and incoming.stamps.ticket is None) else incoming.id


class RecordingDispatcher(Dispatcher):
    """A dispatcher that reports the ends of jobs; the other arguments are those of Dispatcher."""

    def __init__(self, record: Record, loop: EventLoop, services: Any, journal: Any, host_name: str, *how: Any):
        super().__init__(loop, services, journal, host_name, *how)
        self._record = partial(record, broker=host_name)
        self.copies = _RecordingCopies(self._record, loop, host_name, self.counters, self._notes)

    def end(self, outcomes: Sequence[Outcome]) -> list[Disposition]:
        for outcome in outcomes:
            if outcome.is_final:
                fault = outcome.fault
                detail = "" if fault is None else f"{fault.type}: {fault.text}"
                self._record("executed", outcome.job, attempt=outcome.job.attempts, detail=detail)
        return super().end(outcomes)


class _RecordingCopies(CopyStore):
    def __init__(self, record: Record, *how: Any):
        super().__init__(*how)
        self._record = record

    def keep(self, disposition: Disposition, job: Job) -> Disposition:
        copy = disposition.copy
        if copy is not None:
            detail = f"{copy.reason}: {copy.detail}" if copy.reason else f"in {copy.delay_s:g} s"
            what = "dead-lettered" if copy.reason else "retried"
            self._record(what, job, attempt=copy.attempts, detail=detail)
        return super().keep(disposition, job)
