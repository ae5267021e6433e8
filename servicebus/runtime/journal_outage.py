"""JournalOutage: since when the journal can be neither asked nor told, and why."""

from __future__ import annotations

import time

from servicebus.errors import JournalUnavailable

__all__ = ["JournalOutage"]

_HOLD_S = 1.0
"""A worker that is frozen while it writes, or a slow disk, passes sooner: calls wait for that."""
_LINGER_S = 5.0


class JournalOutage:
    """Belongs to the thread that turns the loop; ``reason`` is for all threads."""

    def __init__(self) -> None:
        self.reason = ""
        """Why it cannot be asked, as far as we know; empty if it can."""
        self._since = self._last = 0.0

    def __repr__(self) -> str:
        return f"<JournalOutage {self.reason!r}>"

    def failed(self, error: JournalUnavailable) -> None:
        self._last = time.monotonic()
        if not self.reason:
            self._since = self._last
        self.reason = str(error)

    def over(self) -> None:
        self.reason = ""

    @property
    def is_long(self) -> bool:
        """Calls are told, instead of held."""
        return bool(self.reason) and time.monotonic() - self._since >= _HOLD_S

    @property
    def may_be_over(self) -> bool:
        """Nothing has failed for a while."""
        return bool(self.reason) and time.monotonic() - self._last >= _LINGER_S
