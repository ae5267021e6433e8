"""Complaints: log lines that a stranger could cause, one each, but never a flood; counters miss nothing."""

from __future__ import annotations

import time

from servicebus.transport.loggers import get_logger
from servicebus.wire.printable import printable

LOG = get_logger(__name__)

_PER_S = 5


class Complaints:
    """At most a few lines a second, each of them one line whatever it quotes. One thread."""

    def __init__(self, host_name: str):
        self._host_name = host_name
        self._second = 0.0
        self._logged = 0

    def log(self, text: str) -> None:
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._second, self._logged = now, 0
        self._logged += 1
        if self._logged <= _PER_S:
            LOG.warning("%s: %s", self._host_name, printable(text))
