"""PathWatch: finds paths and brokers that died without a word, and dead ones that live again; by pings (Pinger).

While a call is outstanding for longer than ``path_ping_after``, the node is pinged over the same path; its worker's I/O
thread answers whatever its services do. A fast call costs no ping, and a long one is waited for as long as its agent is
alive. A broker that owes a confirm is asked for any sign of life.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from servicebus.client.link import Link
from servicebus.client.nodes import SPARE_AFTER_S, Path
from servicebus.client.request import PendingRequest
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.policy.liveness import PingAction
from servicebus.protocol.control_requests import MOST_ASKED
from servicebus.protocol.interface import SenderProtocol
from servicebus.wire.envelope import Kind, make_id
from servicebus.wire.printable import printable

_LATE_S = 5.0
"""A pong may come so much later than is waited for, and still shows that its path lives again."""


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping that nothing was heard of yet."""

    path: Path
    protocol: SenderProtocol
    token: str
    sent_at: float
    overdue_at: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a ping has shown."""

    path: Path
    is_alive: bool
    takes_calls: bool = True
    """False: the agent is there, finishing what it has, and refuses new calls."""
    is_news: bool = False
    """The path uses another version than before: what waits may be tried again."""
    queue_made_at: float | None = None
    """The node's queue of calls was not made before this: what was sent before may be gone."""
    answered: Sequence[str] = ()
    """Of the calls that were asked about, those that the node has answered."""


class Pinger:
    """Belongs to the engine's thread. Pings have ids of their own, so that event ids count calls only."""

    def __init__(self, config: Configuration):
        self._timeout_s = config.path_ping_timeout
        self._ask_after_s = config.path_ping_after
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)
        self._pending: dict[str, Ping] = {}

    def __repr__(self) -> str:
        return f"<Pinger pending={len(self._pending)}>"

    @property
    def is_waiting(self) -> bool:
        return bool(self._pending)

    def forget_overdue(self, now: float) -> None:
        """Let go of pings that expired on their broker."""
        while self._pending:
            wire_id, ping = next(iter(self._pending.items()))  # the oldest
            if now < ping.overdue_at + _LATE_S:
                return
            del self._pending[wire_id]

    def ping(self, path: Path, now: float) -> None:
        """Ask whether anybody is behind *path*."""
        self._send(path, path.protocol, now)

    def look_further(self, path: Path, now: float) -> bool:
        """A request came back from *path*. True if there is another version to ask for, which is done now."""
        return False

    def look_around(self, path: Path, now: float) -> None:
        """*path* is healthy, and used: is there anything to be found out about it?"""

    def knows(self, wire_id: str) -> bool:
        return wire_id in self._pending

    def answered(self, wire_id: str, body: bytes, now: float) -> Finding | None:
        """What a pong to *wire_id* shows; None if it cannot be believed, or settles nothing yet."""
        ping = self._pending[wire_id]
        try:
            pong = ping.protocol.decode_pong(wire_id, ping.token, body)
        except EnvelopeError as error:
            ping.path.doubt = error
            return None
        if ping.token:  # version 1 signs none
            ping.path.is_proven = True
        del self._pending[wire_id]
        if (took_s := now - ping.sent_at) < self._timeout_s:
            ping.path.clock.round_trip.took(took_s, now)
        if not pong.takes_calls:
            return Finding(ping.path, is_alive=True, takes_calls=False)
        finding = self._ponged(ping, now)
        if finding is None:
            return None
        # It was so old when the node answered, which was after the ping was sent. A call that was published since then
        # may be with its service: it is not sent again because a pong took a while.
        made_at = None if pong.queue_age_s is None else ping.sent_at - pong.queue_age_s
        return replace(finding, queue_made_at=made_at, answered=pong.answered)

    def returned(self, wire_id: str, now: float) -> Finding | None:
        """What it shows that the ping *wire_id* came back unroutable; None if that was no ping, or settles nothing."""
        ping = self._pending.pop(wire_id, None)
        return self._came_back(ping, now) if ping is not None else None

    def _ponged(self, ping: Ping, now: float) -> Finding | None:
        return Finding(ping.path, is_alive=True)

    def _came_back(self, ping: Ping, now: float) -> Finding | None:
        return Finding(ping.path, is_alive=False)

    def _send(self, path: Path, protocol: SenderProtocol, now: float, *, why: str = "", is_timed: bool = True) -> None:
        """Ping in the version of *protocol*; *is_timed*: without an answer in time the path is dead."""
        wire_id = make_id(self._incarnation, next(self._count))
        asked = path.open_since(now - self._ask_after_s, MOST_ASKED)
        path.asked_at = now
        token, outgoing = protocol.encode_ping(path.node, wire_id, self._timeout_s, asked)
        self._pending[wire_id] = Ping(path, protocol, token, now, now + self._timeout_s, why)
        path.link.watch(path.node)
        if is_timed and path.clock.pinged_at is None:  # the time to answer runs from the first of several pings
            path.link_bytes_at_ping = path.link.bytes_received
            path.clock.pinged(now)
        path.link.publish_control(outgoing, wire_id, int(self._timeout_s * 1000))
        if is_timed:
            path.link.ask_broker()  # so that silence afterwards is the broker's, or only the node's


