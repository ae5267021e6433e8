"""What brings the shared journal to the disk: when a snapshot is taken, by whom, and what becomes of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from journal_words import NOW, begin, finish, statuses
from waiting import wait_until

from servicebus.errors import JournalUnavailable
from servicebus.runtime.byte_locks import LockFile
from servicebus.runtime.journal import (
    IdStatus,
    Limits,
    SharedJournal,
    checkpointer,
    files,
    open_shared,
    segments,
    snapshot,
)
from servicebus.runtime.journal.checkpointer import Checkpointer
from servicebus.runtime.journal.interface import Damaged
from servicebus.runtime.journal.state import State

Open = Callable[[], SharedJournal]
NOTHING: Any = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "NODE-01.journal"


@pytest.fixture
def open_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Segments are full soon, and snapshots soon due."""
    monkeypatch.setattr(files, "_ROWS_BYTES", 4096)
    monkeypatch.setattr(files, "_ANSWERS_BYTES", 4096)
    monkeypatch.setattr(checkpointer, "_LEAST_BYTES", 3 * 4096)
    opened = []

    def open_one() -> SharedJournal:
        journal = open_shared(str(path), Limits(), lock_wait_s=0.05)
        opened.append(journal)
        return journal

    yield open_one
    for journal in opened:
        journal.close()


def work(journal: SharedJournal, first: int, last: int) -> None:
    for count in range(first, last):
        begin(journal, count)
        finish(journal, count, answer=b"%d" % count)


def hand_over(journal: SharedJournal) -> Checkpointer:
    """What its thread would be given; for the test to do the rest."""
    replica = journal._replica
    found = replica.log.checkpointer
    found.ask = lambda: None  # type: ignore[method-assign]
    found.wants_state = True
    replica.log.checkpoint(replica.ledger.applied, replica.ledger.state.copy, replica.ledger.answers.first_place)
    return found


def seq_in(path: Path) -> int:
    return snapshot.read_header(path).seq


def test_a_snapshot_is_taken_when_the_rows_have_outgrown_the_last_one(path: Path, open_journal: Open) -> None:
    journal = open_journal()
    work(journal, 1, 20)

    def ticked() -> bool:
        journal._checkpoint_at = 0
        journal.tick(NOW)
        return seq_in(path) > 0

    for _ in range(3):
        ticked()
    assert seq_in(path) == 0, "there is little to take in yet"
    work(journal, 20, 300)
    wait_until(ticked, what="a snapshot to be taken")
    assert seq_in(path) >= 599
    other = open_journal()
    assert statuses(other, 1, 299, 300) == [IdStatus.FINISHED, IdStatus.FINISHED, IdStatus.NEW]
    assert begin(other, 1)[0].answer == b"1", "answers are found again, though their rows are taken in"
    assert begin(other, 299)[0].answer == b"299"


def test_one_worker_takes_it_and_others_leave_it_to_that_one(path: Path, open_journal: Open) -> None:
    ours, other = open_journal(), open_journal()
    work(ours, 1, 50)
    for journal in (other, ours):
        journal.tick(NOW)
    turn = LockFile(path.with_name(path.name + ".lock"))
    assert turn.try_lock(checkpointer._SNAPSHOT)
    hand_over(ours).checkpoint()
    assert seq_in(path) == 0
    turn.close()
    hand_over(ours).checkpoint()
    taken = seq_in(path)
    assert taken > 0
    identity = path.stat().st_ino
    hand_over(other).checkpoint()
    assert (seq_in(path), path.stat().st_ino) == (taken, identity), "it knows no more than what is there"


def test_a_journal_is_not_begun_anew_while_a_snapshot_is_written(path: Path, open_journal: Open) -> None:
    """A worker that ends does not wait for its disk for ever, and what it writes then must not hit another journal."""
    open_journal().close()
    turn = LockFile(path.with_name(path.name + ".lock"))
    turn.try_lock(checkpointer._SNAPSHOT)
    path.write_bytes(b"damaged")
    with pytest.raises(JournalUnavailable, match="replaced when the last worker that uses it has ended"):
        open_journal()
    turn.close()
    assert statuses(open_journal(), 1) == [IdStatus.NEW]


