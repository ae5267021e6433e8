"""Replica: one worker's copy of the state that the rows of the shared log add up to, and its way to add rows."""

from __future__ import annotations

import struct
from typing import Any

from servicebus.runtime.journal import records
from servicebus.runtime.journal.interface import Damaged, JournalUnavailable, seconds
from servicebus.runtime.journal.ledger import Ledger, Limits
from servicebus.runtime.journal.log import Log, Row
from servicebus.runtime.journal.records import RowKind
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["OwnRow", "Replica", "own_row"]

_COMPACT_AGAIN_S = 5.0
"""After one that failed."""
_REPORT_EVERY_S = 60.0

OwnRow = tuple[RowKind, bytes, tuple[Any, ...]]
"""A row of this worker: kind, data, and the same as values, so that it need not be read again."""


def own_row(kind: RowKind, *values: Any) -> OwnRow:
    return kind, records.PACK[kind](*values), values


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
        seq = log.append(row[:2]) if following is None else log.append(row[:2], following[:2]) - 1
        if seq <= ledger.applied:
            self.is_stale = True
            raise Damaged(repr(log), "was replaced or cut short while it was in use")
        if seq != ledger.applied + 1:
            self.catch_up(seq)
            ledger = self.ledger
        place = log.place
        if seq == ledger.applied + 1:
            ledger.apply(seq, row[0], row[2], place)
        if following is not None and seq == ledger.applied:
            ledger.apply(seq + 1, following[0], following[2], place)

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
