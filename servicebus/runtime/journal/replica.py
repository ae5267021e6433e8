"""Replica: one worker's copy of the state that the rows of the shared log add up to, and its way to add rows."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from servicebus.runtime.journal import records
from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.runtime.journal.ledger import Ledger, Limits
from servicebus.runtime.journal.log import Damaged, Log, Row
from servicebus.runtime.journal.records import Kind
from servicebus.runtime.journal.rows import OwnRow
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["NEVER", "Replica", "seconds"]

_COMPACT_AGAIN_S = 5.0
"""After one that failed."""
_REPORT_EVERY_S = 60.0
NEVER = 2**32 - 1


class Replica:
    """A ledger, kept up with a log. For one thread. Every method may raise JournalUnavailable.

    Raises:
        Damaged: what the log holds makes no sense.
    """

    def __init__(self, log: Log, limits: Limits):
        self.log = log
        self._limits = limits
        self._is_stale = False
        self._damage: Damaged | None = None
        self._failed_at = -_COMPACT_AGAIN_S
        self._unreported = 0
        self._reported_at = -_REPORT_EVERY_S
        self.ledger = self.load()

    def __repr__(self) -> str:
        return f"<Replica {self.log!r} {self.ledger!r}>"

    def write(self, row: OwnRow) -> None:
        """Append a row of ours; afterwards the ledger knows it and all before it.

        If this raises after the row was appended, it is read and applied like a row of somebody else later.
        """
        kind, data, apply = row
        self._take_in(self.log.append(kind, data), (apply,))

    def write_both(self, first: OwnRow, second: OwnRow) -> None:
        """``write`` of two rows for little more than the price of one; both are there, or none."""
        last = self.log.append_both(first[:2], second[:2])
        self._take_in(last - 1, (first[2], second[2]))

    def _take_in(self, seq: int, applies: Sequence[Callable[[Ledger, int], None]]) -> None:
        """Our rows from *seq* on, and before them what others wrote meanwhile."""
        if seq <= self.ledger.applied:
            self._is_stale = True
            raise Damaged(repr(self.log), "was replaced or cut short while it was in use")
        if seq != self.ledger.applied + 1:
            self.catch_up(seq)
        for number, apply in enumerate(applies, seq):
            if number == self.ledger.applied + 1:
                apply(self.ledger, number)
                self.ledger.applied = number

    def catch_up(self, before: int | None = None) -> None:
        """Apply what was appended since, up to the row *before* if given."""
        ledger = self.ledger
        rows = self.log.read(ledger.applied, before)
        last = rows[-1][0] if before is None and rows else ledger.applied if before is None else before - 1
        if len(rows) < last - ledger.applied:
            # We have not looked for so long that some were deleted.
            self.ledger = self.load()
            return
        for row in rows:
            _apply(ledger, row)

    def refresh(self) -> None:
        """Before anything is asked of the ledger: it may have to be read anew."""
        if self._damage is not None:
            raise self._damage
        if self._is_stale:
            self.ledger = self.load()
            self._is_stale = False

    def load(self) -> Ledger:
        """The state as it is saved, and all rows since."""
        saved = self.log.load()
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

    def compact(self, at_least: int, now: float) -> None:
        """Save the state, if there is still so much to save. Fails without harm: the next one has more to do.

        What turns out to be damaged is said when something is asked next: what was done until now is done.
        """
        if abs(now - self._failed_at) < _COMPACT_AGAIN_S:
            return
        try:
            with self.log.transaction():
                self.catch_up()
                ledger = self.ledger
                if ledger.pending < at_least:
                    return  # another worker was sooner
                forgotten = ledger.forgotten + ledger.forgotten_answers
                compaction = ledger.plan(seconds(now))
                seq = self.log.append(Kind.COMPACT, records.pack_compact(compaction))
                changes = ledger.compact(seq, compaction)
                ledger.applied = seq
                self.log.save(seq, compaction, changes, (ledger.forgotten, ledger.forgotten_answers))
        except JournalUnavailable as error:
            # The ledger may know rows that were never written.
            self._is_stale = True
            self._failed_at = now
            if isinstance(error, Damaged):
                self._damage = error
                return
            LOG.warning("%s; it grows until this succeeds", error)
            return
        self._unreported += ledger.forgotten + ledger.forgotten_answers - forgotten
        self.log.checkpoint_soon()

    def report(self, now: float) -> None:
        """Log what was forgotten early, now and then."""
        if self._unreported and abs(now - self._reported_at) >= _REPORT_EVERY_S:
            LOG.warning(
                "the journal is too small: %d ids or answers were forgotten early, %d and %d in all",
                self._unreported,
                self.ledger.forgotten,
                self.ledger.forgotten_answers,
            )
            self._unreported = 0
            self._reported_at = now


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


def seconds(when: float) -> int:
    """As rows hold it."""
    return int(when) if 0.0 <= when <= NEVER else 0 if when < 0 else NEVER
