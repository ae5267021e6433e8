"""Acks: what is acknowledged on a channel, in as few frames as may be.

A broker settles a hundred deliveries by one frame (``multiple``) much cheaper than one by one; but such a frame settles
every delivery up to its tag, so it may only reach as far as nothing older is still at work.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Acks"]


class Acks:
    """Of one channel. Tags grow with each delivery (AMQP 0-9-1, 4.7)."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        """At work, or acknowledged since the last frames: bounded by the prefetch."""
        self.delivered: Callable[[int], None] = self._open.add
        """Tells that a tag has to be acknowledged, or rejected, some day."""

    def __repr__(self) -> str:
        return f"<Acks {len(self._open)} at work>"

    @property
    def at_work(self) -> int:
        """Deliveries that are not settled."""
        return len(self._open)

    def settled_otherwise(self, tag: int) -> None:
        """*tag* was settled in another way."""
        self._open.discard(tag)

    def frames(self, acked: list[int]) -> list[tuple[int, bool]]:
        """``(tag, multiple)`` for each frame that acknowledges *acked*, but for those that are settled already."""
        still_open, fresh = self._open, []
        for tag in acked:
            if tag in still_open:  # twice, and the broker would close the channel
                still_open.discard(tag)
                fresh.append(tag)
        if len(fresh) > 1:
            oldest = min(still_open) if still_open else max(fresh) + 1
            together = [tag for tag in fresh if tag < oldest]
            if len(together) > 1:
                # Its own tag must be one that is not acknowledged yet, or the broker closes the channel.
                return [(max(together), True), *((tag, False) for tag in fresh if tag > oldest)]
        return [(tag, False) for tag in fresh]
