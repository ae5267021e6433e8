"""RelayQueue: log records that one process of an agent hands to another, by a pipe that neither waits for."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from servicebus.protocol.tail import TailedRecord, as_row
from servicebus.wire.logrecord import cut_message

__all__ = ["MOST_LINE_BYTES", "RelayQueue"]

MOST_LINE_BYTES = 4096
"""PIPE_BUF: a line that is not longer is written as a whole, or not at all."""
_MESSAGE_BYTES = 2048
_MOST_RECORDS = 500
_AT_ONCE = 100

Write = Callable[[dict[str, Any]], bool]
"""Writes one line; False if it cannot be written now."""


class RelayQueue:
    """``put()`` is for any thread, ``send()`` for one."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Sequence[str], TailedRecord]] = deque()
        self._left_out = 0

    def __repr__(self) -> str:
        return f"<RelayQueue {len(self._waiting)} records>"

    def put(self, tails: Sequence[str], record: TailedRecord) -> None:
        """Send *record* to the readers *tails*."""
        if len(self._waiting) < _MOST_RECORDS:
            self._waiting.append((tails, record))
        else:
            self._left_out += 1

    def send(self, write: Write) -> None:
        """Write what waits, as far as that is possible."""
        for _ in range(_AT_ONCE):
            if not self._waiting:
                return
            tails, record = self._waiting[0]
            if self._left_out:
                text = f"{self._left_out} log records before this one were left out"
                record = record._replace(message=f"({text})\n{record.message}")
            if not write(_line(tails, record)):
                return
            self._waiting.popleft()
            self._left_out = 0


def _line(tails: Sequence[str], record: TailedRecord) -> dict[str, Any]:
    """It as an object that is short enough as JSON."""
    most_bytes = _MESSAGE_BYTES
    while True:
        told = {"log": {"for": tails, "row": as_row(record._replace(message=cut_message(record.message, most_bytes)))}}
        if len(json.dumps(told)) < MOST_LINE_BYTES or most_bytes < 16:
            return told
        most_bytes //= 2
