"""PathWatch: finds paths and brokers that died without a word, and dead ones that live again.

While a call is outstanding for longer than ``path_ping_after``, the node is pinged over the same path; its worker's I/O
thread answers whatever its services do. A fast call costs no ping, and a long one is waited for as long as its agent is
alive. A broker that owes a confirm is asked for any sign of life.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from servicebus.client.connector import SPARE_AFTER_S
from servicebus.client.link import Link
from servicebus.client.path import Path
from servicebus.client.pinger import Finding, Pinger
from servicebus.configuration import Configuration
from servicebus.policy.liveness import Verdict
from servicebus.wire.printable import printable

_AWAITED_PROBE_S = 0.1
_PROBE_S = 1.0


class WatchEvents(Protocol):
    """What the engine is told."""

    def path_suspect(self, path: Path) -> None: ...
    def path_dead(self, path: Path, why: str) -> None: ...
    def path_alive(self, path: Path) -> None: ...
    def queue_made_anew(self, path: Path, made_at: float) -> None: ...


class PathWatch:
    """Belongs to the engine's thread."""

    def __init__(self, config: Configuration, pinger: Pinger, events: WatchEvents):
        self._pinger = pinger
        self._events = events
        self._silence = f"silent for {config.path_ping_after + config.path_ping_timeout:g} s"

    @property
    def is_waiting(self) -> bool:
        return self._pinger.is_waiting

    def check(self, link: Link, is_awaited: Callable[[str], bool], now: float) -> None:
        """Look at one connected link and its paths."""
        self._pinger.forget_overdue(now)
        link.look()
        link.check_pulse(now, self._link_is_silent)
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
            self._events.path_dead(path, path.trust.reason or AWAY)
            return
        was_dead = not path.trust.is_healthy
        if not finding.takes_calls:
            path.clock.heard(now)  # what it has taken may be waited for; new calls go elsewhere
            return
        path.heard(now)
        if finding.queue_made_at is not None:
            self._events.queue_made_anew(path, finding.queue_made_at)
        if was_dead or finding.is_news:
            self._events.path_alive(path)

    def _check(self, path: Path, is_awaited: Callable[[str], bool], now: float) -> None:
        verdict = path.clock.verdict(now, path.oldest())
        if verdict is Verdict.DEAD:
            if path.link.bytes_received == path.link_bytes_at_ping:
                self._link_is_silent(path.link)
            else:
                doubt = f"answered a ping, but cannot be believed ({printable(str(path.doubt))})" if path.doubt else ""
                self._events.path_dead(path, doubt or "the node did not answer a ping")
        elif verdict is Verdict.PING:
            self._pinger.ping(path, now)
            self._events.path_suspect(path)
        elif not path.trust.is_healthy:
            self._probe(path, is_awaited(path.node), now)
        else:
            self._pinger.look_around(path, now)

    def _probe(self, path: Path, is_awaited: bool, now: float) -> None:
        """Ask a dead path now and then whether it lives again, while somebody cares."""
        if now >= path.probe_at and path.link.is_usable and (is_awaited or now - path.used_at < SPARE_AFTER_S):
            self._pinger.ping(path, now)
            path.probe_at = now + (_AWAITED_PROBE_S if is_awaited else _PROBE_S)

    def _link_is_silent(self, link: Link) -> None:
        link.abort(self._silence)


AWAY = "no agent of the node consumes there"
