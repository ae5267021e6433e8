"""LogReader: the rows of a log as its files hold them: those since a snapshot, since the last look, and of answers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from servicebus.runtime.journal import snapshot
from servicebus.runtime.journal.checkpointer import Checkpointer
from servicebus.runtime.journal.files import after_snapshot, found_files, found_pointer, opened
from servicebus.runtime.journal.interface import Damaged, refused
from servicebus.runtime.journal.records import place_of, segment_and_at
from servicebus.runtime.journal.segments import FIRST_AT, BadSegment, Segment, unpack_ends
from servicebus.runtime.journal.state import State
from servicebus.runtime.journal.write_lock import WriteLock

__all__ = ["LogEnd", "LogReader", "Row"]

T = TypeVar("T")

Row = tuple[int, int, bytes]
"""Its number (the first is 1, none is left out), its kind, its data. Of ANSWERS this ends with their place."""

_LAST = 2**63
_LOADS = 5
"""Rows are removed while we read the snapshot once in a while, and then it is read again."""


@dataclass(slots=True)
class LogEnd:
    """Where the next row goes, as far as we know."""

    rows: Segment
    seq: int
    """The last row."""
    at: int
    answers_first: int
    answers: Segment | None
    """Mapped when it is needed first."""
    answers_at: int


class LogReader:
    """For one thread. Every method may raise JournalUnavailable or Damaged, and has changed nothing then.

    Args:
        lock_wait_s: how long to wait while another process writes, which takes microseconds unless it is frozen.
        is_alone: no other process has the log open, or opens it.
    """

    def __init__(self, path: Path, lock_wait_s: float = 1.0, *, is_alone: bool):
        self._path = path
        files, header = self._on_files(lambda: found_files(path, is_alone=is_alone))
        self._pointer = self._on_files(lambda: found_pointer(files, header, is_alone=is_alone))
        self._lock = self._on_files(lambda: WriteLock(files.pointer, str(path), lock_wait_s))
        self._identity, self._rows, self._answers = files.identity, files.rows, files.answers
        self._end: LogEnd | None = None
        self._segment: Segment | None = None
        """Where we read, after row ``_seq``: the next one stands at ``_at``, if the segment is not full."""
        self._seq, self._at = 0, FIRST_AT
        self._answered: Segment | None = None
        """Where an answer was read last."""
        self.checkpointer = Checkpointer(files, self._pointer)

    def __repr__(self) -> str:
        return f"<Log {self._path}>"

    def read(self, after: int, before: int | None = None) -> list[Row] | None:
        """The rows between the two numbers. None: some of them may be gone, since we have not read for so long."""
        if self.checkpointer.damage:
            raise Damaged(str(self._path), self.checkpointer.damage)
        end = self._end
        if end is not None and end.seq == after:
            self._segment, self._seq, self._at = end.rows, after, end.at
        last = _LAST if before is None else before - 1
        with suppress(BadSegment, OSError):
            rows = self._read(after, last)
            if rows is not None:
                return rows
        # Some processors show the stores of another one in another order, but not to the holder of the lock. And a
        # writer that died may have made a segment larger: we see as much of it as there was when we opened it.
        self._lock.take()
        try:
            if self._segment is not None:
                self._segment = self._on_files(partial(opened, self._rows, self._segment.first))
            return self._on_files(lambda: self._read(after, last))
        finally:
            self._lock.drop()

    def answer_row(self, place: int) -> bytes | None:
        """The whole row of ANSWERS at that place; None if it is not there any more."""
        first, at = segment_and_at(place)
        if self._answered is None or self._answered.first != first:
            try:
                self._answered = self._on_files(lambda: self._answers.open(first))
            except Damaged:
                return None
        found = self._answered.find(at)
        return None if found is None else self._answered.data(found[2], found[3])

    def answer_rows(self, after: int, before: int) -> Iterator[tuple[int, int, bytes]]:
        """Number, place and data of all rows of ANSWERS that are there between the two."""
        _, _, last, ends = self._pointer.position()
        end, seq = unpack_ends(ends)[1], 0
        for first in self._on_files(self._answers.firsts):
            if first > last or first >= before:
                return
            try:
                segment = self._answers.open(first)
            except (FileNotFoundError, BadSegment):
                continue
            at = FIRST_AT
            # One that comes before those that were read is in a segment that was made and not used.
            while (first < last or at < end) and (found := segment.find(at)) is not None and found[0] > seq:
                seq, _, start, stop, following = found
                if after < seq < before:
                    yield seq, place_of(first, at), segment.data(start, stop)
                at = following

    def load(self) -> tuple[int, State, list[Row]]:
        """The last snapshot, the number of its last row, and all rows since."""
        for _ in range(_LOADS):
            header, state = self._on_files(lambda: snapshot.read(self._path))
            if header.identity != self._identity:
                raise Damaged(str(self._path), "was replaced while it was in use")
            self._seq = header.seq
            self._segment, self._at = self._on_files(partial(after_snapshot, self._rows, header))
            rows = self.read(header.seq)
            if rows is not None:
                return header.seq, state, rows
        raise Damaged(str(self._path), f"row {header.seq + 1} is gone")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _read(self, after: int, last: int) -> list[Row] | None:
        segment, seq, at = self._segment, self._seq, self._at
        if segment is None or seq > after:
            return None
        _, rows_first, _, ends = self._pointer.position()
        rows: list[Row] = []
        while True:
            find, data = segment.find, segment.data
            is_last = segment.first == rows_first
            last_at = unpack_ends(ends)[0] if is_last else segment.size
            while at <= last_at and seq < last:
                found = find(at)
                if found is None or found[0] != seq + 1:
                    break
                seq, kind, start, stop, at = found
                if seq > after:
                    rows.append((seq, kind, data(start, stop)))
            if seq >= last or (is_last and at > last_at):
                self._segment, self._seq, self._at = segment, seq, at
                return rows
            if is_last or segment.first > seq:
                raise BadSegment(f"row {seq + 1} is not where it should be")
            following = opened(self._rows, seq + 1)
            if following is None:
                return None
            segment, at = following, FIRST_AT

    def _on_files(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (BadSegment, OSError, struct.error) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise refused(self._path, error.strerror or str(error)) from error
            raise Damaged(str(self._path), str(error)) from error
