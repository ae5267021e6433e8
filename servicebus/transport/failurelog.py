"""FailureLog: what raised in code of ours, counted, and logged with its traceback, but never in a flood."""

from __future__ import annotations

import logging

from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog

LOG = get_logger(__name__)

__all__ = ["FailureLog"]


class FailureLog:
    """Those of one loop. May be used by any thread."""

    def __init__(self, name: str):
        self.count = 0
        """All of them, logged or not."""
        self._name = name
        self._log = RateLimitedLog(LOG, name, period_s=10.0, burst=3)

    def __repr__(self) -> str:
        return f"<FailureLog {self._name} {self.count}>"

    def report(self, what: str, error: BaseException) -> None:
        """Count *error*, which ended *what* and nothing else; log it unless *what* fails often."""
        self.count += 1
        self._log.log(logging.ERROR, f"{what} failed", what, error)
