"""SenderMeter: counts how the requests of a Sender end, and times them.

It stands in the requests themselves: those of a Sender with a meter are of a class of their own. A Sender without one
has nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from servicebus.client.request import PendingRequest
from servicebus.client.session import SessionOwner
from servicebus.errors import RemoteError
from servicebus.observability.histograms import OTHER, Histogram, Outcomes
from servicebus.observability.reports import Entry
from servicebus.wire.envelope import CONTROL, MESSAGE
from servicebus.wire.events import EVENTS

__all__ = ["SenderMeter"]

_MOST_TARGETS = 200
"""So many have counts of their own. A program may make addresses of what strangers say, so a target has to be proved:
only what has been answered there, or stored for it, is one."""


class _Target:
    __slots__ = ("outcomes", "took")

    def __init__(self) -> None:
        self.outcomes = Outcomes()
        self.took = Histogram()


class SenderMeter:
    """Of one Sender. Requests end in one thread at a time; ``entries()`` is for any.

    It counts what is asked from now on.
    """

    def __init__(self, sender: SessionOwner):
        self._sender = sender
        self._targets: dict[tuple[str, str], _Target] = {}
        changed = getattr(sender._form, "changed", None)  # it chooses between classes: each of them is to be counted
        count = partial(_form, self)
        sender._form = count(sender._form) if changed is None else changed(count)

    def __repr__(self) -> str:
        return f"<SenderMeter of {len(self._targets)} targets>"

    def ended(self, request: PendingRequest, outcome: str, *, is_proved: bool) -> None:
        """*request* has ended with *outcome*, which proves that its target is one, or does not."""
        if request.kind is CONTROL:
            return
        at = _kind(request), str(request.address)
        target = self._targets.get(at)
        if target is None:
            if not is_proved or len(self._targets) >= _MOST_TARGETS:
                at = at[0], OTHER
            target = self._targets.setdefault(at, _Target())
        target.outcomes.add(outcome)
        target.took.add(time.monotonic() - request.started_at)

    def entries(self) -> Iterator[Entry]:
        """What was counted, and how the Sender is now."""
        for (kind, name), target in list(self._targets.items()):
            counts = {"outcomes": target.outcomes.report(), "took": target.took.report()}
            yield Entry("client", f"{kind} {name}", counts, {})
        session = self._sender._session
        if session is not None and session.is_ours:
            yield from _of_status(session.status())


def _form(meter: SenderMeter, form: Any) -> type[PendingRequest]:
    form = getattr(form, "unmetered", form)  # the last one of several meters counts

    class MeteredRequest(form):  # type: ignore[misc]
        """Is counted when it ends."""

        __slots__ = ()
        unmetered = form

        def _end(self) -> None:
            error = self._error
            outcome = "ok" if error is None else type(error).__name__
            meter.ended(self, outcome, is_proved=error is None or isinstance(error, RemoteError))
            super()._end()  # last: who waits for it finds it counted

        def dropped(self) -> None:
            super().dropped()
            meter.ended(self, "cancelled", is_proved=False)

    return MeteredRequest


def _kind(request: PendingRequest) -> str:
    if request.address.node == EVENTS:
        return "event"
    return "message" if request.kind is MESSAGE else "call"


_SENDER_COUNTS = ("busy", "held_back", "hedged", "late_replies", "unverified_replies", "defects")
_OUTBOX_COUNTS = ("stored", "delivered", "expired", "refused")


def _of_status(status: dict[str, Any]) -> Iterator[Entry]:
    counts = {name: status[name] for name in _SENDER_COUNTS}
    yield Entry("sender", "", counts, {"in_flight": status["travelling"], "waiting": status["waiting"]})
    for host in status["hosts"]:
        counts = {
            "published": host["calls"],
            "connections_opened": host["connections_opened"],
            "connections_lost": host["connections_lost"],
            "resends": host["resends"],
            "failovers": host["failovers"],
            "lost_seconds": host["lost_s"],
        }
        now = {name: int(host[name]) for name in ("usable", "preferred", "dead_paths", "unconfirmed")}
        yield Entry("link", host["name"], counts, now)
    outbox = status["outbox"] or {}
    if "messages" in outbox:
        counts = {f"outbox_{name}": outbox[name] for name in _OUTBOX_COUNTS}
        yield Entry("outbox", "", counts, {f"outbox_{name}": outbox[name] for name in ("messages", "bytes")})
