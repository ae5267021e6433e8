"""OutageLog: what keeps a worker from its broker, told once for each cause and every few minutes."""

from __future__ import annotations

import logging
import re

from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.printable import printable

LOG = get_logger(__name__)

_FOR_THE_OPERATOR = ("credentials", "topology", "tls", "limits")
"""Kinds of failure that no waiting mends."""
_DIFFERS = re.compile(r"amq\.gen-[\w-]+|\d+")
"""What is another at each attempt: names of queues that the broker makes, counts, times."""


class OutageLog:
    """Those of one broker. One thread."""

    def __init__(self) -> None:
        self._log = RateLimitedLog(LOG, period_s=300.0, burst=1)

    def tell(self, place: str, reason: str, kind: str) -> None:
        if kind in _FOR_THE_OPERATOR:
            level, doing = logging.ERROR, "trying again, the other hosts are served"
        else:
            level, doing = logging.WARNING, "reconnecting"
        self._log.log(level, f"{place}: {reason}; {doing}", _cause(reason))

    def end(self, lasting: str) -> None:
        """All of them are over but *lasting* (``""`` for none): the next one is told again."""
        self._log.forget(keep=(_cause(lasting),))


def _cause(reason: str) -> str:
    return _DIFFERS.sub("#", printable(reason))
