"""Connector: which brokers a Sender is connected to, and which it tries next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from servicebus.client.link import Link
from servicebus.configuration import Configuration
from servicebus.policy.paths import next_to_connect
from servicebus.transport.loop import EventLoop, Timer

SPARE_AFTER_S = 60.0
"""A connection to a less preferred broker is closed after being unused for so long."""


class Connector:
    """Connects when somebody waits, returns to preferred hosts, lets spare ones go. The engine's thread only.

    Args:
        is_awaited: whether any request waits for a path.
        is_owed: whether something is to be delivered that nobody waits for; no reason to hurry, but not to rest either.
    """

    def __init__(
        self,
        loop: EventLoop,
        config: Configuration,
        links: Sequence[Link],
        is_awaited: Callable[[], bool],
        is_owed: Callable[[], bool],
    ):
        self._loop = loop
        self._config = config
        self._links = links
        self._is_awaited = is_awaited
        self._is_owed = is_owed
        self._timer: Timer | None = None

    def connect_more(self, reverse: bool = False) -> None:
        """Start the next connection that is wanted: one host after another, ``connect_stagger`` apart.

        A backoff is for those who have something else. While a request waits, it is cut short: the broker may have come
        back just now, and the one that carried the traffic meanwhile may have died.
        """
        now = time.monotonic()
        for link in self._links:
            if link.is_wanted and link.can_start:
                link.connect(now)
        if self._timer is not None or not self._is_awaited():
            return
        order = self._links[::-1] if reverse else self._links
        index, again_s = next_to_connect(
            [link.can_start or link.can_hurry(now) for link in order],
            [link.connecting_since for link in order],
            now,
            self._config.connect_stagger,
        )
        if index is not None:
            self._pass_over(order[:index])
            order[index].connect(now)
        if any(link.can_start or link.is_pausing for link in order):
            self._timer = self._loop.call_later(again_s, lambda: self._connect_again(reverse))

    def failed(self, link: Link, now: float) -> None:
        """*link* went down: is it to come back by itself, and does somebody wait for another?"""
        link.is_wanted = self.is_in_use(now)
        self._forget_timer()  # what failed at once makes room for the next at once
        self.connect_more()

    def prepare_another(self, suspect: Link, now: float) -> None:
        """Connect to the next host while the suspect has time to answer, so that a failover finds it ready."""
        others = [link for link in self._links if link is not suspect]
        if not any(link.is_usable for link in others):
            for link in others:
                if link.can_start:
                    link.connect(now)
                    return

    def look_after(self, now: float) -> None:
        """Keep knocking at hosts that are preferred to the best one; close the ones that are spare."""
        best = self.best(now)
        if best is None:
            if self._is_owed():
                self._knock_everywhere(now)
            return
        rank = self._links.index(best)
        for index, link in enumerate(self._links):
            if index < rank and self.is_in_use(now):
                link.is_wanted = True
                if link.can_start:
                    link.connect(now)
            elif index > rank and link.is_spare(now, SPARE_AFTER_S):
                link.rest()

    def best(self, now: float) -> Link | None:
        """The link that the next request to any node would take; any thread may ask."""
        usable = [link for link in self._links if link.is_usable]
        for link in usable:
            if link.trust.has_earned(now, self._config.failback_after):
                return link
        return usable[0] if usable else None

    def is_in_use(self, now: float) -> bool:
        """Something was published lately; an idle Sender does not knock at dead brokers for ever."""
        return self._is_owed() or any(link.used_at and now - link.used_at < 2 * SPARE_AFTER_S for link in self._links)

    def _knock_everywhere(self, now: float) -> None:
        for link in self._links:
            link.is_wanted = True
            if link.can_start:
                link.connect(now)

    def _connect_again(self, reverse: bool) -> None:
        self._timer = None
        self.connect_more(reverse)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def _pass_over(links: Iterable[Link]) -> None:
        """A host that was too slow must prove itself before it is preferred again."""
        for link in links:
            link.is_wanted = True
            if not link.is_up and not link.trust.failed:
                link.trust.lose("too slow to connect")
