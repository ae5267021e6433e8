"""Log: what the shared journal asks of its store: rows in one order for all, and the state that they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.runtime.journal.ledger import Changes, Entry
from servicebus.runtime.journal.records import Compaction

__all__ = ["Damaged", "Log", "Row", "Saved"]

Row = tuple[int, int, bytes]
"""Its number (the first is 1, none is left out), its kind, its data; of ANSWERS what is read of many may end before the
answers."""


class Damaged(JournalUnavailable):
    """Raised when what is stored makes no sense: asking again does not help."""


class Saved(NamedTuple):
    """A state, and the rows that are still there: those up to *seq* are part of the state."""

    seq: int
    compaction: Compaction
    forgotten: int
    forgotten_answers: int
    chunks: Iterable[tuple[int, int, int, int]]
    entries: Iterable[tuple[int, Entry]]
    rows: Iterable[Row]


class Log(Protocol):
    """Any process may append at any time; a row is there as a whole or not at all, even when its writer is killed.

    For one thread. Every method may raise JournalUnavailable, and has changed nothing then.
    """

    def append(self, kind: int, data: bytes) -> int:
        """Add a row; gives its number."""

    def append_both(self, first: tuple[int, bytes], second: tuple[int, bytes]) -> int:
        """Add two rows, one next to the other, both or none; gives the number of the second."""

    def read(self, after: int, before: int | None = None) -> list[Row]:
        """The rows between the two numbers that are still there."""

    def data(self, seq: int) -> bytes | None:
        """What stands in a row of ANSWERS, as a whole; None if it was deleted."""

    def transaction(self) -> AbstractContextManager[None]:
        """Nobody else appends meanwhile; what was written is there as a whole, or not at all if an error leaves it."""

    def save(self, seq: int, compaction: Compaction, changes: Changes, totals: tuple[int, int]) -> None:
        """In a transaction: the state after row *seq*. What *compaction* says is deleted then, or soon.

        Args:
            totals: ids and answers that were ever forgotten early.
        """

    def load(self) -> Saved:
        """The state that was saved last, and the rows, as of one moment."""

    def new_owner(self) -> int:
        """A number that no worker had before."""

    def checkpoint_soon(self) -> None:
        """Now is a good time to bring to the disk what was written; never blocks."""

    def close(self) -> None:
        """Idempotent."""
