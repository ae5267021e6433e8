"""Replica: one worker's copy of the state that the rows of the shared log add up to, and its way to add rows."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from servicebus.runtime.journal import records
from servicebus.runtime.journal.interface import Damaged, JournalUnavailable, Release, seconds
from servicebus.runtime.journal.ledger import Ledger, Limits
from servicebus.runtime.journal.log import Log, Row
from servicebus.runtime.journal.records import Compaction, Estate, Kind, Numbered
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["OwnRow", "Replica", "begun", "ended", "released", "taken_over"]

_COMPACT_AGAIN_S = 5.0
"""After one that failed."""
_REPORT_EVERY_S = 60.0

OwnRow = tuple[Kind, bytes, Callable[[Ledger, int, int], None]]
"""A row of ours: kind, data, and how it is applied, which need not read it again, as the row of a number, with its
answers at a place."""


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
        """``write`` of two rows for little more than the price of one; both or none are there. One may have answers."""
        last = self.log.append_both(first[:2], second[:2])
        self._take_in(last - 1, (first[2], second[2]))

    def _take_in(self, seq: int, applies: Sequence[Callable[[Ledger, int, int], None]]) -> None:
        """Our rows from *seq* on, and before them what others wrote meanwhile."""
        if seq <= self.ledger.applied:
            self._is_stale = True
            raise Damaged(repr(self.log), "was replaced or cut short while it was in use")
        if seq != self.ledger.applied + 1:
            self.catch_up(seq)
        for number, apply in enumerate(applies, seq):
            if number == self.ledger.applied + 1:
                apply(self.ledger, number, self.log.place)
                self.ledger.applied = number

    def catch_up(self, before: int | None = None) -> None:
        """Apply what was appended since, up to the row *before* if given."""
        ledger = self.ledger
        rows = self.log.read(ledger.applied, before)
        if rows is None:
            # We have not looked for so long that some were removed.
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
        """The last snapshot, and all rows since."""
        seq, state, rows = self.log.load()
        ledger = Ledger(self._limits)
        ledger.restore(seq, state)
        for each, place, data in self.log.answer_rows(ledger.keep_from - 1, seq + 1):
            _, now, until, ends = records.unpack_finish(data)
            ledger.answers.add(each, place, now, until, ends)
        for row in rows:
            _apply(ledger, row)
        return ledger

    def new_owner(self) -> int:
        """A number that no worker had before. Nobody else may ask for one at the same time."""
        self.catch_up()
        number = self.ledger.owner + 1
        self.write((Kind.OWNER, records.pack_owner(number), lambda ledger, _seq, _place: ledger.own(number)))
        return number

    def compact(self, now: float) -> None:
        """Forget what is over, if that is still due. Fails without harm: the next one has more to do.

        What turns out to be damaged is said when something is asked next: what was done until now is done.
        """
        if abs(now - self._failed_at) < _COMPACT_AGAIN_S:
            return
        try:
            self.catch_up()
            if not self.ledger.is_compaction_due(now):
                return  # another worker was sooner
            forgotten = self.ledger.forgotten + self.ledger.forgotten_answers
            self.write(_compacted(self.ledger.plan(seconds(now))))
        except Damaged as error:
            self._damage = error
            return
        except JournalUnavailable as error:
            self._failed_at = now
            LOG.warning("%s; it grows until this succeeds", error)
            return
        self._unreported += self.ledger.forgotten + self.ledger.forgotten_answers - forgotten

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


# -- rows of our own ---------------------------------------------------------------------------------------------------


def begun(owner: int, starts: Sequence[Numbered]) -> OwnRow:
    return Kind.BEGIN, records.pack_begin(owner, starts), lambda ledger, _seq, _place: ledger.begin(owner, starts)


def ended(owner: int, now: int, until: int, ends: Sequence[tuple[int, bytes | None]]) -> OwnRow:
    """*until*: when the last of these ids expires."""
    numbers = [number for number, _ in ends]
    sizes = [(number, len(answer)) for number, answer in ends if answer is not None]

    def apply(ledger: Ledger, seq: int, place: int) -> None:
        ledger.finish(owner, numbers)
        if sizes:
            ledger.answers.add(seq, place, now, until, sizes)

    return Kind.ANSWERS if sizes else Kind.FINISH, records.pack_finish(owner, now, until, ends), apply


def released(owner: int, why: Release, numbers: Sequence[int]) -> OwnRow:
    data = records.pack_release(owner, why, numbers)
    return Kind.RELEASE, data, lambda ledger, _seq, _place: ledger.release(owner, why, numbers)


def taken_over(owner: int, estates: Sequence[Estate]) -> OwnRow:
    data = records.pack_take_over(owner, estates)
    return Kind.TAKE_OVER, data, lambda ledger, _seq, _place: ledger.take_over(owner, estates)


def _compacted(compaction: Compaction) -> OwnRow:
    return Kind.COMPACT, records.pack_compact(compaction), lambda ledger, _seq, _place: ledger.compact(compaction)


# -- rows of others ----------------------------------------------------------------------------------------------------


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
                ledger.answers.add(seq, records.unpack_place(data), now, until, ends)
        elif kind == Kind.RELEASE:
            ledger.release(*records.unpack_release(data))
        elif kind == Kind.TAKE_OVER:
            ledger.take_over(*records.unpack_take_over(data))
        elif kind == Kind.COMPACT:
            ledger.compact(records.unpack_compact(data))
        elif kind == Kind.OWNER:
            ledger.own(records.unpack_owner(data))
        else:
            raise Damaged("log", f"row {seq} is of kind {kind}")
    except (struct.error, IndexError) as error:
        raise Damaged("log", f"row {seq} cannot be read: {error}") from error
    ledger.applied = seq
