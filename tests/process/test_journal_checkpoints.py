"""Checkpoints of several processes, without a pause: what was written stays written, whatever SQLite is underneath.

With plain ``PRAGMA wal_checkpoint`` rows vanish, or the database is malformed, on SQLite before 3.51.3 ("The WAL-Reset
Bug"): not in each run of this test, but within half a minute of the same traffic in memory (seen).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from servicebus.runtime.journal.checkpoints import Saver

_FORK = multiprocessing.get_context("fork")
_ROWS = 800


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def _write(path: Path, told: Any) -> None:
    connection, last = _connected(path), 0
    try:
        for _ in range(_ROWS):
            row = connection.execute("INSERT INTO log (data) VALUES (?)", (os.urandom(300),)).lastrowid or 0
            assert row > last, f"row {last} is gone, the next one is {row}"
            last = row
            if random.random() < 0.5:
                time.sleep(random.random() * 0.002)  # moments in which everything is saved are what it takes
        told.put("")
    except (sqlite3.Error, AssertionError) as error:
        told.put(f"{type(error).__name__}: {error}")


def _save(path: Path, is_over: Event) -> None:
    saver = Saver(path)
    while not is_over.is_set():
        try:
            saver.checkpoint()
        except sqlite3.OperationalError as error:
            assert "locked" in str(error)
    saver.close()


def test_checkpoints_lose_nothing_of_what_is_written_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    connection = _connected(path)
    connection.execute("PRAGMA page_size = 512")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, data BLOB)")
    connection.close()
    told, is_over = _FORK.Queue(), _FORK.Event()
    writers = [_FORK.Process(target=_write, args=(path, told)) for _ in range(2)]
    savers = [_FORK.Process(target=_save, args=(path, is_over)) for _ in range(3)]
    for process in writers + savers:
        process.start()
    assert [told.get(timeout=100) for _ in writers] == ["", ""]
    is_over.set()
    for process in writers + savers:
        process.join(20)
        assert process.exitcode == 0
    connection = _connected(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*), max(seq) FROM log").fetchone() == (2 * _ROWS, 2 * _ROWS)
    connection.close()
