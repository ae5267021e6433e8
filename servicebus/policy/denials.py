"""Denials: that a broker lets our user publish no messages, as far as it has said."""

from __future__ import annotations

HOLDS_S = 30.0
"""So long after a denial the broker is given no such message: each would cost the connection."""
DENIED = "refuses messages"
_NONE = (0.0, "")


class Denials:
    """Of one broker; for delayed messages, which go past the exchange, and for the others."""

    def __init__(self) -> None:
        self.known: dict[bool, tuple[float, str]] = {}

    def learn(self, why: str, now: float, *, is_delayed: bool) -> None:
        self.known[is_delayed] = now + HOLDS_S, why

    def why(self, now: float, *, is_delayed: bool) -> str:
        """Why the broker takes none now; empty if it does, as far as is known."""
        until, why = self.known.get(is_delayed, _NONE)
        return why if now < until else ""
