"""FailureLog: what raised in code of ours, counted, and logged with its traceback, but never in a flood."""

from __future__ import annotations

import time
from contextlib import suppress

from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["FailureLog"]

_PERIOD_S = 10.0
_PER_PERIOD = 3
_PLACES = 256


class FailureLog:
    """Those of one loop. May be used by any thread."""

    def __init__(self, name: str):
        self.count = 0
        """All of them, logged or not."""
        self._name = name
        self._places: dict[str, tuple[float, int]] = {}
        """When the period of each began, and how often it has failed since."""

    def __repr__(self) -> str:
        return f"<FailureLog {self._name} {self.count}>"

    def report(self, what: str, error: BaseException) -> None:
        """Count *error*, which ended *what* and nothing else; log it unless *what* fails often."""
        self.count += 1
        now = time.monotonic()
        began_at, times = self._places.get(what, (now, 0))
        unlogged = 0
        if now - began_at >= _PERIOD_S:
            began_at, times, unlogged = now, 0, max(0, times - _PER_PERIOD)
        if len(self._places) >= _PLACES:
            self._places.clear()
        self._places[what] = (began_at, times + 1)
        if times < _PER_PERIOD:
            with suppress(Exception):  # a filter or a handler of the program's
                since = f" ({unlogged} times more since the last report)" if unlogged else ""
                LOG.error("%s: %s failed%s", self._name, what, since, exc_info=error)
