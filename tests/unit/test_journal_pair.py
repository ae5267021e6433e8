"""Two journals behind one face: each id is one of them's, and a failure of one begins nothing in the other."""

from __future__ import annotations

import pytest

from servicebus.errors import JournalUnavailable
from servicebus.protocol.plain import PLAIN_COUNT
from servicebus.runtime.journal import IdStatus, MemoryJournal, Release, Start
from servicebus.runtime.journal.pair import JournalPair

NOW = 1_000_000.0
OURS, PLAIN = "00000000000000aa-1", f"00000000000000bb-{PLAIN_COUNT}"


class Broken(MemoryJournal):
    is_broken = False

    def begin_many(self, starts: object, now: float) -> list[object]:  # type: ignore[override]
        if self.is_broken:
            raise JournalUnavailable("here", "it is broken")
        return super().begin_many(starts, now)  # type: ignore[arg-type,return-value]


@pytest.fixture
def pair() -> tuple[JournalPair, Broken, MemoryJournal]:
    first, second = Broken(), MemoryJournal()
    return JournalPair(first, second, lambda id: id.endswith(f"-{PLAIN_COUNT}")), first, second


def starts(*ids: str) -> list[Start]:
    return [Start(id, NOW + 60) for id in ids]


Pair = tuple[JournalPair, Broken, MemoryJournal]


def test_answers_come_in_the_order_of_the_questions(pair: Pair) -> None:
    journal, _, _ = pair
    assert [each.status for each in journal.begin_many(starts(PLAIN, OURS), NOW)] == [IdStatus.NEW] * 2
    journal.finish_many([(PLAIN, b"plain"), (OURS, None)], NOW)
    assert sorted(journal.finished([OURS, PLAIN, "00000000000000cc-1"])) == sorted([OURS, PLAIN])
    found = journal.begin_many(starts(OURS, PLAIN), NOW)
    assert [(each.status, each.answer) for each in found] == [(IdStatus.FINISHED, None), (IdStatus.FINISHED, b"plain")]


def test_each_id_is_in_one_of_them(pair: Pair) -> None:
    journal, first, second = pair
    journal.begin_many(starts(PLAIN, OURS), NOW)
    assert MemoryJournal.begin_many(first, starts(PLAIN), NOW)[0].status is IdStatus.NEW
    assert second.begin_many(starts(OURS), NOW)[0].status is IdStatus.NEW


def test_one_that_fails_begins_nothing_in_the_other(pair: Pair) -> None:
    journal, first, _ = pair
    first.is_broken = True
    with pytest.raises(JournalUnavailable):
        journal.begin_many(starts(PLAIN, OURS), NOW)
    first.is_broken = False
    assert [each.status for each in journal.begin_many(starts(PLAIN, OURS), NOW)] == [IdStatus.NEW] * 2


def test_what_is_released_may_come_again(pair: Pair) -> None:
    journal, _, _ = pair
    journal.begin_many(starts(PLAIN, OURS), NOW)
    journal.release_many([PLAIN, OURS], Release.FAILED)
    assert [each.attempts for each in journal.begin_many(starts(PLAIN, OURS), NOW)] == [2, 2]
    assert "plain" in journal.snapshot()
    journal.tick(NOW)
    journal.close()