@pytest.mark.parametrize("when", ["before", "at the end"])
def test_a_worker_that_ends_leaves_the_snapshot_that_is_there(
    path: Path, open_journal: Open, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    journal = open_journal()
    work(journal, 1, 50)
    found = hand_over(journal)
    if when == "before":
        found._is_closing = True
        with pytest.raises(InterruptedError):
            found.checkpoint()
    else:
        fsync = os.fsync

        def close_and_fsync(fd: int) -> None:
            found._is_closing = path.with_name(path.name + ".new").exists()
            fsync(fd)

        monkeypatch.setattr(os, "fsync", close_and_fsync)
        found.checkpoint()
    assert seq_in(path) == 0
    assert not path.with_name(path.name + ".new").exists()


@pytest.mark.parametrize("is_taken", [False, True])
def test_no_worker_gets_the_number_of_one_that_is_remembered(
    path: Path, open_journal: Open, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    numbers = []
    for life in range(3):
        monkeypatch.setattr(segments, "_BOOT", path.parent / f"boot-{life}")
        segments._BOOT.write_text(f"{life}")
        workers = [open_journal() for _ in range(3)]
        numbers += [worker._me for worker in workers]
        if is_taken:
            hand_over(workers[0]).checkpoint()
        for worker in workers:
            worker.close()
    assert numbers == list(range(1, 10))
    assert (seq_in(path) > 0) == is_taken


def test_a_disk_that_takes_none_is_named_once_and_all_goes_on(
    path: Path, open_journal: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal()
    work(journal, 1, 300)
    with monkeypatch.context() as full:

        def write(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(snapshot, "write", write)

        def has_said_so() -> bool:
            journal._checkpoint_at = 0
            journal.tick(NOW)
            return "cannot be brought to the disk: [Errno 28] No space left" in caplog.text

        wait_until(has_said_so)
        work(journal, 300, 310)
    assert caplog.text.count("cannot be brought") == 1

    def is_taken() -> bool:
        journal._checkpoint_at = 0
        journal.tick(NOW)
        return seq_in(path) > 0

    wait_until(is_taken, what="it to be tried again")


def test_it_may_be_closed_while_its_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a TERM in a worker's first moment: the main thread closes what the I/O thread begins to use."""
    start = threading.Thread.start
    found = Checkpointer(NOTHING, NOTHING)
    started: list[threading.Thread] = []

    def close_and_start(thread: threading.Thread) -> None:
        found.close()
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", close_and_start)
    found.ask()
    found.close()
    (thread,) = started
    thread.join(10)
    assert not thread.is_alive(), "it has nothing to do any more"


@pytest.mark.parametrize("chunks", [0, 1, 255, 256, 257, 700])
def test_a_snapshot_of_any_size_is_read_as_it_was_written_and_no_byte_of_it_may_be_wrong(
    tmp_path: Path, chunks: int
) -> None:
    full, some = ((1 << 4096) - 1) << 64, ((1 << 700) | 5) << 64
    state = State(7, 1, 2, 3, 4, 5, {number << 70: (full, some, 0)[number % 3] | number for number in range(chunks)})
    state = replace(state, entries={number << 64 | 9: (1, 2**33, 3, 4, 5) for number in range(chunks)})
    path, header = tmp_path / "x", snapshot.Header(b"i" * 16, 12, 11, 64)
    pauses: list[int] = []
    snapshot.write(path, header, state, lambda: True, lambda: pauses.append(1))
    assert snapshot.read(path) == (header, state)
    assert len(pauses) == 1 + 2 * -(-chunks // snapshot._AT_ONCE)
    content = path.read_bytes()
    for at in range(12, len(content), max(1, len(content) // 50)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(Damaged, match="is not whole"):
            snapshot.read(path)
        path.write_bytes(content[:at])
        with pytest.raises(Damaged, match="is no"):
            snapshot.read(path)
