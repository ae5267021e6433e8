"""PingClock: when to ping, when an answer is late, when silence means death. Used for brokers, paths and workers."""

from __future__ import annotations

from enum import Enum

_LATE_S = 0.2
"""No ping is late before: where the machine is busy, a thread may wait so long for its turn."""
_LATE_ROUND_TRIPS = 4
_HALVES_AFTER_S = 10.0
"""Of a round trip that was longer than those after it."""


class PingAction(Enum):
    QUIET = "nothing to do"
    PING = "send a ping now"
    SUSPECT = "the answer to the ping is late"
    DEAD = "the ping was not answered in time"


class RoundTrip:
    """How long pings have taken lately. Not for several threads."""

    __slots__ = ("_at", "_longest_s")

    def __init__(self) -> None:
        self._longest_s = self._at = 0.0

    def __repr__(self) -> str:
        return f"<RoundTrip {self._longest_s:.3f} s>"

    def took(self, seconds: float, now: float) -> None:
        self._longest_s, self._at = max(seconds, self._lately(now)), now

    def late_after_s(self, now: float) -> float:
        """An answer that takes so long is suspicious."""
        return max(_LATE_S, _LATE_ROUND_TRIPS * self._lately(now))

    def _lately(self, now: float) -> float:
        return float(self._longest_s * 0.5 ** ((now - self._at) / _HALVES_AFTER_S))


class PingClock:
    """Decides from what was heard and asked. Not for several threads.

    A ping is due when something has been waited for longer than ``ping_after_s`` and nothing was heard for as long.
    The other side is dead when a ping stays unanswered for ``ping_timeout_s``, nothing else was heard either, and no
    bytes that stand before the answer have moved. Long before, it is suspect: the answer has taken a few times as long
    as pings have taken lately. That must be seen twice: between two looks the sockets are read, so that a process which
    was itself asleep for a while does not take what it has not read yet for late.
    """

    __slots__ = ("_is_late", "heard_at", "ping_after_s", "ping_timeout_s", "pinged_at", "round_trip")

    def __init__(self, ping_after_s: float, ping_timeout_s: float, now: float):
        self.ping_after_s = ping_after_s
        self.ping_timeout_s = ping_timeout_s
        self.heard_at = now
        self.pinged_at: float | None = None
        self.round_trip = RoundTrip()
        self._is_late = False

    def __repr__(self) -> str:
        return f"<PingClock heard_at={self.heard_at:.3f} pinged_at={self.pinged_at}>"

    def heard(self, now: float) -> None:
        self.heard_at = now
        self.pinged_at = None

    def moved(self, now: float) -> None:
        """The answer is on its way: bytes that stand before it have moved. The time to answer runs from now."""
        if self.pinged_at is not None:
            self.pinged_at = now

    def pinged(self, now: float) -> None:
        self.pinged_at = now
        self._is_late = False

    @property
    def due_at(self) -> float:
        """When there is something to do for one who always waits, if nothing is heard until then."""
        if self.pinged_at is not None:
            return self.pinged_at + self.ping_timeout_s
        return self.heard_at + self.ping_after_s

    def action(self, now: float, waiting_since: float | None) -> PingAction:
        """What to do now, when the oldest unanswered request dates from *waiting_since* (None: there is none)."""
        if self.pinged_at is not None:
            return self._silent_for(now - self.pinged_at, now)
        if waiting_since is None:
            return PingAction.QUIET
        silent_since = max(waiting_since, self.heard_at)
        return PingAction.PING if now - silent_since >= self.ping_after_s else PingAction.QUIET

    def _silent_for(self, seconds: float, now: float) -> PingAction:
        if seconds >= self.ping_timeout_s:
            return PingAction.DEAD
        was_late, self._is_late = self._is_late, seconds >= self.round_trip.late_after_s(now)
        return PingAction.SUSPECT if was_late and self._is_late else PingAction.QUIET
