"""Log: the rows of the shared journal in files that all workers of one machine have mapped into memory.

Any process may append at any time. A row costs two system calls, for the lock, and a few stores: the kernel has it
then, so no death of a process loses it. The stream ``rows`` has all rows, and is needed until a snapshot contains them;
``answers`` has rows with answers, and is needed for as long as these are kept: in ``rows`` their place stands instead.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from servicebus.runtime.journal import snapshot
from servicebus.runtime.journal.checkpointer import Checkpointer
from servicebus.runtime.journal.files import after_snapshot, found_files, found_pointer, opened
from servicebus.runtime.journal.interface import Damaged, refused
from servicebus.runtime.journal.ledger import State
from servicebus.runtime.journal.records import AT_BITS, RowKind, located, place_of, segment_and_at
from servicebus.runtime.journal.segments import (
    END_BITS,
    FIRST_AT,
    ROW_UNIT,
    SELECTOR,
    BadSegment,
    Position,
    Segment,
    Stream,
    unpack_ends,
)
from servicebus.runtime.journal.snapshot import Header
from servicebus.runtime.journal.write_lock import WriteLock

__all__ = ["Log", "Row"]

T = TypeVar("T")

Row = tuple[int, int, bytes]
"""Its number (the first is 1, none is left out), its kind, its data; of ANSWERS ``located``."""

_ANSWERS = int(RowKind.ANSWERS)
_LAST = 2**63
_LOADS = 5
"""Rows are removed while we read the snapshot once in a while, and then it is read again."""


@dataclass(slots=True)
class _End:
    """Where the next row goes, as far as we know."""

    rows: Segment
    seq: int
    """The last row."""
    at: int
    answers_first: int
    answers: Segment | None
    """Mapped when it is needed first."""
    answers_at: int


class Log:
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
        self._words = self._pointer.words
        self._identity, self._rows, self._answers = files.identity, files.rows, files.answers
        self._end: _End | None = None
        self._selector = self._published = self._ends_index = -1
        """What ``_end`` was taken from: the end offsets of that copy, and where they stand in ``_words``."""
        self._segment: Segment | None = None
        """Where we read, after row ``_seq``: the next one stands at ``_at``, if the segment is not full."""
        self._seq, self._at = 0, FIRST_AT
        self._answered: Segment | None = None
        """Where an answer was read last."""
        self.place = 0
        """Of the answers that we wrote last (``records.place_of``)."""
        self.checkpointer = Checkpointer(files, self._pointer)

    def __repr__(self) -> str:
        return f"<Log {self._path}>"

    def append(self, *added: tuple[int, bytes]) -> int:
        """Add rows (kind, data), one next to the other, all or none; returns the number of the last one."""
        lock = self._lock
        try:
            lock.take_free()  # as take() does, without the call
        except (OSError, ValueError) as error:
            lock.wait(error)
        lock.since = 0.0
        try:
            words = self._words
            if words[SELECTOR] != self._selector or words[self._ends_index] != self._published:
                self._end = self._on_files(self._found_end)
            return self._write(added)
        finally:
            lock.drop()

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

    def checkpoint(self, applied: int, state: Callable[[], State], answers_from: int | None) -> None:
        """Have the disk brought up to date; never blocks.

        Args:
            state: returns what all rows up to *applied* add up to; called if a snapshot is due.
            answers_from: the place of the oldest answer that is kept; None if none is.
        """
        last = self._pointer.position()[2]
        self.checkpointer.answers_from = last if answers_from is None else segment_and_at(answers_from)[0]
        if self.checkpointer.wants_state:
            end, place = self._end, None
            if end is not None and end.seq == applied:
                place = end.rows.first, end.at
            elif self._segment is not None and self._seq == applied:
                place = self._segment.first, self._at
            if place is not None:
                self.checkpointer.hand_over(Header(self._identity, applied, *place), state())
        self.checkpointer.ask()

    def close(self) -> None:
        """Idempotent."""
        self.checkpointer.close()
        self._lock.close()

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self, added: Sequence[tuple[int, bytes]]) -> int:
        end = self._end
        assert end is not None
        rows, seq, next_at, at = end.rows, end.seq, end.at, 0
        answers, answers_first, answers_at, place = end.answers, end.answers_first, end.answers_at, self.place
        for kind, data in added:
            seq += 1
            if kind == _ANSWERS:
                answers, at, answers_at = self._put_answers(answers, answers_first, answers_at, seq, data)
                answers_first = answers.first
                place = answers_first << AT_BITS | at
                data = located(data, place)
            at = next_at
            next_at = rows.put(at, seq, kind, data)
            if not next_at:
                rows.put_end(at)
                rows, at = self._next_segment(self._rows, seq, len(data)), FIRST_AT
                next_at = rows.put(at, seq, kind, data)
        ends = at // ROW_UNIT | answers_at // ROW_UNIT << END_BITS  # pack_ends(), without the call
        if rows is end.rows and answers_first == end.answers_first:
            self._words[self._ends_index] = self._published = ends
        else:
            self._publish(rows.first, answers_first, ends)
        end.rows, end.seq, end.at = rows, seq, next_at
        end.answers_first, end.answers, end.answers_at = answers_first, answers, answers_at
        self.place = place
        return seq

    def _put_answers(
        self, segment: Segment | None, first: int, at: int, seq: int, data: bytes
    ) -> tuple[Segment, int, int]:
        """Where they are, and where the next ones go. Without a *segment* the one called *first*, if that is not 0."""
        if segment is None and first:
            segment = self._on_files(lambda: self._answers.open(first))
        if segment is not None:
            end = segment.put(at, seq, _ANSWERS, data)
            if end:
                return segment, at, end
            segment.put_end(at)
        # What stands behind the last segment was made by a writer that died. Once there is a newer one it could not be
        # told from those that count. One called *seq* is overwritten.
        for each in self._on_files(self._answers.firsts):
            if each > first and each != seq:
                self._on_files(partial(self._answers.remove, each))
        segment = self._next_segment(self._answers, seq, len(data))
        return segment, FIRST_AT, segment.put(FIRST_AT, seq, _ANSWERS, data)

    def _publish(self, rows_first: int, answers_first: int, ends: int) -> None:
        self._pointer.publish(rows_first, answers_first, ends)
        self._remember(self._pointer.position())

    def _remember(self, position: Position) -> None:
        self._selector, _, _, self._published = position
        self._ends_index = self._pointer.ends_index(self._selector)

    def _found_end(self) -> _End:
        """With the lock: where the rows end now."""
        position = self._pointer.position()
        _, rows_first, answers_first, ends = position
        old = self._end
        if old is not None and old.seq > self._seq:
            # What others have written since is read from there.
            self._segment, self._seq, self._at = old.rows, old.seq, old.at
        rows = old.rows if old is not None and old.rows.first == rows_first else None
        last_at, answers_at = unpack_ends(ends)
        last = rows.find(last_at) if rows is not None and last_at else None
        if rows is None or (last_at and last is None):  # it is new to us, or may have been made larger
            rows = self._rows.open(rows_first)
            last = rows.find(last_at) if last_at else None
        if last_at and last is None:
            raise BadSegment(f"the last row of segment {rows.first} is not whole")
        answers = old.answers if old is not None and old.answers_first == answers_first else None
        self._remember(position)
        seq, at = (rows_first - 1, FIRST_AT) if last is None else (last[0], last[4])
        return _End(rows, seq, at, answers_first, answers, answers_at)

    def _next_segment(self, stream: Stream, seq: int, length: int) -> Segment:
        try:
            return stream.create(seq, length)
        except OSError as error:
            raise refused(self._path, f"cannot take more rows: {error.strerror}") from error

    # -- reading -------------------------------------------------------------------------------------------------------

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
