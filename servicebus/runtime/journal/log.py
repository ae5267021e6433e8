"""Log: the rows of the shared journal in files that all workers of one machine have mapped into memory.

Any process may append at any time; a row is there as a whole or not at all, even when its writer is killed. A row costs
two system calls, which take the lock and let go of it, and a few stores: the kernel has it then, so no death of a
process loses it. The head (``head.py``) says where rows end; a row behind that is none.

There are two streams of rows. ``rows`` has all of them, and is needed until a snapshot has taken them in; ``answers``
has those with answers as a whole, and is needed for as long as answers are kept: in ``rows`` these have the place of
that instead of the answers themselves. A thread of its own (``keeper.py``) brings all of it to the disk, because that
waits, takes snapshots, and removes what is not needed any more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from servicebus.runtime.journal import snapshot
from servicebus.runtime.journal.files import after_snapshot, found_files, found_head
from servicebus.runtime.journal.head import GENERATION, Position, at_of, word_of
from servicebus.runtime.journal.interface import Damaged
from servicebus.runtime.journal.keeper import Keeper
from servicebus.runtime.journal.ledger import State
from servicebus.runtime.journal.records import AT_BITS, Kind, located, place_of, segment_and_at
from servicebus.runtime.journal.refused import refused
from servicebus.runtime.journal.segments import FIRST_AT, BadSegment, Segment, Stream
from servicebus.runtime.journal.snapshot import Header, Place
from servicebus.runtime.journal.write_lock import WriteLock

__all__ = ["Log", "Row"]

T = TypeVar("T")

Row = tuple[int, int, bytes]
"""Its number (the first is 1, none is left out), its kind, its data; of ANSWERS ``located``."""

_ANSWERS = int(Kind.ANSWERS)
_LAST = 2**63
_LOADS = 5
"""Rows are removed while we read the snapshot once in a while, and then it is read again."""


class _BadRow(Exception):
    """Raised when a row that must be there is not whole, or not the one that it should be."""


@dataclass(slots=True)
class _Tip:
    """Where the next row goes, as far as we know."""

    rows: Segment
    seq: int
    """The last row."""
    end: int
    answers_first: int
    answers: Segment | None
    """Mapped when it is needed first."""
    answers_end: int


class Log:
    """For one thread. Every method may raise JournalUnavailable, and has changed nothing then.

    Args:
        lock_wait_s: how long to wait while another process writes, which takes microseconds unless it is frozen.
        is_alone: nobody else has the log open, or opens it.

    Raises:
        JournalUnavailable: the files cannot be opened. Damaged: they are none of ours.
    """

    def __init__(self, path: Path, lock_wait_s: float = 1.0, *, is_alone: bool):
        self._path = path
        files, header = self._on_files(lambda: found_files(path, is_alone=is_alone))
        self._head = self._on_files(lambda: found_head(files, header, is_alone=is_alone))
        self._lock = self._on_files(lambda: WriteLock(files.head, str(path), lock_wait_s))
        self._words = self._head.words
        self._identity, self._rows, self._answers = files.identity, files.rows, files.answers
        self._tip: _Tip | None = None
        self._generation = self._word = self._word_index = -1
        """What the tip was taken from."""
        self._segment: Segment | None = None
        """Where we read, after row ``_seq``: the next one stands at ``_at``, if the segment is not full."""
        self._seq, self._at = 0, FIRST_AT
        self._answered: Segment | None = None
        """Where an answer was read last."""
        self.place = 0
        """Where the answers stand that we wrote last (``records.place_of``)."""
        self.keeper = Keeper(files, self._head)

    def __repr__(self) -> str:
        return f"<Log {self._path}>"

    def append(self, kind: int, data: bytes) -> int:
        """Add a row; gives its number."""
        return self._add(((kind, data),))

    def append_both(self, first: tuple[int, bytes], second: tuple[int, bytes]) -> int:
        """Add two rows, one next to the other, both or none; gives the number of the second."""
        return self._add((first, second))

    def read(self, after: int, before: int | None = None) -> list[Row] | None:
        """The rows between the two numbers. None: some of them may be gone, since we have not read for so long."""
        if self.keeper.damage:
            raise Damaged(str(self._path), self.keeper.damage)
        tip = self._tip
        if tip is not None and tip.seq == after:
            self._segment, self._seq, self._at = tip.rows, after, tip.end
        last = _LAST if before is None else before - 1
        try:
            return self._read(after, last)
        except (_BadRow, BadSegment, OSError):
            # Some processors show what another one has written in another order; not so to whoever has the lock.
            return self._on_files(lambda: self._locked(lambda: self._read_again(after, last)))

    def answer_row(self, place: int) -> bytes | None:
        """The row of ANSWERS at that place, as a whole; None if it is not there any more."""
        first, at = segment_and_at(place)
        if self._answered is None or self._answered.first != first:
            try:
                self._answered = self._on_files(lambda: self._answers.open(first))
            except Damaged:
                return None
        found = self._answered.find(at)
        return None if found is None else self._answered.data(found[2], found[3])

    def answer_rows(self, after: int, before: int) -> Iterator[tuple[int, int, memoryview]]:
        """All rows of ANSWERS that are there between the two: number, place, data, which is good until the next one."""
        position = self._on_files(self._head.position)
        last, end, seq = position.answers_first, at_of(position.word)[1], 0
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
                    yield seq, place_of(first, at), segment.view(start, stop)
                at = following

    def load(self) -> tuple[int, State, list[Row]]:
        """The last snapshot, the number of its last row, and all rows since."""
        for _ in range(_LOADS):
            header, state = self._on_files(lambda: snapshot.read(self._path))
            if header.identity != self._identity:
                raise Damaged(str(self._path), "was replaced while it was in use")
            self._seq = header.seq
            self._segment, self._at = self._on_files(lambda: after_snapshot(self._rows, header))  # noqa: B023 - at once
            rows = self.read(header.seq)
            if rows is not None:
                return header.seq, state, rows
        raise Damaged(str(self._path), f"row {header.seq + 1} is gone")

    def keep(self, applied: int, state: Callable[[], State], answers_from: int | None) -> None:
        """Now is a good time to bring to the disk what was written; never blocks.

        Args:
            state: gives what all rows up to *applied* add up to; called if a snapshot is due.
            answers_from: the place of the oldest answer that is kept; None if none is.
        """
        position = self._head.position()
        self.keeper.answers_from = position.answers_first if answers_from is None else segment_and_at(answers_from)[0]
        if self.keeper.wants_state:
            tip = self._tip
            if tip is not None and tip.seq == applied:
                self.keeper.hand_over(Header(self._identity, applied, Place(tip.rows.first, tip.end)), state())
            elif self._segment is not None and self._seq == applied:
                self.keeper.hand_over(Header(self._identity, applied, Place(self._segment.first, self._at)), state())
        self.keeper.ask()

    def close(self) -> None:
        """Idempotent."""
        self.keeper.close()
        self._lock.close()

    # -- writing -------------------------------------------------------------------------------------------------------

    def _add(self, added: Sequence[tuple[int, bytes]]) -> int:
        """Gives the number of the last one."""
        self._lock.take()
        try:
            words = self._words
            if words[GENERATION] != self._generation or words[self._word_index] != self._word:
                self._tip = self._on_files(self._found_tip)
            return self._write(added)
        finally:
            self._lock.drop()

    def _write(self, added: Sequence[tuple[int, bytes]]) -> int:
        tip = self._tip
        assert tip is not None
        rows, seq, end, at = tip.rows, tip.seq, tip.end, 0
        answers, answers_first, answers_end, place = tip.answers, tip.answers_first, tip.answers_end, self.place
        for kind, data in added:
            seq += 1
            if kind == _ANSWERS:
                answers, answers_at, answers_end = self._put_answers(answers, answers_first, answers_end, seq, data)
                answers_first = answers.first
                place = answers_first << AT_BITS | answers_at
                data = located(data, place)
            at = end
            end = rows.put(at, seq, kind, data)
            if not end:
                rows.put_end(at)
                rows, at = self._next_segment(self._rows, seq, len(data)), FIRST_AT
                end = rows.put(at, seq, kind, data)
        word = word_of(at, answers_end)
        if rows is tip.rows and answers_first == tip.answers_first:
            self._words[self._word_index] = self._word = word
        else:
            self._publish(rows.first, answers_first, word)
        tip.rows, tip.seq, tip.end = rows, seq, end
        tip.answers_first, tip.answers, tip.answers_end = answers_first, answers, answers_end
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
        self._remove_orphans(first, seq)
        segment = self._next_segment(self._answers, seq, len(data))
        return segment, FIRST_AT, segment.put(FIRST_AT, seq, _ANSWERS, data)

    def _remove_orphans(self, last: int, seq: int) -> None:
        """With the lock: what stands behind the *last* segment of answers was made by a writer that died.

        Once there is a newer segment it could not be told from those that count. One called *seq* is written over.
        """
        for first in self._on_files(self._answers.firsts):
            if first > last and first != seq:
                self._on_files(partial(self._answers.remove, first))

    def _publish(self, rows_first: int, answers_first: int, word: int) -> None:
        self._head.publish(rows_first, answers_first, word)
        self._remember(self._head.position())

    def _remember(self, position: Position) -> None:
        self._generation, self._word = position.generation, position.word
        self._word_index = self._head.word_index(position.generation)

    def _found_tip(self) -> _Tip:
        """With the lock: where the rows end now."""
        position = self._head.position()
        old = self._tip
        if old is not None and old.seq > self._seq:
            # What others have written since is read from there.
            self._segment, self._seq, self._at = old.rows, old.seq, old.end
        is_known = old is not None and old.rows.first == position.rows_first
        rows = old.rows if old is not None and is_known else self._rows.open(position.rows_first)
        at, answers_end = at_of(position.word)
        seq, end = position.rows_first - 1, FIRST_AT
        if at:
            last = rows.find(at)
            if last is None and is_known:  # it may have been made larger
                rows = self._rows.open(position.rows_first)
                last = rows.find(at)
            if last is None:
                raise _BadRow(f"the last row of {rows!r} is not whole")
            seq, end = last[0], last[4]
        answers = old.answers if old is not None and old.answers_first == position.answers_first else None
        self._remember(position)
        return _Tip(rows, seq, end, position.answers_first, answers, answers_end)

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
        position = self._head.position()
        rows: list[Row] = []
        while True:
            find, data = segment.find, segment.data
            is_last = segment.first == position.rows_first
            last_at = at_of(position.word)[0] if is_last else segment.size
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
                raise _BadRow(f"row {seq + 1} is not where it should be")
            following = self._enter(seq + 1)
            if following is None:
                return None
            segment, at = following, FIRST_AT

    def _read_again(self, after: int, last: int) -> list[Row] | None:
        if self._segment is not None:
            self._segment = self._enter(self._segment.first)
        return self._read(after, last)

    def _enter(self, first: int) -> Segment | None:
        """The segment of that name; None if it is gone."""
        try:
            return self._rows.open(first)
        except FileNotFoundError:
            return None
        except (BadSegment, OSError) as error:
            self._fail(error)

    def _locked(self, action: Callable[[], T]) -> T:
        self._lock.take()
        try:
            return action()
        finally:
            self._lock.drop()

    def _on_files(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (_BadRow, BadSegment, OSError, struct.error) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise refused(self._path, error.strerror or str(error)) from error
        raise Damaged(str(self._path), str(error)) from error
