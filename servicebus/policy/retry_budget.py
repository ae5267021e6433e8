"""How often calls may be sent again, so that a broken service is not hammered by those who wait for it.

A budget grows with what is going well, and is used up by what is sent again, both counted in a sliding window. The
floor is for the quiet: a program that makes one call a minute may still send it again.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
_MARKS_PER_WINDOW = 10
_LONGEST_BUSY_PAUSE_S = 2.0


class RetryBudget:
    """At most *floor* plus *ratio* times the growth of a total, in any *window_s*. Not for several threads."""

    __slots__ = ("_floor", "_marks", "_ratio", "_taken", "_window_s")

    def __init__(self, ratio: float, floor: int, window_s: float = WINDOW_S):
        self._ratio = ratio
        self._floor = floor
        self._window_s = window_s
        self._marks: deque[tuple[float, int]] = deque()
        self._taken: deque[float] = deque()

    def __repr__(self) -> str:
        return f"<RetryBudget {len(self._taken)} taken of {self._floor} and {self._ratio:g} per call>"

    def observe(self, now: float, total: int) -> None:
        """*total* calls have been made (or answered) up to *now*. Call it about once a second."""
        if not self._marks or now - self._marks[-1][0] >= self._window_s / _MARKS_PER_WINDOW:
            self._marks.append((now, total))
        begin = now - self._window_s
        while len(self._marks) > 1 and self._marks[1][0] <= begin:  # the first is the one at the window's edge
            self._marks.popleft()
        while self._taken and self._taken[0] <= begin:
            self._taken.popleft()

    def take(self, now: float, total: int) -> bool:
        """Whether one more may be sent again now; if so it is counted."""
        self.observe(now, total)
        if len(self._taken) + 1 > self._floor + self._ratio * (total - self._marks[0][1]):
            return False
        self._taken.append(now)
        return True

    def is_in_use(self, now: float) -> bool:
        """Whether any was sent again within the window that ends *now*."""
        return bool(self._taken) and self._taken[-1] > now - self._window_s


def busy_pause_s(hint_s: float, refusals: int, jitter: float) -> float:
    """How long to stay away from a service that was busy *refusals* times; *jitter* is a random number from 0 to 1.

    About twice as long each time, never shorter than what the node says, and not for all the same.
    """
    full_s = min(max(hint_s, _LONGEST_BUSY_PAUSE_S), hint_s * 2.0 ** min(refusals - 1, 16))
    shortest_s, longest_s = max(hint_s, full_s / 2), max(full_s, 1.5 * hint_s)
    return shortest_s + jitter * (longest_s - shortest_s)
