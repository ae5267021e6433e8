"""What the journal in memory does beyond the contract (fixtures/journal_contract.py)."""

from __future__ import annotations

from journal_words import DAY_S, NOW, begin, finish, id_of, statuses

from servicebus.runtime.journal import IdStatus, Limits, MemoryJournal


def test_it_tells_its_sizes() -> None:
    journal = MemoryJournal()
    begin(journal, 1, 2)
    finish(journal, 1, answer=b"x" * 40)
    assert journal.snapshot() == {
        "chunks": 1,
        "unfinished": 1,
        "answers": 1,
        "answer_bytes": 40,
        "forgotten_early": 0,
        "forgotten_until": 0,
        "answers_forgotten_early": 0,
    }


def test_an_id_that_is_still_running_outlives_finished_ones_when_there_are_too_many() -> None:
    """Running ids are few (the prefetch) and forgetting one could run it twice at the same time."""
    journal = MemoryJournal(Limits(max_entries=3))
    begin(journal, 1)
    for sender in range(10):
        journal.begin(id_of(1, f"{sender:016x}"), NOW, NOW + 60 + 2 * sender)
        journal.finish(id_of(1, f"{sender:016x}"), None)
    journal.tick(NOW + 11)
    assert journal.snapshot()["forgotten_early"] == 8
    assert statuses(journal, 1) == [IdStatus.RUNNING]


def test_ids_that_live_long_do_not_keep_those_that_are_over() -> None:
    """A message's id is remembered for a day, a call's for its deadline; both stand in one journal."""
    journal = MemoryJournal()
    begin(journal, 1, lives_s=DAY_S)
    finish(journal, 1)
    for sender in range(1, 1001):
        now = NOW + 20 * sender
        journal.begin(id_of(1, f"{sender:016x}"), now, now + 5)
        journal.finish(id_of(1, f"{sender:016x}"), b"x" * 100)
    assert journal.snapshot()["chunks"] < 200
    assert journal.snapshot()["answer_bytes"] == 100
    assert statuses(journal, 1, now=NOW + 20_000) == [IdStatus.FINISHED]
