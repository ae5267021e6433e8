"""PingClock: when to ping, and when silence means death. Used for brokers, paths and workers alike."""

from __future__ import annotations

from enum import Enum


class PingAction(Enum):
    QUIET = "nothing to do"
    PING = "send a ping now"
    DEAD = "the ping was not answered in time"


class PingClock:
    """Decides from what was heard and asked. Not for several threads.

    A ping is due when something has been waited for longer than ``ping_after_s`` and nothing was heard for as long.
    The other side is dead when a ping stays unanswered for ``ping_timeout_s``, nothing else was heard either, and no
    bytes that stand before the answer have moved.
    """

    __slots__ = ("heard_at", "ping_after_s", "ping_timeout_s", "pinged_at")

    def __init__(self, ping_after_s: float, ping_timeout_s: float, now: float):
        self.ping_after_s = ping_after_s
        self.ping_timeout_s = ping_timeout_s
        self.heard_at = now
        self.pinged_at: float | None = None

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

    @property
    def due_at(self) -> float:
        """When there is something to do for one who always waits, if nothing is heard until then."""
        if self.pinged_at is not None:
            return self.pinged_at + self.ping_timeout_s
        return self.heard_at + self.ping_after_s

    def action(self, now: float, waiting_since: float | None) -> PingAction:
        """What to do now, when the oldest unanswered request dates from *waiting_since* (None: there is none)."""
        if self.pinged_at is not None:
            return PingAction.DEAD if now - self.pinged_at >= self.ping_timeout_s else PingAction.QUIET
        if waiting_since is None:
            return PingAction.QUIET
        silent_since = max(waiting_since, self.heard_at)
        return PingAction.PING if now - silent_since >= self.ping_after_s else PingAction.QUIET
