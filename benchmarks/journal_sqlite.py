"""SqliteLog: the log of the shared journal in one SQLite file, as a rival in benchmarks/journal.py. Not in the product.

It was, until 2026-11-21: each row is one INSERT, which commits by itself into SQLite's write-ahead log.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from servicebus.runtime.journal.checkpoints import Saver
from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.runtime.journal.ledger import CHUNK_IDS, Changes
from servicebus.runtime.journal.log import Row, Saved
from servicebus.runtime.journal.records import Compaction, Kind
from servicebus.runtime.journal.state_file import set_up

T = TypeVar("T")

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (id BLOB PRIMARY KEY, expires INTEGER NOT NULL, bits BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    id BLOB PRIMARY KEY, owner INTEGER NOT NULL, attempts INTEGER NOT NULL, deaths INTEGER NOT NULL,
    expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owners (number INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS state (
    one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, at INTEGER NOT NULL,
    expired_before INTEGER NOT NULL, forget_before INTEGER NOT NULL, keep_from INTEGER NOT NULL,
    trim_to INTEGER NOT NULL, forgotten_now INTEGER NOT NULL, forgotten INTEGER NOT NULL,
    forgotten_answers INTEGER NOT NULL
);
INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0, 0);
COMMIT;
"""
_APPEND = "INSERT INTO log (kind, data) VALUES (?, ?)"
_APPEND_BOTH = "INSERT INTO log (kind, data) VALUES (?, ?), (?, ?)"
_READ = "SELECT seq, kind, data FROM log WHERE seq > ? AND seq < ? ORDER BY seq"
_LAST = 2**63 - 1
_PAGE_BYTES = 2048
_FULL = (1 << CHUNK_IDS) - 1
_WAIT_S = 1.0


class SqliteLog:
    """A Log. One connection, one thread."""

    def __init__(self, path: Path):
        self._path = path
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        self._connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        self._retried(lambda: self._connection.execute("PRAGMA journal_mode = WAL"))
        set_up(self._connection)
        self._retried(lambda: self._connection.executescript(_SCHEMA))
        self._cursor = self._connection.cursor()
        self._trimmed = 0
        self._asked = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._checkpoint, daemon=True)
        self._thread.start()

    def append(self, kind: int, data: bytes) -> int:
        return self._insert(_APPEND, (kind, data))

    def append_both(self, first: tuple[int, bytes], second: tuple[int, bytes]) -> int:
        return self._insert(_APPEND_BOTH, first + second)

    def read(self, after: int, before: int | None = None) -> list[Row]:
        bounds = (after, _LAST if before is None else before)
        return self._retried(lambda: self._connection.execute(_READ, bounds).fetchall())

    def data(self, seq: int) -> bytes | None:
        row = self._connection.execute("SELECT data FROM log WHERE seq = ?", (seq,)).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._retried(lambda: self._connection.execute("BEGIN IMMEDIATE"))
        try:
            yield
            self._retried(lambda: self._connection.execute("COMMIT"))
        finally:
            if self._connection.in_transaction:
                self._connection.rollback()

    def save(self, seq: int, compaction: Compaction, changes: Changes, totals: tuple[int, int]) -> None:
        execute, many = self._connection.execute, self._connection.executemany
        many(
            "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)",
            ((_key(key), expires, _packed(bits)) for key, expires, bits in changes.chunks),
        )
        many("DELETE FROM chunks WHERE id = ?", ((_key(key),) for key in changes.lost_chunks))
        many(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
            ((_key(number), *entry) for number, entry in changes.entries),
        )
        many("DELETE FROM entries WHERE id = ?", ((_key(number),) for number in changes.lost_entries))
        trim_to = compaction.trim_to
        execute("DELETE FROM log WHERE seq < ?", (min(compaction.keep_from, trim_to + 1),))
        bounds = (self._trimmed, trim_to, int(Kind.ANSWERS))
        execute("DELETE FROM log WHERE seq > ? AND seq <= ? AND kind <> ?", bounds)
        self._trimmed = trim_to
        row = (1, seq, *compaction, *totals)
        execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def load(self) -> Saved:
        execute = self._connection.execute
        is_ours = not self._connection.in_transaction
        if is_ours:
            execute("BEGIN")
        _, seq, *rest = execute("SELECT * FROM state").fetchone()
        chunks = execute("SELECT id, expires, bits FROM chunks").fetchall()
        entries = execute("SELECT id, owner, attempts, deaths, expires FROM entries").fetchall()
        rows = execute(_READ, (0, _LAST)).fetchall()
        if is_ours:
            execute("COMMIT")
        return Saved(
            seq,
            Compaction(*rest[:-2]),
            rest[-2],
            rest[-1],
            ((int.from_bytes(key, "big"), expires, _unpacked(bits)) for key, expires, bits in chunks),
            ((int.from_bytes(key, "big"), tuple(entry)) for key, *entry in entries),
            rows,
        )

    def new_owner(self) -> int:
        sql = "INSERT INTO owners (pid) VALUES (?)"
        return self._retried(lambda: self._connection.execute(sql, (os.getpid(),)).lastrowid)

    def checkpoint_soon(self) -> None:
        self._asked.set()

    def close(self) -> None:
        self._is_closing = True
        self._asked.set()
        self._thread.join()
        self._connection.close()

    def _insert(self, sql: str, values: tuple[int | bytes, ...]) -> int:
        try:
            self._cursor.execute(sql, values)
        except sqlite3.Error:
            self._retried(lambda: self._cursor.execute(sql, values))
        return self._cursor.lastrowid

    def _retried(self, action: Callable[[], T]) -> T:
        """What *action* gives, tried again while another process has the lock."""
        pause_s, deadline = 0.00005, time.monotonic() + _WAIT_S
        while True:
            try:
                return action()
            except sqlite3.Error as error:
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise JournalUnavailable(str(self._path), str(error)) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.002)

    def _checkpoint(self) -> None:
        with closing(Saver(self._path)) as saver:
            while self._asked.wait() and not self._is_closing:
                self._asked.clear()
                saver.checkpoint()


def _key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _packed(bits: int) -> bytes:
    return b"" if bits == _FULL else bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _unpacked(data: bytes) -> int:
    return int.from_bytes(data, "little") or _FULL
