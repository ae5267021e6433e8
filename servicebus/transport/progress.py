"""Progress: whether the bytes that stand between a question to a broker and its answer are moving.

On a slow link an answer is late without anything being wrong: the question waits behind what was written before it, the
answer behind what the broker sent before it. The waiting time counts from the last byte that moved. What counts is only
what stands in the way: what is written after the question proves nothing (the kernel of a frozen broker takes it), nor
does what is received after the answer. Nor does a trickle for long: it leaves room for the answer. A proxy that
swallows what we write, and hands on the few deliveries that the broker still has for us, would else look alive until
these end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Counted(Protocol):
    """A connection that counts its bytes."""

    @property
    def bytes_received(self) -> int: ...
    @property
    def bytes_written(self) -> int: ...
    @property
    def bytes_acknowledged(self) -> int: ...


_LATENCY_S = 2.0
"""Both ways together: so long an answer may be on its way while few bytes move."""
_LEAST_RATE = 50_000
"""Bytes a second since the question: what a link that is full brings. A tenth of the rate that is promised to work."""


class Progress:
    """Of one connection. Belongs to its loop's thread.

    Args:
        ask: have the broker answer something, in order with everything else, and call the given function then.
    """

    def __init__(self, connection: Counted, ask: Callable[[Callable[[], None]], None]):
        self._connection = connection
        self._ask = ask
        self._is_owed = False
        self._asks_again = False
        self._position = 0
        self._seen = (0, 0)
        self._asked_at = 0.0
        self._seen_then = 0
        """The bytes of both ways, when the question was asked that is owed an answer."""

    def __repr__(self) -> str:
        return f"<Progress {'owed' if self._is_owed else 'answered'} position={self._position}>"

    def begin(self) -> None:
        """Ask the broker now, behind everything that was written before."""
        if self._is_owed:
            # Its answer will say nothing of what was written since the question: it is followed by another.
            self._asks_again = True
        else:
            self._is_owed = True
            self._asked_at = time.monotonic()
            self._seen_then = self._connection.bytes_received + self._connection.bytes_acknowledged
            self._ask(self._answered)
        self._position = self._connection.bytes_written
        self._seen = self._look()

    def has_moved(self) -> bool:
        """Whether bytes have moved since the last look, while the answer is owed: as many as keep it from coming."""
        if not self._is_owed:
            return False
        before, self._seen = self._seen, self._look()
        if before == self._seen:
            return False
        owed_s = time.monotonic() - self._asked_at
        return owed_s < _LATENCY_S or sum(self._seen) - self._seen_then >= _LEAST_RATE * owed_s

    def _look(self) -> tuple[int, int]:
        connection = self._connection
        return connection.bytes_received, min(connection.bytes_acknowledged, self._position)

    def _answered(self) -> None:
        self._is_owed = False
        if self._asks_again:
            self._asks_again = False
            self.begin()
