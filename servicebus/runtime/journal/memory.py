"""MemoryJournal: one worker's own memory. It refuses replays and answers redeliveries within one worker process.

A call that is re-sent over another broker reaches another worker, which knows nothing of it; and nothing outlives the
process. For that there is SharedJournal. What both know of ids is a Ledger; here the answers are in memory as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from servicebus.runtime.journal.interface import Known, OneByOne, Release, Standing, Start
from servicebus.runtime.journal.ledger import Ledger, Limits
from servicebus.runtime.journal.records import number_of
from servicebus.runtime.journal.replica import seconds

__all__ = ["MemoryJournal"]

_ME = 1
_FIRST = Known(Standing.NEW, None, 1)
_COMPACT_IDS = 4096
_COMPACT_EVERY_S = 10


_Answer = tuple[bytes, float, int]
"""The answer, when it was stored, and when its id expires."""


class MemoryJournal(OneByOne):
    """A Journal in memory, bounded in ids and in bytes of stored answers; counts what it had to forget early."""

    def __init__(self, limits: Limits | None = None):
        self._limits = limits or Limits()
        self._ledger = Ledger(self._limits)
        self._compactions = 0
        self._answers: OrderedDict[int, _Answer] = OrderedDict()
        self._answer_bytes = 0
        self._forgotten_answers = 0

    def __repr__(self) -> str:
        return f"<MemoryJournal {self._ledger!r} answer_bytes={self._answer_bytes}>"

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Known]:
        self.tick(now)
        return [self._begin(start) for start in starts]

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        self._now = now
        entries = self._ledger.entries
        numbers = [number_of(id) for id, _ in ends]
        for number, (_, answer) in zip(numbers, ends, strict=True):
            entry = entries.get(number) if answer is not None else None
            if answer is not None and entry is not None and entry[0] == _ME and number not in self._answers:
                self._store(number, answer, entry[3])
        self._ledger.finish(_ME, numbers)
        self._drop_answers()

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        self._ledger.release(_ME, why, [number_of(id) for id in ids])

    def tick(self, now: float) -> None:
        self._now = now
        ledger = self._ledger
        if ledger.pending >= _COMPACT_IDS or (ledger.pending and abs(now - ledger.compacted_at) >= _COMPACT_EVERY_S):
            self._compactions += 1
            ledger.compact(self._compactions, ledger.plan(seconds(now)))
        self._drop_answers()

    def snapshot(self) -> dict[str, Any]:
        ledger = self._ledger
        return {
            "chunks": ledger.chunk_count,
            "unfinished": len(ledger.entries),
            "answers": len(self._answers),
            "answer_bytes": self._answer_bytes,
            "forgotten_early": ledger.forgotten,
            "forgotten_until": ledger.forgotten_until,
            "answers_forgotten_early": self._forgotten_answers,
        }

    def close(self) -> None:
        """Nothing to let go of."""

    def _begin(self, start: Start) -> Known:
        id, until, _, sent_at = start
        number, sent, ledger = number_of(id), seconds(sent_at), self._ledger
        before = ledger.entries.get(number)
        ledger.begin(_ME, ((number, seconds(until + 1), sent),))
        entry = ledger.entries.get(number)
        if before is None and entry is not None and (not sent or sent > ledger.forgotten_until):
            return _FIRST
        if entry is None:
            answer = self._answers.get(number)
            return Known(Standing.FINISHED, answer[0] if answer is not None else None)
        if before is not None and before[0] == _ME:
            return Known(Standing.RUNNING, None, entry[1])
        is_forgotten = entry[1] == 1 and 0 < sent <= ledger.forgotten_until
        return Known(Standing.FORGOTTEN if is_forgotten else Standing.NEW, None, entry[1])

    def _store(self, number: int, data: bytes, until: int) -> None:
        if len(data) > self._limits.max_answer_bytes // 2:
            self._forgotten_answers += 1
            return
        self._answers[number] = (data, self._now, until)
        self._answer_bytes += len(data)

    def _drop_answers(self) -> None:
        """The oldest, which are over or too much."""
        answers, limits, now = self._answers, self._limits, self._now
        while answers:
            number = next(iter(answers))
            data, at, until = answers[number]
            is_over = at + limits.reply_keep_s <= now or until <= now
            if not is_over and self._answer_bytes <= limits.max_answer_bytes:
                return
            self._forgotten_answers += not is_over
            self._answer_bytes -= len(data)
            del answers[number]
