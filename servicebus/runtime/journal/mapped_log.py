"""MappedLog: the log of the shared journal in files that all workers of one machine have mapped into memory.

A row costs two system calls, which take the lock and let go of it, and a few stores: the kernel has it then, so no
death of a process loses it. The head (``head.py``) says where rows end; a row behind that is none.

There are two streams of rows. ``rows`` has all of them, and is needed for seconds; ``answers`` has those with answers
as a whole, and is needed for as long as answers are kept: in ``rows`` these stand without the answers themselves. The
state is SQLite's (``state_file.py``). A thread of its own brings all of it to the disk, because that waits, and only
then removes what the state has made superfluous (``checkpoints.py``).

A compaction changes rows and state together: its row is written and staged, then SQLite commits, then the row is
published. Whoever finds it staged by a writer that died looks whether SQLite has committed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn, TypeVar

from servicebus.runtime.journal.checkpoints import Checkpointer
from servicebus.runtime.journal.head import GENERATION, UNSETTLED, Position, at_of, word_of
from servicebus.runtime.journal.ledger import Changes
from servicebus.runtime.journal.log import Damaged, Row, Saved
from servicebus.runtime.journal.places import Places
from servicebus.runtime.journal.readers import AnswerReader, BadRow, RowReader
from servicebus.runtime.journal.records import Compaction, Kind, finish_head_bytes
from servicebus.runtime.journal.recovery import opened_head
from servicebus.runtime.journal.refused import refused
from servicebus.runtime.journal.segments import FIRST_AT, BadSegment, Segment, Stream
from servicebus.runtime.journal.state_file import State, StateFile
from servicebus.runtime.journal.write_lock import WriteLock

__all__ = ["MappedLog"]

T = TypeVar("T")

_ANSWERS = int(Kind.ANSWERS)
_LOADS = 5
"""Rows are removed while we read the state once in a while, and then it is read again."""


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


class MappedLog:
    """A Log. One thread.

    Args:
        lock_wait_s: how long to wait while another process writes, which takes microseconds unless it is frozen.
        is_alone: nobody else has the log open, or opens it.

    Raises:
        JournalUnavailable: the files cannot be opened. Damaged: they are none of ours.
    """

    def __init__(self, path: Path, lock_wait_s: float = 1.0, *, is_alone: bool):
        self._path = path
        self._state = StateFile(path, lock_wait_s)
        try:
            places = Places(path, self._state.identity)
            self._head = self._on_files(lambda: opened_head(places, self._state.seq(), is_alone=is_alone))
            self._lock = self._on_files(lambda: WriteLock(places.head, str(path), lock_wait_s))
        except BaseException:
            self._state.close()
            raise
        self._words = self._head.words
        self._rows, self._answers = places.rows, places.answers
        self._row_reader = RowReader(self._rows, self._head)
        self._answer_reader = AnswerReader(self._answers, self._head)
        self._tip: _Tip | None = None
        self._generation = self._word = self._word_index = -1
        """What the tip was taken from."""
        self._is_in_transaction = False
        self._saved_seq = 0
        self._checkpointer = Checkpointer(places, self._head)

    def __repr__(self) -> str:
        return f"<MappedLog {self._path}>"

    def append(self, kind: int, data: bytes) -> int:
        return self._add(((kind, data),))

    def append_both(self, first: tuple[int, bytes], second: tuple[int, bytes]) -> int:
        return self._add((first, second))

    def read(self, after: int, before: int | None = None) -> list[Row]:
        if self._checkpointer.damage:
            raise Damaged(str(self._path), self._checkpointer.damage)
        if self._tip is not None and self._tip.seq == after:
            self._row_reader.go_to(self._tip.rows, after, self._tip.end)
        reader = self._row_reader
        try:
            return reader.read(after, before)
        except (BadRow, BadSegment, OSError):
            # Some processors show what another one has written in another order; not so to whoever has the lock.
            reader.forget()
            return self._on_files(lambda: self._locked(lambda: reader.read(after, before)))

    def data(self, seq: int) -> bytes | None:
        return self._on_files(lambda: self._answer_reader.get(seq))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        # SQLite's lock first: who waits for it, which may take a moment, keeps nobody from writing rows.
        self._state.begin()
        try:
            self._lock.take()
            try:
                self._look()
                self._is_in_transaction, self._saved_seq = True, 0
                yield
                self._commit()
            except BaseException:
                self._tip, self._generation = None, -1
                self._row_reader.forget()
                raise
            finally:
                self._is_in_transaction = False
                self._lock.drop()
        finally:
            # What is still staged the next writer decides on.
            self._state.rollback()

    def save(self, seq: int, compaction: Compaction, changes: Changes, totals: tuple[int, int]) -> None:
        self._state.save(seq, compaction, changes, totals)
        self._saved_seq = seq

    def load(self) -> Saved:
        for _ in range(_LOADS):
            state = self._state.load()
            rows = self.read(state.seq)
            if not rows or rows[0][0] == state.seq + 1:
                all_rows = chain(self._answers_of(state), rows)
                return Saved(
                    state.seq,
                    state.compaction,
                    state.forgotten,
                    state.forgotten_answers,
                    state.chunks,
                    state.entries,
                    all_rows,
                )
        raise Damaged(str(self._path), f"row {state.seq + 1} is gone")

    def new_owner(self) -> int:
        return self._state.new_owner()

    def checkpoint_soon(self) -> None:
        self._checkpointer.ask()

    def close(self) -> None:
        self._checkpointer.close()
        self._lock.close()
        self._state.close()

    # -- writing -------------------------------------------------------------------------------------------------------

    def _add(self, added: Sequence[tuple[int, bytes]]) -> int:
        """Gives the number of the last one."""
        if self._is_in_transaction:
            return self._write(added)
        self._lock.take()
        try:
            words = self._words
            if words[UNSETTLED] or words[GENERATION] != self._generation or words[self._word_index] != self._word:
                self._look()
            return self._write(added)
        finally:
            self._lock.drop()

    def _look(self) -> None:
        """With the lock: have the tip where the rows end now."""
        if self._words[UNSETTLED]:
            self._on_files(self._settle)
        self._tip = self._on_files(self._found_tip)

    def _write(self, added: Sequence[tuple[int, bytes]]) -> int:
        tip = self._tip
        assert tip is not None
        rows, seq, end, at = tip.rows, tip.seq, tip.end, 0
        answers, answers_first, answers_end = tip.answers, tip.answers_first, tip.answers_end
        for kind, data in added:
            seq += 1
            if kind == _ANSWERS:
                answers, answers_end = self._put_answers(answers, answers_first, answers_end, seq, data)
                answers_first = answers.first
                data = data[: finish_head_bytes(data)]
            at = end
            end = rows.put(at, seq, kind, data)
            if not end:
                rows.put_end(at)
                rows, at = self._next_segment(self._rows, seq, len(data)), FIRST_AT
                end = rows.put(at, seq, kind, data)
        word = word_of(at, answers_end)
        if self._is_in_transaction:
            self._word = word
        elif rows is tip.rows and answers_first == tip.answers_first:
            self._words[self._word_index] = self._word = word
        else:
            self._publish(rows.first, answers_first, word)
        tip.rows, tip.seq, tip.end = rows, seq, end
        tip.answers_first, tip.answers, tip.answers_end = answers_first, answers, answers_end
        return seq

    def _put_answers(self, segment: Segment | None, first: int, at: int, seq: int, data: bytes) -> tuple[Segment, int]:
        """Where the next ones go. Without a *segment* the one that begins with *first*, if that is not 0."""
        if segment is None and first:
            segment = self._on_files(lambda: self._answers.open(first))
        if segment is not None:
            end = segment.put(at, seq, _ANSWERS, data)
            if end:
                return segment, end
            segment.put_end(at)
        segment = self._next_segment(self._answers, seq, len(data))
        return segment, segment.put(FIRST_AT, seq, _ANSWERS, data)

    def _commit(self) -> None:
        tip, word = self._tip, self._word
        assert tip is not None
        if self._saved_seq:
            self._head.stage(tip.rows.first, tip.answers_first, word, self._saved_seq)
        self._state.commit()
        self._publish(tip.rows.first, tip.answers_first, word)

    def _publish(self, rows_first: int, answers_first: int, word: int) -> None:
        self._head.publish(rows_first, answers_first, word)
        self._head.settled()
        self._remember(self._head.position())

    def _remember(self, position: Position) -> None:
        self._generation, self._word = position.generation, position.word
        self._word_index = self._head.word_index(position.generation)

    def _settle(self) -> None:
        """With the lock: a writer has died with something staged, or with segments that it had not published."""
        head = self._head
        if head.staged_seq and self._state.seq() >= head.staged_seq:
            head.publish_staged()
        position = head.position()
        self._rows.open(position.rows_first)
        for stream, last in ((self._rows, position.rows_first), (self._answers, position.answers_first)):
            for first in stream.firsts():
                if first > last:
                    stream.remove(first)
        head.settled()

    def _found_tip(self) -> _Tip:
        position = self._head.position()
        old = self._tip
        if old is not None:
            # What others have written since is read from there.
            self._row_reader.go_to(old.rows, old.seq, old.end)
        is_known = old is not None and old.rows.first == position.rows_first
        rows = old.rows if old is not None and is_known else self._rows.open(position.rows_first)
        at, answers_end = at_of(position.word)
        seq, end = position.rows_first - 1, FIRST_AT
        if at:
            last = rows.find(at)
            if last is None:
                raise BadRow(f"the last row of {rows!r} is not whole")
            seq, end = last[0], last[4]
        answers = old.answers if old is not None and old.answers_first == position.answers_first else None
        self._remember(position)
        return _Tip(rows, seq, end, position.answers_first, answers, answers_end)

    def _next_segment(self, stream: Stream, seq: int, length: int) -> Segment:
        self._head.begin_making()
        try:
            return stream.create(seq, length)
        except OSError as error:
            raise refused(self._path, f"cannot take more rows: {error.strerror}") from error

    # -- reading -------------------------------------------------------------------------------------------------------

    def _answers_of(self, state: State) -> Iterator[Row]:
        """The rows with answers that the state has in it: all but the answers."""
        try:
            for seq, kind, data in self._answer_reader.rows(state.compaction.keep_from - 1, state.seq + 1):
                yield seq, kind, bytes(data[: finish_head_bytes(data)])
        except (BadSegment, OSError, struct.error) as error:
            self._fail(error)

    def _locked(self, action: Callable[[], T]) -> T:
        if self._is_in_transaction:
            return action()
        self._lock.take()
        try:
            return action()
        finally:
            self._lock.drop()

    def _on_files(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (BadRow, BadSegment, OSError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        where = str(self._path)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise refused(self._path, error.strerror or str(error)) from error
        raise Damaged(where, str(error)) from error
