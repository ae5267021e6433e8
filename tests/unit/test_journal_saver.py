"""Saver: what it has opened when the next cannot be opened is closed."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from servicebus.runtime.byte_locks import LockFile
from servicebus.runtime.journal import checkpoints
from servicebus.runtime.journal.checkpoints import Checkpointer, Saver


@pytest.mark.parametrize("works", [0, 1])
def test_a_connection_that_cannot_be_set_up_leaves_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: int
) -> None:
    opened: list[sqlite3.Connection] = []
    locks: list[LockFile] = []

    def set_up(connection: sqlite3.Connection) -> None:
        opened.append(connection)
        if len(opened) > works:
            raise sqlite3.OperationalError("disk I/O error")

    def lock_file(path: Path) -> LockFile:
        locks.append(LockFile(path))
        return locks[-1]

    monkeypatch.setattr(checkpoints, "set_up", set_up)
    monkeypatch.setattr(checkpoints, "LockFile", lock_file)
    with pytest.raises(sqlite3.OperationalError):
        Saver(tmp_path / "journal")
    assert len(opened) == works + 1
    for each in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
            each.execute("SELECT 1")
    (lock,) = locks
    assert lock._fd == -1


def test_a_checkpointer_may_be_closed_while_its_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a TERM in a worker's first moment: the main thread closes what the I/O thread begins to use."""
    start = threading.Thread.start
    unused: Any = None
    checkpointer = Checkpointer(unused, unused)
    started: list[threading.Thread] = []

    def close_and_start(thread: threading.Thread) -> None:
        checkpointer.close()
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", close_and_start)
    checkpointer.ask()
    checkpointer.close()
    (thread,) = started
    thread.join(10)
    assert not thread.is_alive(), "it has nothing to do any more"


def test_all_is_closed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver: Any = Saver(tmp_path / "journal")
    saver.checkpoint()
    saver.close()
    for each in (saver._saves, saver._reads):
        with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
            each.execute("SELECT 1")
    assert saver._turn._fd == -1
