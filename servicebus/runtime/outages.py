"""Outages: what keeps a worker from its broker, told once for each cause and every few minutes."""

from __future__ import annotations

import re
import time

from servicebus.transport.loggers import get_logger
from servicebus.wire.printable import printable

LOG = get_logger(__name__)

_AGAIN_S = 300.0
_FOR_THE_OPERATOR = ("credentials", "topology", "tls", "limits")
"""Kinds of failure that no waiting mends."""
_DIFFERS = re.compile(r"amq\.gen-[\w-]+|\d+")
"""What is another at each attempt: names of queues that the broker makes, counts, times."""


class Outages:
    """Those of one broker. One thread."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def tell(self, place: str, reason: str, kind: str) -> None:
        reason, cause, now = printable(reason), _cause(reason), time.monotonic()
        at = self._told.get(cause)
        if at is not None and now - at < _AGAIN_S:
            return
        self._told[cause] = now
        if kind in _FOR_THE_OPERATOR:
            LOG.error("%s: %s; trying again, the other hosts are served", place, reason)
        else:
            LOG.warning("%s: %s; reconnecting", place, reason)

    def end(self, lasting: str) -> None:
        """All of them are over but *lasting* (``""`` for none): the next one is told again."""
        lasting = _cause(lasting)
        self._told = {cause: at for cause, at in self._told.items() if cause == lasting}


def _cause(reason: str) -> str:
    return _DIFFERS.sub("#", printable(reason))
