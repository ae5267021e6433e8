"""Attendance: whether each lane of the node has as many consumers as the others. Pure.

A worker consumes each queue of its node once. Several workers share the queues, so a consumer that a broker has
forgotten is not missed by a look at its queue alone; but then that queue has fewer consumers than the others.
"""

from __future__ import annotations

from collections.abc import Mapping


class Attendance:
    """Compares looks; one thread."""

    def __init__(self) -> None:
        self._short: frozenset[str] = frozenset()

    def look(self, consumers: Mapping[str, int]) -> frozenset[str]:
        """The lanes that were short in this look and in the one before.

        Twice, because a worker that starts or stops just now is in some of them only.

        Args:
            consumers: of each lane, by its name; of a lane with several queues those of the queue with the fewest.
        """
        most = max(consumers.values(), default=0)
        short = frozenset(lane for lane, count in consumers.items() if count < most)
        confirmed, self._short = short & self._short, short
        return confirmed

    @property
    def is_in_doubt(self) -> bool:
        """The last look found a lane short: look again soon."""
        return bool(self._short)
