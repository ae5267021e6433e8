"""The records of one process that wait for their turn on the log channel, and their numbers."""

from __future__ import annotations

import logging
from collections import deque

from servicebus.wire.logrecord import Record

__all__ = ["Backlog"]

RECORD_OVERHEAD = 100
"""Bytes that a record needs beside its message, about."""
HEAVY_BYTES = 8_000
LONG_BYTES = 32_000


class Backlog:
    """A bounded queue: any one thread at a time puts (the handler's lock sees to that), and any one at a time takes.

    Records below WARNING find it full at *max_records* or *max_bytes*; those at WARNING and above at twice as much,
    so that a flood of chatter leaves room for what matters. What finds it full is dropped and counted: a caller never
    waits.
    """

    def __init__(self, max_records: int, max_bytes: int):
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._queue: deque[Record] = deque()
        # Each counter has one writer, so that neither side needs a lock.
        self.bytes_in = 0
        self._bytes_out = 0
        self.accepted = 0
        self.dropped = 0
        self.taken = 0
        self._dropped_numbered = 0
        self.next_number = 1
        """The number of the next record that is taken, if nothing is dropped before."""

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, record: Record) -> bool:
        """Append, or count as dropped and give False."""
        factor = 2 if record.level >= logging.WARNING else 1
        queued = self.bytes_in - self._bytes_out
        if len(self._queue) >= self._max_records * factor or queued >= self._max_bytes * factor:
            self.dropped += 1
            return False
        self.bytes_in += len(record.message) + RECORD_OVERHEAD
        self._queue.append(record)
        self.accepted += 1
        return True

    def count_dropped(self) -> None:
        """Count a record that never became one."""
        self.dropped += 1

    @property
    def has_news(self) -> bool:
        """Whether there are records to take, or drops that were not reported to the server."""
        return bool(self._queue) or self.dropped != self._dropped_numbered

    @property
    def is_heavy(self) -> bool:
        """Whether as much waits as fills a datagram, so that waiting for more gains nothing."""
        return self.bytes_in - self._bytes_out >= HEAVY_BYTES

    @property
    def starts_long(self) -> bool:
        """Whether the next record alone is so long that packing it could take a caller's millisecond."""
        try:
            return len(self._queue[0].message) > LONG_BYTES
        except IndexError:  # taken this moment
            return False

    def take(self, max_bytes: int) -> tuple[int, list[Record]]:
        """The first number and the records of the next batch: at least one, and as many as have about *max_bytes*.

        Dropped records take up numbers too: the gap that they leave before this batch is how the server counts them.
            With nothing
        queued the batch is empty, and its number shows what was dropped.
        """
        dropped = self.dropped
        self.next_number += dropped - self._dropped_numbered
        self._dropped_numbered = dropped
        first = self.next_number
        records: list[Record] = []
        size = 0
        queue = self._queue
        while queue:
            need = len(queue[0].message) + RECORD_OVERHEAD
            if records and size + need > max_bytes:
                break
            records.append(queue.popleft())
            size += need
        self._bytes_out += size
        self.taken += len(records)
        self.next_number += len(records)
        return first, records
