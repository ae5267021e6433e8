"""What the server refused, counted, and when the file shall say so. Pure; ``now`` is monotonic seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["Refusals"]

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 600.0


class Refusals:
    """Counts by reason. Its lines are rare, ever rarer while refusals go on, so that garbage cannot fill the disk."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._said: Counter[str] = Counter()
        self._say_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._last_from = ""
        self._said_pickled = False

    def count(self, reason: str, address: str) -> None:
        """One datagram from *address* (for a line: of the last one only) was refused."""
        self.counts[reason] += 1
        self._last_from = address

    def due_lines(self, now: float) -> list[str]:
        """What to write now, mostly nothing."""
        if now < self._say_at:
            return []
        news = self.counts - self._said
        if not news:
            self._pause_s = FIRST_PAUSE_S
            return []
        self._said = Counter(self.counts)
        self._say_at = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        lines = [f"refused {news.total()} datagrams ({listed(news)}), the last from {self._last_from}"]
        if news["pickled"] and not self._said_pickled:
            self._said_pickled = True
            lines.append(
                "pickled records of py-servicebus 2.x are refused by policy, because to unpickle is to run the sender's"
                " code; let that program call servicebus.logging_service.LoggingService.init_logging"
            )
        return lines


def listed(counts: Mapping[str, int]) -> str:
    """``signature=3, pickled=1``"""
    return ", ".join(f"{reason}={count}" for reason, count in sorted(counts.items()))
