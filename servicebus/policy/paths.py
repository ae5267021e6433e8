"""Which broker a call should travel over: the health of hosts and of paths, a path being (broker, node).

A host or path that failed is not stable before it has been healthy for ``failback_after_s``: a broker that flaps would
otherwise take every caller along each time. One that is not stable is still used when there is nothing better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar


class Health:
    """Whether a host or a path works, and since when."""

    __slots__ = ("failed", "healthy_since", "is_healthy", "is_suspect", "reason")

    def __init__(self) -> None:
        self.failed = False
        """And was not healthy for long enough since."""
        self.is_healthy = True
        """Not failed, or working again since."""
        self.is_suspect = False
        """Nothing proves that it failed, but others are better until it is heard again."""
        self.healthy_since: float | None = None
        self.reason = ""

    def __repr__(self) -> str:
        return f"<Health failed={self.failed} healthy_since={self.healthy_since} {self.reason}>"

    def fail(self, reason: str) -> None:
        self.failed = True
        self.is_healthy = self.is_suspect = False
        self.healthy_since = None
        self.reason = reason

    def suspect(self) -> None:
        """It may have failed: until it is heard it is used where there is nothing else."""
        self.is_suspect = self.is_healthy

    def heard(self) -> None:
        """It has not failed."""
        self.is_suspect = False

    def recover(self, now: float) -> None:
        """It works. The first such moment after a failure starts the time it must stay healthy."""
        self.is_suspect = False
        if not self.is_healthy:
            self.is_healthy = True
            self.healthy_since = now

    def is_stable(self, now: float, failback_after_s: float) -> bool:
        """Whether it never failed, or has been healthy for long enough. Changes nothing, so any thread may ask."""
        if self.is_suspect:
            return False
        healthy_since = self.healthy_since
        return not self.failed or (healthy_since is not None and now - healthy_since >= failback_after_s)

    def restored(self, now: float, failback_after_s: float) -> bool:
        """As ``is_stable()``; once it is stable, an earlier failure is forgotten."""
        if not self.is_stable(now, failback_after_s):
            return False
        if self.failed:
            self.failed = False
            self.healthy_since = None
            self.reason = ""
        return True


class Candidate(NamedTuple):
    """One host as the choice sees it."""

    is_usable: bool
    """Connected, not blocked, not excluded for this request."""
    is_stable: bool
    path_is_healthy: bool
    path_is_stable: bool
    is_suspect: bool = False
    """The host or the path."""


Host = TypeVar("Host")


def choose(hosts: Iterable[Host], look: Callable[[Host], Candidate]) -> Host | None:
    """The best host in order of preference: stable ones first, then recovered ones, then suspect ones.

    None when no path is healthy.
    """
    recovered: Host | None = None
    suspect: Host | None = None
    for host in hosts:
        seen = look(host)
        if not (seen.is_usable and seen.path_is_healthy):
            continue
        if seen.is_suspect:
            suspect = host if suspect is None else suspect
        elif seen.is_stable and seen.path_is_stable:
            return host
        elif recovered is None:
            recovered = host
    return suspect if recovered is None else recovered


def next_to_connect(
    idle: Sequence[bool], connecting_since: Sequence[float | None], now: float, stagger_s: float
) -> tuple[int | None, float]:
    """Which host to start connecting to now, and after how many seconds to ask again.

    Hosts are started in order, each ``stagger_s`` after the one before, so that a host that swallows packets, or
    accepts and never answers, costs a caller no more than that. A host that failed at once (*idle* again and due
    later) is passed over at once.

    Args:
        idle: per host, may it be started now (not connected, not connecting, its backoff over)?
        connecting_since: per host, when its current attempt began, or None.
    """
    youngest = max((since for since in connecting_since if since is not None), default=None)
    # By the time at which it is due, so that a timer set for the rest brings it: a difference may be less than a clock
    # can tell, and the timer would come at once, again and again.
    if youngest is not None and now < (due := youngest + stagger_s):
        return None, due - now
    for index, is_idle in enumerate(idle):
        if is_idle:
            return index, stagger_s
    return None, stagger_s
