"""Pinger: pings over a path, and the pongs that prove the node behind it alive."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace

from servicebus.client.path import Path
from servicebus.client.version import Version
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.wire.envelope import make_id

_LATE_S = 5.0
"""A pong may come so much later than is waited for, and still shows that its path lives again."""


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping that nothing was heard of yet."""

    path: Path
    version: Version
    token: str
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
    """The path speaks another version than before: what waits may be tried again."""
    queue_made_at: float | None = None
    """The node's queue of calls is younger than this: what was sent before may be gone."""


class Pinger:
    """Belongs to the engine's thread. Pings have ids of their own, so that event ids count calls only."""

    def __init__(self, config: Configuration):
        self._timeout_s = config.path_ping_timeout
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
        self._send(path, path.version, now)

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
            pong = ping.version.read_pong(wire_id, ping.token, body)
        except EnvelopeError as error:
            ping.path.doubt = error
            return None
        del self._pending[wire_id]
        if not pong.takes_calls:
            return Finding(ping.path, is_alive=True, takes_calls=False)
        finding = self._ponged(ping, now)
        if finding is None or pong.queue_age_s is None:
            return finding
        return replace(finding, queue_made_at=now - pong.queue_age_s)

    def returned(self, wire_id: str, now: float) -> Finding | None:
        """What it shows that the ping *wire_id* came back unroutable; None if that was no ping, or settles nothing."""
        ping = self._pending.pop(wire_id, None)
        return self._came_back(ping, now) if ping is not None else None

    def _ponged(self, ping: Ping, now: float) -> Finding | None:
        return Finding(ping.path, is_alive=True)

    def _came_back(self, ping: Ping, now: float) -> Finding | None:
        return Finding(ping.path, is_alive=False)

    def _send(self, path: Path, version: Version, now: float, *, why: str = "", is_timed: bool = True) -> None:
        """Ping in *version*; *is_timed*: without an answer in time the path is dead."""
        wire_id = make_id(self._incarnation, next(self._count))
        token, parcel = version.ping(path.node, wire_id, self._timeout_s)
        self._pending[wire_id] = Ping(path, version, token, now + self._timeout_s, why)
        path.link.watch(path.node)
        if is_timed and path.clock.pinged_at is None:  # the time to answer runs from the first of several pings
            path.link_bytes_at_ping = path.link.bytes_received
            path.clock.pinged(now)
        path.link.publish_control(parcel, wire_id, int(self._timeout_s * 1000))
        if is_timed:
            path.link.ask_broker()  # so that silence afterwards is the broker's, or only the node's
