"""MemberRotation: which member of a cluster is dialled next, and for how long it may keep us waiting."""

from __future__ import annotations

__all__ = ["MemberRotation"]

FIRST_LIMIT_S = 0.5
"""A member that lives answers within milliseconds; the limit doubles with every round in which none of them did,
since on a busy machine all of them may be slow."""


class MemberRotation:
    """Counts round and round through the members of a host; one alone is always the same, with the whole limit."""

    def __init__(self, members: int):
        self._members = max(1, members)
        self._number = 0
        self._failures = 0

    def __repr__(self) -> str:
        return f"<MemberRotation {self.number} of {self._members}>"

    @property
    def number(self) -> int:
        """The member that is to be dialled now."""
        return self._number % self._members

    def limit_s(self, most_s: float) -> float:
        """How long the member may take to answer, at most *most_s*."""
        if self._members == 1:
            return most_s
        rounds = min(self._failures // self._members, 30)
        return min(most_s, FIRST_LIMIT_S * 2.0**rounds)

    def opened(self) -> None:
        """It answered."""
        self._failures = 0

    def lost(self) -> None:
        """It is gone, or did not answer: the next one's turn."""
        self._number += 1
        self._failures += 1
