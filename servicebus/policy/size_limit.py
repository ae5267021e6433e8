"""SizeLimit: the largest message that a broker takes. AMQP 0-9-1 does not announce it before a message is refused."""

from __future__ import annotations

_HOLDS_S = 300.0
"""Then it may have been raised: the next message that is larger finds out, for the price of a channel."""
TRACKED_BYTES = 65536
"""No smaller message is expected to be too large."""


class SizeLimit:
    """Of one broker, as far as it is known."""

    def __init__(self) -> None:
        self.tracked_bytes = TRACKED_BYTES
        """Of larger messages it has to be known which of them the broker has refused."""
        self._bytes: int | None = None
        self._learned_at = 0.0

    def __repr__(self) -> str:
        return f"<SizeLimit {self._bytes}>"

    def learn(self, limit_bytes: int | None, now: float) -> None:
        """The broker has refused a message; it takes those of *limit_bytes*, None if that is unknown.

        Args:
            now: ``time.monotonic()``.
        """
        self._bytes, self._learned_at = limit_bytes, now
        self.tracked_bytes = min(TRACKED_BYTES, limit_bytes or 0)

    def refuses(self, size: int, now: float) -> int | None:
        """The limit that a message of *size* bytes exceeds; None if it does not, as far as is known now."""
        limit = self._bytes
        return limit if limit is not None and size > limit and now - self._learned_at < _HOLDS_S else None
