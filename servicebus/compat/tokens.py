"""DailyTokens: the token of version 1, one value per secret and calendar day.

It is bound to no message and no node: who has seen one message can forge any until the day after tomorrow. The format
cannot be mended from one side, which is why ``compat`` is off by default.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import date, datetime, timedelta, tzinfo

from servicebus.configuration.values import Secret

__all__ = ["DailyTokens"]

_DAYS = (-1, 0, 1)


class DailyTokens:
    """Makes and checks tokens. For any thread.

    Args:
        secrets: the first makes, all check.
        zone: where the day begins; None for the zone of this machine, as in 2.x.
    """

    def __init__(self, secrets: Sequence[str], zone: tzinfo | None = None):
        self._secrets = tuple(map(Secret, secrets))
        self._zone = zone

    def __repr__(self) -> str:
        return f"<DailyTokens of {len(self._secrets)} secrets, day of {self._zone or 'this machine'}>"

    def make(self, now: float) -> str:
        """The token of the day of *now* (Unix time, seconds)."""
        return _token(self._secrets[0].reveal(), self._day(now))

    def accepts(self, token: str, now: float) -> bool:
        """Whether *token* is of yesterday, today or tomorrow. Takes the same time whatever it is."""
        given = token.encode("utf-8", "surrogatepass")
        day = self._day(now)
        is_known = False
        for secret in self._secrets:
            for step in _DAYS:
                wanted = _token(secret.reveal(), day + timedelta(days=step))
                is_known |= hmac.compare_digest(given, wanted.encode())
        return is_known

    def _day(self, now: float) -> date:
        return datetime.fromtimestamp(now, self._zone).date()


def _token(secret: str, day: date) -> str:
    # Says nothing for SHA-1: it is what the other side computes, and must work where it is forbidden for security.
    return hashlib.sha1(f"{secret} - {day.isoformat()}".encode(), usedforsecurity=False).hexdigest()
