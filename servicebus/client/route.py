"""Route: the way of one call over the brokers, attempt by attempt, for ``servicebus call --trace``.

It stands in the request itself, as a SenderMeter does: a call that is traced is of a class of its own, and no other
call has anything of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from servicebus.client.link import Link
from servicebus.client.request import PendingRequest
from servicebus.client.session import SessionOwner
from servicebus.client.watch import NO_CONSUMER
from servicebus.errors import (
    CallInterrupted,
    CallRefused,
    CallTimeout,
    InvalidReply,
    RemoteError,
    ServiceBusy,
    UnknownService,
)
from servicebus.protocol.interface import UnsignedRefusal
from servicebus.transport.interface import Delivery
from servicebus.wire.printable import printable

if TYPE_CHECKING:
    from servicebus.client.nodes import Path

__all__ = ["CallTracer", "Route", "RouteStep"]

CONNECTING = "connecting"
WAITING = "waiting"
PUBLISHED = "published"
RETURNED = "returned"
ANSWERED = "answered"

_BY_THE_NODE = (RemoteError, UnknownService, InvalidReply, ServiceBusy, CallRefused, CallInterrupted)
"""Errors that an answer of the node has brought, if an attempt was still on its way then."""
_SAID_BY_THE_NODE = ("the agent there is stopping", "is busy")


class RouteStep(NamedTuple):
    """One attempt on one broker, one connection that was opened for it, or one wait between two attempts."""

    attempt: int | None
    """Its number, from 1; None for a connection or a wait."""
    broker: str
    """"" for a wait."""
    phase: str
    """How far it came: ``connecting``, ``published`` (nothing came back), ``returned`` by the broker, ``answered`` by
    the node; or ``waiting``."""
    outcome: str
    at_s: float
    """When it began, after the call did."""
    took_s: float | None
    """None for a connection that had not come about when the call ended."""

    def to_json(self) -> dict[str, Any]:
        """Times in milliseconds."""
        return {
            "attempt": self.attempt,
            "broker": self.broker or None,
            "phase": self.phase,
            "outcome": self.outcome,
            "at_ms": round(self.at_s * 1000, 3),
            "ms": None if self.took_s is None else round(self.took_s * 1000, 3),
        }


@dataclass(slots=True)
class _Open:
    """What has begun and not ended."""

    attempt: int | None
    link: Link | None
    began_at: float
    said: str = ""
    """What was said of it last."""
    is_not_run: bool = False


class Route:
    """Of one call. Written by the thread that reads the answers; read when the call has ended."""

    def __init__(self, id: str, began_at: float, links: Sequence[Link]):
        self.id = id
        """Of the call, on the wire."""
        self.open: list[_Open] = []
        self.heard_on: Link | None = None
        """Over which the last reply came."""
        self._began_at = began_at
        self._links = links
        self._steps: list[RouteStep] = []

    def __repr__(self) -> str:
        return f"<Route of {self.id}: {len(self._steps)} steps>"

    @property
    def steps(self) -> list[RouteStep]:
        """In the order in which they began."""
        return sorted(self._steps, key=lambda step: step.at_s)

    def began(self, attempt: int | None, link: Link | None, now: float, said: str = "") -> None:
        self.open.append(_Open(attempt, link, now, said))

    def open_on(self, link: Link | None) -> _Open | None:
        """The attempt that travels over *link*; with None the wait."""
        return next((each for each in reversed(self.open) if each.link is link), None)

    def numbered(self, attempt: int) -> _Open | None:
        """The attempt of that number, or the last one."""
        found = [each for each in self.open if each.attempt is not None]
        return next((each for each in found if each.attempt == attempt), found[-1] if found else None)

    def ended(self, what: _Open, phase: str, outcome: str) -> None:
        self.open.remove(what)
        name = "" if what.link is None else what.link.host.name
        self._add(what.attempt, name, phase, outcome, what.began_at, time.monotonic())

    def waited(self, why: str) -> None:
        """The wait is over, if there is one; with the connections that were opened meanwhile."""
        wait = self.open_on(None)
        if wait is not None:
            self.ended(wait, WAITING, wait.said or why)
            self._add_connections(wait.began_at)

    def former_that_answers(self, outcome: str) -> int | None:
        """The number of the attempt that was given up and is answered after all, which is noted; None if it is none."""
        if self.heard_on is None or self.open_on(self.heard_on) is not None:
            return None
        name = self.heard_on.host.name
        for at, step in reversed([*enumerate(self._steps)]):
            if step.attempt is not None and step.broker == name:
                took_s = time.monotonic() - self._began_at - step.at_s
                self._steps[at] = step._replace(phase=ANSWERED, outcome=printable(outcome), took_s=took_s)
                return step.attempt
        return None

    def first_of_two(self) -> int | None:
        """The number of the attempt that is answered, while another one is on its way."""
        answered = self.open_on(self.heard_on) if self.heard_on is not None and len(self.open) > 1 else None
        return None if answered is None else answered.attempt

    def _add_connections(self, since: float) -> None:
        for link in self._links:
            manager = link.connections
            if manager.tried_at >= since:
                was_lost = manager.lost_at >= manager.tried_at
                ended_at = manager.lost_at if was_lost else manager.up_since
                self._add(None, link.host.name, CONNECTING, link.describe(), manager.tried_at, ended_at)

    def _add(
        self, attempt: int | None, broker: str, phase: str, outcome: str, began_at: float, ended_at: float | None
    ) -> None:
        took_s = None if ended_at is None else ended_at - began_at
        self._steps.append(RouteStep(attempt, broker, phase, printable(outcome), began_at - self._began_at, took_s))


class _TracedCall(PendingRequest):
    """Notes what becomes of each of its attempts."""

    __slots__ = ("route",)

    route: Route

    def travels(self, path: Path, now: float) -> None:
        super().travels(path, now)
        self.route.waited("until a path was found")
        self.route.began(self.attempt, path.link, now)

    def travels_twice(self, path: Path) -> None:
        super().travels_twice(path)
        self.route.began(self.attempt, path.link, time.monotonic())

    def waits(self, now: float, limit_s: float) -> bool:
        is_another = super().waits(now, limit_s)
        self.route.began(None, None, now)
        return is_another

    def held(self, now: float) -> None:
        super().held(now)
        self.route.began(None, None, now, "held back: too many calls were lost with their paths to this node")

    def paused(self, why: str) -> None:
        attempt = self.route.numbered(self.attempt)
        if attempt is not None:
            self.route.ended(attempt, ANSWERED, f"busy: {why}")
        super().paused(why)
        self.route.began(None, None, time.monotonic(), "until its service is asked again")

    def tried(self, host: str, what: str) -> None:
        super().tried(host, what)
        for each in self.route.open:
            if each.link is not None and each.link.host.name == host:
                each.said = what

    def not_run(self, attempt: int = 0) -> None:
        super().not_run(attempt)
        found = self.route.numbered(attempt)
        if found is not None:
            found.is_not_run = True

    def lost(self, link: Link) -> None:
        super().lost(link)
        attempt = self.route.open_on(link)
        if attempt is not None:
            said = attempt.said or "the clock of the node is another: sent again, dated by that"
            is_answer = not attempt.said or said in _SAID_BY_THE_NODE
            phase = RETURNED if said == NO_CONSUMER else ANSWERED if is_answer else PUBLISHED
            self.route.ended(attempt, phase, said)

    def _end(self) -> None:
        error = self._error
        outcome = "ok" if error is None else f"{type(error).__name__}: {error}"
        is_answer = error is None or _is_answer(error)
        former = self.route.former_that_answers(outcome) if is_answer else None
        self.route.waited("for a path" if former is None else f"until attempt {former} was answered")
        first = former if former is not None or not is_answer else self.route.first_of_two()
        for each in list(self.route.open):
            if first is not None and each.attempt != first:
                said = f"{each.said}; " if each.said else ""
                self.route.ended(each, PUBLISHED, f"{said}attempt {first} was answered first")
            elif is_answer or (each.is_not_run and isinstance(error, CallTimeout)):  # the node said: too late
                self.route.ended(each, ANSWERED, outcome)
            else:
                self.route.ended(each, PUBLISHED, each.said or outcome)
        super()._end()  # last: who waits for it reads the route


class CallTracer:
    """Notes the routes of the calls of *sender*. Made before the first of them; not for a Sender of many calls."""

    def __init__(self, sender: SessionOwner):
        self.routes: list[Route] = []
        """The first call's first."""
        self._links = sender._current().engine.links
        for link in self._links:
            link.replied = partial(self._replied, link, link.replied)
        sender._form = self._make

    def __repr__(self) -> str:
        return f"<CallTracer {self.routes}>"

    def _make(self, *args: Any, **named: Any) -> PendingRequest:
        request = _TracedCall(*args, **named)
        request.route = Route(request.id, request.started_at, self._links)
        self.routes.append(request.route)
        return request

    def _replied(self, link: Link, take: Callable[[Delivery], None], delivery: Delivery) -> None:
        for route in self.routes:
            if route.id == delivery.correlation_id:
                route.heard_on = link
        take(delivery)


def _is_answer(error: BaseException) -> bool:
    return isinstance(error, _BY_THE_NODE) and not isinstance(error.__cause__, UnsignedRefusal)
