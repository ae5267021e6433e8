"""Which broker a call should travel over: trust in hosts and in paths, a path being (broker, node).

A host or path that failed is not trusted again before it was healthy for ``failback_after_s``: a broker that flaps
would otherwise take every caller along each time. An untrusted one is still used when there is nothing better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar


class Trust:
    """Whether something that failed has earned its place back."""

    __slots__ = ("failed", "healthy_since", "reason")

    def __init__(self) -> None:
        self.failed = False
        self.healthy_since: float | None = None
        self.reason = ""

    def __repr__(self) -> str:
        return f"<Trust failed={self.failed} healthy_since={self.healthy_since} {self.reason}>"

    @property
    def is_healthy(self) -> bool:
        """Not failed, or working again since."""
        return not self.failed or self.healthy_since is not None

    def lose(self, reason: str) -> None:
        self.failed = True
        self.healthy_since = None
        self.reason = reason

    def recover(self, now: float) -> None:
        """It works. The first such moment after a failure starts the time it must stay healthy."""
        if self.failed and self.healthy_since is None:
            self.healthy_since = now

    def has_earned(self, now: float, failback_after_s: float) -> bool:
        """Whether ``is_trusted()`` would say so. Changes nothing, so any thread may ask."""
        healthy_since = self.healthy_since
        return not self.failed or (healthy_since is not None and now - healthy_since >= failback_after_s)

    def is_trusted(self, now: float, failback_after_s: float) -> bool:
        """Whether it never failed or has earned its place back; what happened before is forgotten then."""
        if not self.has_earned(now, failback_after_s):
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
    is_trusted: bool
    path_is_healthy: bool
    path_is_trusted: bool


Host = TypeVar("Host")


def choose(hosts: Iterable[Host], look: Callable[[Host], Candidate]) -> Host | None:
    """The best host in order of preference: trusted ones first, then recovered ones; None when no path is healthy."""
    fallback: Host | None = None
    for host in hosts:
        seen = look(host)
        if not (seen.is_usable and seen.path_is_healthy):
            continue
        if seen.is_trusted and seen.path_is_trusted:
            return host
        if fallback is None:
            fallback = host
    return fallback


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
    if youngest is not None and now - youngest < stagger_s:
        return None, stagger_s - (now - youngest)
    for index, is_idle in enumerate(idle):
        if is_idle:
            return index, stagger_s
    return None, stagger_s
