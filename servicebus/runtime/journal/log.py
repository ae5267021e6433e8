"""Log: the rows of the shared journal in files that all workers of one machine have mapped into memory.

Any process may append at any time. A row costs two system calls, for the lock, and a few stores: the kernel has it
then, so no death of a process loses it. The stream ``rows`` has all rows, and is needed until a snapshot contains them;
``answers`` has rows with answers, and is needed for as long as these are kept: in ``rows`` their place stands instead.

Replica: one worker's copy of the state that the rows add up to; it appends rows and applies them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from servicebus.runtime.journal import records
from servicebus.runtime.journal.interface import Damaged, JournalUnavailable, Limits, refused, seconds
from servicebus.runtime.journal.ledger import Ledger
from servicebus.runtime.journal.log_reader import LogEnd, LogReader, Row
from servicebus.runtime.journal.records import AT_BITS, PLACE_BYTES, RowKind, segment_and_at
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
from servicebus.runtime.journal.state import State
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["Log", "OwnRow", "Replica", "Row", "own_row"]

_ANSWERS = int(RowKind.ANSWERS)
_COMPACT_AGAIN_S = 5.0
"""After one that failed."""
_REPORT_EVERY_S = 60.0


class Log(LogReader):
    """Adds rows. For one thread. Every method may raise JournalUnavailable or Damaged, and has changed nothing then."""

    def __init__(self, path: Path, lock_wait_s: float = 1.0, *, is_alone: bool):
        super().__init__(path, lock_wait_s, is_alone=is_alone)
        self._words = self._pointer.words
        self._selector = self._published = self._ends_index = -1
        """What ``_end`` was taken from: the end offsets of that copy, and where they stand in ``_words``."""
        self.place = 0
        """Of the answers that we wrote last (``records.place_of``)."""

    def append(self, *added: tuple[int, bytes, bytes]) -> int:
        """Add rows, one next to the other, all or none; returns the number of the last one.

        Args:
            added: kind, data, and the answers of ANSWERS, which stand in the stream of answers alone.
        """
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

    def _write(self, added: Sequence[tuple[int, bytes, bytes]]) -> int:
        end = self._end
        assert end is not None
        rows, seq, next_at, at = end.rows, end.seq, end.at, 0
        answers, answers_first, answers_at, place = end.answers, end.answers_first, end.answers_at, self.place
        for kind, data, more in added:
            seq += 1
            if kind == _ANSWERS:
                answers, at, answers_at = self._put_answers(answers, answers_first, answers_at, seq, data + more)
                answers_first = answers.first
                place = answers_first << AT_BITS | at
                data += place.to_bytes(PLACE_BYTES, "little")
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

    def _found_end(self) -> LogEnd:
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
        return LogEnd(rows, seq, at, answers_first, answers, answers_at)

    def _next_segment(self, stream: Stream, seq: int, length: int) -> Segment:
        try:
            return stream.create(seq, length)
        except OSError as error:
            raise refused(self._path, f"cannot take more rows: {error.strerror}") from error


OwnRow = tuple[RowKind, bytes, bytes, tuple[Any, ...]]
"""A row of this worker: kind, data, answers, and the same as values, so that it need not be read again."""


def own_row(kind: RowKind, *values: Any) -> OwnRow:
    return kind, records.PACK[kind](*values), b"", values


class Replica:
    """A ledger that follows a log. For one thread. Every method may raise JournalUnavailable, or Damaged."""

    def __init__(self, log: Log, limits: Limits):
        self.log = log
        self._limits = limits
        self.is_stale = False
        """``refresh()`` is needed, before the ledger is asked."""
        self._damage: Damaged | None = None
        self._failed_at = -_COMPACT_AGAIN_S
        self._unreported = 0
        self._reported_at = -_REPORT_EVERY_S
        self.ledger = self.load()

    def write(self, row: OwnRow, following: OwnRow | None = None) -> None:
        """Append a row, or two at once; afterwards the ledger knows them and all before them.

        If this raises after they were appended, they are read and applied like rows of another worker later.
        """
        log, ledger = self.log, self.ledger
        seq = log.append(row[:3]) if following is None else log.append(row[:3], following[:3]) - 1
        if seq <= ledger.applied:
            self.is_stale = True
            raise Damaged(repr(log), "was replaced or cut short while it was in use")
        if seq != ledger.applied + 1:
            self.catch_up(seq)
            ledger = self.ledger
        place = log.place
        if seq == ledger.applied + 1:
            ledger.apply(seq, row[0], row[3], place)
        if following is not None and seq == ledger.applied:
            ledger.apply(seq + 1, following[0], following[3], place)

    def catch_up(self, before: int | None = None) -> None:
        """Apply what was appended since, up to the row *before* if given."""
        rows = self.log.read(self.ledger.applied, before)
        if rows is None:
            # We have not looked for so long that some were removed.
            self._reload()
            return
        for row in rows:
            _apply(self.ledger, row)

    def refresh(self) -> None:
        """Read the ledger again, if it may have missed something. Raises the Damaged that a compaction met."""
        if self._damage is not None:
            raise self._damage
        if self.is_stale:
            self._reload()
            self.is_stale = False

    def give_up(self, damage: Damaged) -> None:
        """Raise *damage* at every ``refresh()`` from now on."""
        self._damage, self.is_stale = damage, True

    def load(self) -> Ledger:
        """The last snapshot, and all rows since."""
        seq, state, rows = self.log.load()
        ledger = Ledger(self._limits, seq, state)
        for each, place, data in self.log.answer_rows(state.keep_from - 1, seq + 1):
            _, now, until, ends = records.unpack(RowKind.ANSWERS, data)
            ledger.answers.add(each, place, now, until, ends)
        for row in rows:
            _apply(ledger, row)
        return ledger

    def _reload(self) -> None:
        large_answers = self.ledger.large_answers
        self.ledger = self.load()
        self.ledger.large_answers = large_answers

    def new_owner(self) -> int:
        """A number that no worker had before. Called by one worker at a time."""
        self.catch_up()
        number = self.ledger.state.owner + 1
        self.write(own_row(RowKind.OWNER, number))
        return number

    def compact(self, now: float) -> None:
        """Forget what is over, if that is still due. Damage is raised by the next ``refresh``."""
        if abs(now - self._failed_at) < _COMPACT_AGAIN_S:
            return
        try:
            self.catch_up()
            if not self.ledger.is_compaction_due(now):
                return  # another worker was sooner
            before = self._forgotten()
            self.write(own_row(RowKind.COMPACT, self.ledger.plan(seconds(now))))
        except Damaged as error:
            self._damage, self.is_stale = error, True
        except JournalUnavailable as error:
            self._failed_at = now
            LOG.warning("%s; it grows until this succeeds", error)
        else:
            self._unreported += self._forgotten() - before

    def report(self, now: float) -> None:
        """Log what was forgotten early, now and then."""
        if self._unreported and abs(now - self._reported_at) >= _REPORT_EVERY_S:
            state = self.ledger.state
            LOG.warning(
                "the journal is too small: %d ids or answers were forgotten early, %d and %d in all",
                self._unreported,
                state.forgotten,
                state.forgotten_answers,
            )
            self._unreported = 0
            self._reported_at = now

    def _forgotten(self) -> int:
        return self.ledger.state.forgotten + self.ledger.state.forgotten_answers


def _apply(ledger: Ledger, row: Row) -> None:
    """Apply a row of another worker. Raises Damaged if it is not the next one, or makes no sense."""
    seq, kind, data = row
    if seq != ledger.applied + 1:
        raise Damaged("log", f"row {seq} comes after row {ledger.applied}")
    try:
        place = records.unpack_place(data) if kind == RowKind.ANSWERS else 0
        ledger.apply(seq, kind, records.unpack(kind, data), place)
    except KeyError:
        raise Damaged("log", f"row {seq} is of kind {kind}") from None
    except (struct.error, IndexError) as error:
        raise Damaged("log", f"row {seq} cannot be read: {error}") from error
