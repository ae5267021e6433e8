"""SharedJournal: one journal for all workers of a node on one machine, which outlives each of them.

Theory of operation. What workers begin and finish they append to one log, which gives all of it one order; each worker
adds the log up to the same state (the ledger) in its own memory, so asking is a look into a dictionary, and telling is
one row per batch. An id belongs to whoever's row comes first. A worker reads what others have appended when its own row
turns out not to be the next one, when it is asked about an id that is not new, and once a second.

Every few thousand ids somebody *compacts*: writes the state into tables of its own, and deletes rows that are not
needed any more. So a worker that starts, or was frozen for long, reads the state and the few rows since.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from servicebus.runtime.journal import records
from servicebus.runtime.journal.interface import JournalUnavailable, Known, OneByOne, Release, Standing, Start
from servicebus.runtime.journal.ledger import NOBODY, Ledger, Limits
from servicebus.runtime.journal.log import Damaged, Log, Row
from servicebus.runtime.journal.owners import OwnerLock
from servicebus.runtime.journal.records import Kind, Numbered, number_of

LOG = logging.getLogger(__name__)

__all__ = ["SharedJournal"]

_COMPACT_IDS = 4096
_COMPACT_EVERY_S = 10
_COMPACT_AGAIN_S = 5.0
"""After one that failed."""
_CHECKPOINT_EVERY_S = 5
_REPORT_EVERY_S = 60.0
_ROUNDS = 4
"""Each round but the first needs another worker that did something in the very same moment."""
_NEVER = 2**32 - 1

_FIRST = Known(Standing.NEW, None, 1)

Asked = tuple[str, int, int, bool]
"""Id, number, expiry, may be run again."""


class SharedJournal(OneByOne):
    """A Journal on a Log. Takes both arguments over, and closes them.

    Args:
        owners: holds a number already.

    Raises:
        Damaged: what the log holds makes no sense.
    """

    def __init__(self, log: Log, owners: OwnerLock, limits: Limits):
        self._log = log
        self._owners = owners
        self._me = owners.number
        self._limits = limits
        self._is_stale = False
        self._mine: dict[str, int] = {}
        """What was given out as NEW and has not come back; the log may say that we have begun more than that."""
        self._dead: set[int] = set()
        self._large_answers = 0
        self._failed_at = -_COMPACT_AGAIN_S
        self._checkpointed_at = 0
        self._unreported = 0
        self._reported_at = -_REPORT_EVERY_S
        self._is_closed = False
        self._ledger = self._load()

    def __repr__(self) -> str:
        return f"<SharedJournal {self._log!r} owner={self._me} begun={len(self._mine)}>"

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Known]:
        self._now = now
        if self._is_stale:
            self._refresh()
        asked = [(id, number_of(id), _seconds(expires_at + 1), rerun) for id, expires_at, rerun in starts]
        self._claim(asked)
        found = [self._known(*one) for one in asked]
        for _ in range(_ROUNDS):
            if None not in found:
                break
            self._claim([one for one, known in zip(asked, found, strict=True) if known is None])
            found = [known or self._known(*one) for one, known in zip(asked, found, strict=True)]
        # Still none: it changes hands faster than we can look. Whoever asks again is told more.
        return [known or Known(Standing.RUNNING) for known in found]

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        self._now = now
        if self._is_stale:
            self._refresh()
        rows = [(self._mine[id], self._storable(answer)) for id, answer in ends if id in self._mine]
        if not rows:
            return
        numbers = [number for number, _ in rows]
        sizes = [(number, len(answer)) for number, answer in rows if answer is not None]
        seconds, until = _seconds(now), self._until(numbers)

        def apply(ledger: Ledger, seq: int) -> None:
            ledger.finish(self._me, numbers)
            if sizes:
                ledger.answers.add(seq, seconds, until, sizes)

        kind = Kind.ANSWERS if sizes else Kind.FINISH
        self._write(kind, records.pack_finish(self._me, seconds, until, rows), apply)
        for id, _ in ends:
            self._mine.pop(id, None)
        if self._ledger.pending >= _COMPACT_IDS:
            self._compact(_COMPACT_IDS)

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        if self._is_stale:
            self._refresh()
        numbers = [self._mine[id] for id in ids if id in self._mine]
        if not numbers:
            return
        data = records.pack_release(self._me, why, numbers)
        self._write(Kind.RELEASE, data, lambda ledger, _seq: ledger.release(self._me, why, numbers))
        for id in ids:
            self._mine.pop(id, None)

    def tick(self, now: float) -> None:
        self._now = now
        if self._is_stale:
            self._refresh()
        self._catch_up()
        # Further away in either direction: clocks are set back as well.
        if self._ledger.pending and abs(now - self._ledger.compacted_at) >= _COMPACT_EVERY_S:
            self._compact(1)
        if abs(now - self._checkpointed_at) >= _CHECKPOINT_EVERY_S:
            self._checkpointed_at = int(now)
            self._log.checkpoint_soon()
        self._report()

    def snapshot(self) -> dict[str, Any]:
        ledger = self._ledger
        return {
            "chunks": ledger.chunk_count,
            "unfinished": len(ledger.entries),
            "answers": ledger.answers.count,
            "answer_bytes": ledger.answers.size,
            "forgotten_early": ledger.forgotten,
            "answers_forgotten_early": ledger.forgotten_answers + self._large_answers,
        }

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._log.close()
            self._owners.close()

    # -- asking ------------------------------------------------------------------------------------------------------

    def _claim(self, asked: Sequence[Asked]) -> None:
        """Tell the log that we want those that can be had."""
        entries = self._ledger.entries
        is_finished = self._ledger.is_finished
        wanted = [(number, until) for _, number, until, _ in asked if number not in entries and not is_finished(number)]
        if len(wanted) < len(asked):
            # Something is known already: is that still so? Others may have finished, released or taken it since.
            self._catch_up()
            wanted = [(number, until) for _, number, until, rerun in asked if self._is_wanted(number, until, rerun)]
            self._take_over([(number, until) for _, number, until, rerun in asked if rerun])
        if wanted:
            data = records.pack_begin(self._me, wanted)
            self._write(Kind.BEGIN, data, lambda ledger, _seq: ledger.begin(self._me, wanted))

    def _is_wanted(self, number: int, expires: int, rerun: bool) -> bool:
        """Can it be had, or must it be remembered for longer than before?"""
        entry = self._ledger.entries.get(number)
        if entry is None and not self._ledger.is_finished(number):
            return True
        if entry is not None and entry[0] == NOBODY and (rerun or not entry[2]):
            return True
        return not self._ledger.outlives(number, expires)

    def _take_over(self, asked: Iterable[Numbered]) -> None:
        entries = self._ledger.entries
        estates = [
            (number, entries[number][0], until)
            for number, until in asked
            if number in entries and entries[number][0] in self._dead
        ]
        if estates:
            data = records.pack_take_over(self._me, estates)
            self._write(Kind.TAKE_OVER, data, lambda ledger, _seq: ledger.take_over(self._me, estates))

    def _known(self, id: str, number: int, _until: int, rerun: bool) -> Known | None:
        """What is known now; None if it has to be claimed (again) first."""
        entry = self._ledger.entries.get(number)
        if entry is None:
            return Known(Standing.FINISHED, self._answer(number)) if self._ledger.is_finished(number) else None
        owner, attempts, deaths, _ = entry
        if owner == self._me and id not in self._mine:
            self._mine[id] = number
            return _FIRST if attempts == 1 else Known(Standing.NEW, None, attempts, deaths)
        if owner == NOBODY or owner in self._dead:
            is_free = rerun or (owner == NOBODY and not deaths)
            return None if is_free else Known(Standing.INTERRUPTED, None, attempts, deaths + (owner != NOBODY))
        if self._owners.is_alive(owner):
            return Known(Standing.RUNNING, None, attempts, deaths)
        # It cannot write any more; but what it wrote last may not have been read yet: look again.
        self._dead.add(owner)
        return None

    def _answer(self, number: int) -> bytes | None:
        seq = self._ledger.answers.seq_of(number)
        data = None if seq is None else self._log.data(seq)
        return None if data is None else records.answer_in(data, number)

    def _until(self, numbers: Iterable[int]) -> int:
        """When the last of these unfinished ids expires."""
        return max((entry[3] for entry in map(self._ledger.entries.get, numbers) if entry is not None), default=0)

    def _storable(self, answer: bytes | None) -> bytes | None:
        if answer is None or len(answer) <= self._limits.max_answer_bytes // 2:
            return answer
        self._large_answers += 1
        return None

    # -- the log -----------------------------------------------------------------------------------------------------

    def _write(self, kind: Kind, data: bytes, apply: Callable[[Ledger, int], None]) -> None:
        """Append a row of ours; afterwards the ledger knows it and all before it.

        If this raises after the row was appended, it is read and applied like a row of somebody else later.
        """
        seq = self._log.append(kind, data)
        if seq <= self._ledger.applied:
            self._is_stale = True
            raise Damaged(repr(self._log), "was replaced or cut short while it was in use")
        if seq != self._ledger.applied + 1:
            self._catch_up(seq)
        if seq == self._ledger.applied + 1:
            apply(self._ledger, seq)
            self._ledger.applied = seq

    def _catch_up(self, before: int | None = None) -> None:
        ledger = self._ledger
        rows = self._log.read(ledger.applied, before)
        last = rows[-1][0] if before is None and rows else ledger.applied if before is None else before - 1
        if len(rows) < last - ledger.applied:
            # We have not looked for so long that some were deleted.
            self._ledger = self._load()
            return
        for row in rows:
            _apply(ledger, row)

    def _refresh(self) -> None:
        self._ledger = self._load()
        self._is_stale = False

    def _load(self) -> Ledger:
        saved = self._log.load()
        ledger = Ledger(self._limits)
        for chunk in saved.chunks:
            ledger.restore_chunk(*chunk)
        for number, entry in saved.entries:
            ledger.restore_entry(number, entry)
        ledger.restored(saved.seq, saved.compaction, saved.forgotten, saved.forgotten_answers)
        for row in saved.rows:
            if row[0] > saved.seq:
                _apply(ledger, row)
            elif row[1] == Kind.ANSWERS:
                _index_answers(ledger, row)
        return ledger

    def _compact(self, at_least: int) -> None:
        """Save the state, if there is still so much to save. Fails without harm: the next one has more to do."""
        if abs(self._now - self._failed_at) < _COMPACT_AGAIN_S:
            return
        try:
            with self._log.transaction():
                self._catch_up()
                ledger = self._ledger
                if ledger.pending < at_least:
                    return  # another worker was sooner
                forgotten = ledger.forgotten + ledger.forgotten_answers
                compaction, trimmed = ledger.plan(_seconds(self._now)), ledger.trimmed
                seq = self._log.append(Kind.COMPACT, records.pack_compact(compaction))
                changes = ledger.compact(seq, compaction)
                ledger.applied = seq
                self._log.save(seq, compaction, changes, trimmed, (ledger.forgotten, ledger.forgotten_answers))
        except JournalUnavailable as error:
            # The ledger may know rows that were never written.
            self._is_stale = True
            self._failed_at = self._now
            LOG.warning("%s; it grows until this succeeds", error)
            return
        self._unreported += ledger.forgotten + ledger.forgotten_answers - forgotten
        self._log.checkpoint_soon()

    def _report(self) -> None:
        if self._unreported and abs(self._now - self._reported_at) >= _REPORT_EVERY_S:
            LOG.warning(
                "the journal is too small: %d ids or answers were forgotten early, %d and %d in all",
                self._unreported,
                self._ledger.forgotten,
                self._ledger.forgotten_answers,
            )
            self._unreported = 0
            self._reported_at = self._now


def _apply(ledger: Ledger, row: Row) -> None:
    """Have *ledger* know a row that it does not know yet. Raises Damaged if it is not the next one, or unreadable."""
    seq, kind, data = row
    if seq != ledger.applied + 1:
        raise Damaged("log", f"row {seq} comes after row {ledger.applied}")
    try:
        if kind == Kind.BEGIN:
            ledger.begin(*records.unpack_begin(data))
        elif kind in (Kind.FINISH, Kind.ANSWERS):
            owner, now, until, ends = records.unpack_finish(data)
            ledger.finish(owner, [number for number, _ in ends])
            if kind == Kind.ANSWERS:
                ledger.answers.add(seq, now, until, ends)
        elif kind == Kind.RELEASE:
            ledger.release(*records.unpack_release(data))
        elif kind == Kind.TAKE_OVER:
            ledger.take_over(*records.unpack_take_over(data))
        elif kind == Kind.COMPACT:
            ledger.compact(seq, records.unpack_compact(data))
        else:
            raise Damaged("log", f"row {seq} is of kind {kind}")
    except (struct.error, IndexError) as error:
        raise Damaged("log", f"row {seq} cannot be read: {error}") from error
    ledger.applied = seq


def _index_answers(ledger: Ledger, row: Row) -> None:
    seq, _, data = row
    try:
        _, now, until, ends = records.unpack_finish(data)
    except struct.error as error:
        raise Damaged("log", f"row {seq} cannot be read: {error}") from error
    ledger.answers.add(seq, now, until, ends)


def _seconds(when: float) -> int:
    return int(min(max(when, 0.0), _NEVER))
