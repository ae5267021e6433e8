"""WriteLock: one writer at a time, a wait that ends, and no second wait in vain."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from servicebus.runtime.journal import JournalUnavailable
from servicebus.runtime.journal.write_lock import WriteLock


def lock(path: Path, wait_s: float = 0.0) -> WriteLock:
    return WriteLock(path / "lock", "the journal", wait_s)


def test_two_take_it_one_after_the_other(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    for each in (first, second, first):
        each.take()
        each.drop()
    first.close()
    first.close()
    second.close()


def test_who_has_it_is_named(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    first.take()
    with pytest.raises(JournalUnavailable, match=f"process {os.getpid()} has kept it locked for ") as caught:
        second.take()
    assert caught.value.holder == os.getpid()
    first.drop()
    second.take()
    first.close()
    second.close()


def test_after_a_wait_in_vain_there_is_none_until_it_was_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    first, second = lock(tmp_path), lock(tmp_path, wait_s=0.5)
    waits = []
    for is_free in (False, False, True, False):
        first.take()
        if is_free:
            first.drop()
        slept.clear()
        if is_free:
            second.take()
            second.drop()
        else:
            with pytest.raises(JournalUnavailable):
                second.take()
            first.drop()
        waits.append(round(sum(slept), 1))
    assert waits == [0.5, 0.0, 0.0, 0.5]
    assert max(slept) == 0.002
    first.close()
    second.close()


def test_a_lock_that_cannot_be_taken_says_which_journal_it_is(tmp_path: Path) -> None:
    closed = lock(tmp_path)
    closed.close()
    with pytest.raises(JournalUnavailable, match="the journal"):
        closed.take()