class Canceller:
    """Tells nodes that a call needs no answer any more. Belongs to the engine's thread."""

    def __init__(self) -> None:
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)

    def cancel(self, request: PendingRequest) -> None:
        """The caller of *request* has given up."""
        if request.kind is Kind.CALL:
            for path in (request.path, request.hedge):
                if path is not None:
                    self.cancel_on(path, request)

    def cancel_on(self, path: Path, request: PendingRequest) -> None:
        """What *request* asks for is not needed from *path* any more."""
        if not path.link.is_usable:
            return
        wire_id = make_id(self._incarnation, next(self._count))
        said = path.protocol.encode_cancel(path.node, request.id, wire_id)
        if said is not None:
            outgoing, worth_s = said
            path.link.publish_control(outgoing, wire_id, int(worth_s * 1000))


_AWAITED_PROBE_S = 0.1
_PROBE_S = 1.0


class WatchEvents(Protocol):
    """What the engine is told."""

    def path_dead(self, path: Path, why: str) -> None: ...
    def path_alive(self, path: Path) -> None: ...
    def queue_made_anew(self, path: Path, made_at: float) -> None: ...
    def answers_lost(self, path: Path, ids: Sequence[str]) -> None: ...


class Hedges(Protocol):
    """Sends second copies of calls whose path may be dead."""

    def prepare(self, path: Path, now: float) -> None: ...
    def hedge_all(self, path: Path, now: float) -> None: ...


class PathWatch:
    """Belongs to the engine's thread."""

    def __init__(self, config: Configuration, pinger: Pinger, events: WatchEvents, hedges: Hedges):
        self._pinger = pinger
        self._events = events
        self._hedges = hedges
        self._ask_after_s = config.path_ping_after
        self._silence = f"silent for {config.path_ping_after + config.path_ping_timeout:g} s"

    @property
    def is_waiting(self) -> bool:
        return self._pinger.is_waiting

    def check(self, link: Link, is_awaited: Callable[[str], bool], now: float) -> None:
        """Look at one connected link and its paths."""
        self._pinger.forget_overdue(now)
        link.look()
        link.check_heartbeat(now, self._link_is_silent)
        for path in list(link.active.values()):
            if link.has_moved:
                path.clock.moved(now)
            self._check(path, is_awaited, now)

    def ask(self, path: Path, now: float) -> bool:
        """Find out now whether anybody is behind *path*; something has come back from it.

        True if there may be, in another version than was tried.
        """
        if not path.link.is_usable:
            return False
        if path.outstanding:
            self._pinger.ping(path, now)
        return self._pinger.look_further(path, now)

    def answered(self, wire_id: str, body: bytes, now: float) -> bool:
        """Take a pong; False if *wire_id* is no ping of ours."""
        if not self._pinger.knows(wire_id):
            return False
        self._settle(self._pinger.answered(wire_id, body, now), now)
        return True

    def returned(self, wire_id: str, now: float) -> None:
        """Something of ours came back; if it was a ping, no agent is there."""
        self._settle(self._pinger.returned(wire_id, now), now)

    def _settle(self, finding: Finding | None, now: float) -> None:
        if finding is None:
            return
        path = finding.path
        if not finding.is_alive:
            self._events.path_dead(path, path.health.reason or NO_CONSUMER)
            return
        was_dead = not path.health.is_healthy
        if not finding.takes_calls:
            path.clock.heard(now)  # what it has taken may be waited for; new calls go elsewhere
            return
        path.heard(now)
        if finding.queue_made_at is not None:
            self._events.queue_made_anew(path, finding.queue_made_at)
        if lost := path.never_came(finding.answered):
            self._events.answers_lost(path, lost)
        if was_dead or finding.is_news:
            self._events.path_alive(path)

    def _check(self, path: Path, is_awaited: Callable[[str], bool], now: float) -> None:
        action = path.clock.action(now, path.oldest())
        if action is PingAction.DEAD:
            if path.link.bytes_received == path.link_bytes_at_ping:
                self._link_is_silent(path.link)
            else:
                doubt = f"answered a ping, but cannot be believed ({printable(str(path.doubt))})" if path.doubt else ""
                self._events.path_dead(path, doubt or "the node did not answer a ping")
        elif action is PingAction.PING:
            self._pinger.ping(path, now)
            self._hedges.prepare(path, now)
        elif action is PingAction.SUSPECT:
            path.health.suspect()
            if path.link.bytes_received == path.link_bytes_at_ping:
                path.link.health.suspect()
            self._hedges.hedge_all(path, now)
        elif path.health.is_suspect and path.clock.pinged_at is None:
            path.health.heard()
        elif not path.health.is_healthy:
            self._probe(path, is_awaited(path.node), now)
        elif self._owes_answers(path, now):
            self._pinger.ping(path, now)
        else:
            self._pinger.look_around(path, now)

    def _owes_answers(self, path: Path, now: float) -> bool:
        """A call waits, though others are answered: is its answer lost? No path is asked more often than a silent one.

        RabbitMQ throws a direct reply away while it is still starting, and when members of a cluster lose each other.
        """
        if path.clock.pinged_at is not None or now - path.asked_at < self._ask_after_s:
            return False
        oldest = next((request.published_at for request in path.outstanding.values()), None)
        return oldest is not None and now - oldest >= self._ask_after_s

    def _probe(self, path: Path, is_awaited: bool, now: float) -> None:
        """Ask a dead path now and then whether it lives again, while a request waits for it or it was used lately."""
        if now >= path.probe_at and path.link.is_usable and (is_awaited or now - path.used_at < SPARE_AFTER_S):
            self._pinger.ping(path, now)
            path.probe_at = now + (_AWAITED_PROBE_S if is_awaited else _PROBE_S)

    def _link_is_silent(self, link: Link) -> None:
        link.connections.abort(self._silence)


NO_CONSUMER = "no agent of the node consumes there"
LATE = "is late with the answer to a ping"
