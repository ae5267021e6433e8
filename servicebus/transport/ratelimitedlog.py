"""RateLimitedLog: log lines that a stranger, a broker or a defect could cause in a flood. Counters miss nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Container

from servicebus.wire.printable import printable

__all__ = ["RateLimitedLog"]

_CAUSES = 256
"""More are never remembered: a stranger may choose what is logged."""


class RateLimitedLog:
    """Logs each cause at most *burst* times within *period_s* seconds. For any thread.

    Each line is one line, whatever it quotes. The first line of the next period says how many were left out.

    Args:
        name: what each line begins with, such as the host's name; none if it is empty.
    """

    def __init__(self, logger: logging.Logger, name: str = "", *, period_s: float = 1.0, burst: int = 5):
        self._logger = logger
        self._prefix = f"{name}: " if name else ""
        self._period_s = period_s
        self._burst = burst
        self._causes: dict[str, tuple[float, int]] = {}
        """When the period of each began, and how many lines it has had since, logged or not."""

    def __repr__(self) -> str:
        return f"<RateLimitedLog {self._prefix}{len(self._causes)} causes>"

    def warning(self, text: str, cause: str = "") -> bool:
        return self.log(logging.WARNING, text, cause)

    def log(self, level: int, text: str, cause: str = "", error: BaseException | None = None) -> bool:
        """Log *text*, with the traceback of *error*; returns whether it was."""
        now = time.monotonic()
        began_at, count = self._causes.get(cause, (now, 0))
        left_out = 0
        if now - began_at >= self._period_s:
            left_out = max(0, count - self._burst)
            began_at, count = now, 0
        if cause not in self._causes and len(self._causes) >= _CAUSES:
            self._causes.clear()
        self._causes[cause] = (began_at, count + 1)
        if count >= self._burst:
            return False
        more = f" ({left_out} more since the last line)" if left_out else ""
        self._logger.log(level, "%s%s%s", self._prefix, printable(text), more, exc_info=error)
        return True

    def forget(self, keep: Container[str] = ()) -> None:
        """All causes but those in *keep* are over: their next line is logged."""
        self._causes = {cause: since for cause, since in self._causes.items() if cause in keep}
