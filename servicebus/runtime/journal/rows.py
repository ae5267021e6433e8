"""Rows of our own: as the log has them, and what they do to the ledger, which need not read them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from servicebus.runtime.journal import records
from servicebus.runtime.journal.interface import Release
from servicebus.runtime.journal.ledger import Ledger
from servicebus.runtime.journal.records import Estate, Kind, Numbered

__all__ = ["OwnRow", "begun", "ended", "released", "taken_over"]

OwnRow = tuple[Kind, bytes, Callable[[Ledger, int], None]]
"""Kind, data, and how it is applied as the row of a number."""


def begun(owner: int, starts: Sequence[Numbered]) -> OwnRow:
    return Kind.BEGIN, records.pack_begin(owner, starts), lambda ledger, _seq: ledger.begin(owner, starts)


def ended(owner: int, now: int, until: int, ends: Sequence[tuple[int, bytes | None]]) -> OwnRow:
    """*until*: when the last of these ids expires."""
    numbers = [number for number, _ in ends]
    sizes = [(number, len(answer)) for number, answer in ends if answer is not None]

    def apply(ledger: Ledger, seq: int) -> None:
        ledger.finish(owner, numbers)
        if sizes:
            ledger.answers.add(seq, now, until, sizes)

    return Kind.ANSWERS if sizes else Kind.FINISH, records.pack_finish(owner, now, until, ends), apply


def released(owner: int, why: Release, numbers: Sequence[int]) -> OwnRow:
    data = records.pack_release(owner, why, numbers)
    return Kind.RELEASE, data, lambda ledger, _seq: ledger.release(owner, why, numbers)


def taken_over(owner: int, estates: Sequence[Estate]) -> OwnRow:
    return Kind.TAKE_OVER, records.pack_take_over(owner, estates), lambda ledger, _seq: ledger.take_over(owner, estates)
