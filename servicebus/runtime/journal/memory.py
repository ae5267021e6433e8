"""MemoryJournal: one worker's own memory. It refuses replays and answers redeliveries within one worker process.

A call that is re-sent over another broker reaches another worker, which knows nothing of it; and nothing outlives the
process. For that there is SharedJournal. What both know is a Ledger; this one has no log, and the answers themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servicebus.runtime.journal.interface import Known, OneByOne, Release, Standing, Start, seconds
from servicebus.runtime.journal.ledger import Ledger, Limits
from servicebus.runtime.journal.records import number_of

__all__ = ["MemoryJournal"]

_ME = 1
_FIRST = Known(Standing.NEW, None, 1)


class MemoryJournal(OneByOne):
    """A Journal in memory, bounded in ids and in bytes of stored answers; counts what it had to forget early."""

    def __init__(self, limits: Limits | None = None):
        self._limits = limits or Limits()
        self._ledger = Ledger(self._limits)
        self._large_answers = 0

    def __repr__(self) -> str:
        return f"<MemoryJournal {self._ledger!r}>"

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Known]:
        self.tick(now)
        return [self._begin(start) for start in starts]

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        self._now = now
        entries, largest = self._ledger.entries, self._limits.max_answer_bytes // 2
        numbers: list[int] = []
        answers: dict[int, bytes] = {}
        until = 0
        for id, answer in ends:
            number = number_of(id)
            numbers.append(number)
            entry = entries.get(number)
            if answer is None or entry is None or entry[0] != _ME or number in answers:
                continue
            if len(answer) > largest:
                self._large_answers += 1
                continue
            answers[number] = answer
            if entry[3] > until:
                until = entry[3]
        self._ledger.finish(_ME, numbers)
        if answers:
            self._keep(answers, until)

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        self._ledger.release(_ME, why, [number_of(id) for id in ids])

    def tick(self, now: float) -> None:
        self._now = now
        if self._ledger.is_compaction_due(now):
            self._compact()

    def snapshot(self) -> dict[str, Any]:
        return self._ledger.sizes(self._large_answers)

    def close(self) -> None:
        """Nothing to let go of."""

    def _compact(self) -> None:
        self._ledger.compact(self._ledger.plan(seconds(self._now)))

    def _begin(self, start: Start) -> Known:
        id, until, _, sent_at = start
        number, sent, ledger = number_of(id), seconds(sent_at), self._ledger
        before = ledger.entries.get(number)
        ledger.begin(_ME, ((number, seconds(until + 1), sent),))
        entry = ledger.entries.get(number)
        if before is None and entry is not None and (not sent or sent > ledger.forgotten_until):
            return _FIRST
        if entry is None:
            return Known(Standing.FINISHED, ledger.answers.place_of(number))
        if before is not None and before[0] == _ME:
            return Known(Standing.RUNNING, None, entry[1])
        is_forgotten = entry[1] == 1 and 0 < sent <= ledger.forgotten_until
        return Known(Standing.FORGOTTEN if is_forgotten else Standing.NEW, None, entry[1])

    def _keep(self, answers: dict[int, bytes], until: int) -> None:
        self._ledger.applied += 1
        self._ledger.answers.keep(self._ledger.applied, answers, seconds(self._now), until)
        if self._ledger.answers.size > self._limits.max_answer_bytes:
            self._compact()
