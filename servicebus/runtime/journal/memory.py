"""MemoryJournal: a ledger without a log. What other workers run, and what this process ran before, it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servicebus.runtime.journal.interface import (
    IdRecord,
    IdState,
    IdStatus,
    Journal,
    Limits,
    Lookup,
    Release,
    Start,
    record_of,
    seconds,
)
from servicebus.runtime.journal.ledger import Ledger
from servicebus.runtime.journal.records import number_of

__all__ = ["ME", "MemoryJournal"]

ME = 1
"""The owner of what is begun here."""


class MemoryJournal(Journal):
    """Refuses replays and answers redeliveries within one worker process."""

    def __init__(self, limits: Limits | None = None):
        self._limits = limits or Limits()
        self._ledger = Ledger(self._limits)

    def __repr__(self) -> str:
        return f"<MemoryJournal {self._ledger!r}>"

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Lookup]:
        self.tick(now)
        ledger, entries, found = self._ledger, self._ledger.entries, []
        for id, until, _, sent_at in starts:
            number, sent = number_of(id), seconds(sent_at)
            before = entries.get(number)
            ledger.begin(ME, ((number, seconds(until + 1), sent),))
            entry = entries.get(number)
            if entry is None:
                kept = ledger.answers.place_of(number)
                found.append(Lookup(IdStatus.FINISHED, None if kept is None else kept[number]))
            elif before is None or before[0] != ME:
                found.append(ledger.granted(entry, sent))
            else:
                found.append(Lookup(IdStatus.RUNNING, None, entry[1]))
        return found

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        self._now = now
        ledger, entries, largest = self._ledger, self._ledger.entries, self._limits.max_answer_bytes // 2
        sizes: list[tuple[int, int]] = []
        answers: dict[int, bytes] = {}
        until = 0
        for id, answer in ends:
            number = number_of(id)
            entry = entries.get(number)
            if entry is None or entry[0] != ME or number in answers:
                continue
            if answer is None or len(answer) > largest:
                ledger.large_answers += answer is not None
                sizes.append((number, -1))
                continue
            sizes.append((number, len(answer)))
            answers[number] = answer
            if entry[3] > until:
                until = entry[3]
        ledger.finish(ME, sizes)
        if answers:
            ledger.applied += 1
            # The place of the answers is the answers themselves.
            ledger.answers.add(ledger.applied, answers, seconds(now), until, sizes)
        if ledger.answers.size > self._limits.max_answer_bytes:
            self._compact()

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        self._ledger.release(ME, why, [number_of(id) for id in ids])

    def finished(self, ids: Sequence[str]) -> list[str]:
        return [id for id in ids if self._ledger.is_finished(number_of(id))]

    def look_up(self, ids: Sequence[str]) -> list[IdRecord | None]:
        return [self._record(number_of(id)) for id in ids]

    def tick(self, now: float) -> None:
        self._now = now
        if self._ledger.is_compaction_due(now):
            self._compact()

    def snapshot(self) -> dict[str, Any]:
        return self._ledger.sizes()

    def close(self) -> None:
        """Nothing to close."""

    def _record(self, number: int) -> IdRecord | None:
        entry = self._ledger.entries.get(number)
        if entry is not None:
            return record_of(*entry[:3], is_alive=entry[0] == ME, has_started=True)
        if not self._ledger.is_finished(number):
            return None
        kept = self._ledger.answers.place_of(number)
        return IdRecord(IdState.FINISHED, answer=None if kept is None else kept[number])

    def _compact(self) -> None:
        self._ledger.compact(self._ledger.plan(seconds(self._now)))
