"""StateFile: the state that the rows of the shared log add up to, in one SQLite file; and the numbers of workers.

It is written by compactions, every few seconds, and when a worker starts; a transaction commits into SQLite's
write-ahead log without waiting for the disk. The kernel has it then, so no death of a process loses it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.runtime.journal.ledger import CHUNK_IDS, Changes, Entry
from servicebus.runtime.journal.log import Damaged
from servicebus.runtime.journal.records import Compaction
from servicebus.runtime.journal.refused import refused
from servicebus.runtime.journal.write_lock import Patience, holder_of

__all__ = ["State", "StateFile", "is_damage", "set_up"]

T = TypeVar("T")

_VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    id BLOB PRIMARY KEY, expires INTEGER NOT NULL, sent INTEGER NOT NULL, bits BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    id BLOB PRIMARY KEY, owner INTEGER NOT NULL, attempts INTEGER NOT NULL, deaths INTEGER NOT NULL,
    expires INTEGER NOT NULL, sent INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owners (number INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS state (
    one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, at INTEGER NOT NULL,
    expired_before INTEGER NOT NULL, forget_before INTEGER NOT NULL, forgotten_until INTEGER NOT NULL,
    keep_from INTEGER NOT NULL,
    trim_to INTEGER NOT NULL, forgotten_now INTEGER NOT NULL, forgotten INTEGER NOT NULL,
    forgotten_answers INTEGER NOT NULL
);
INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
CREATE TABLE IF NOT EXISTS identity (one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL);
INSERT OR IGNORE INTO identity VALUES (1, randomblob(16));
"""
_KEY_BYTES = 16
_FULL = (1 << CHUNK_IDS) - 1
_KEPT_OWNERS = 100
"""Rows of owners are for people who look; the numbers are not used again anyway."""
_WRITE_LOCK_BYTE = "120"
"""Of the file ``-shm``."""


class State(NamedTuple):
    """As it was saved last: all that row *seq* and those before it told."""

    seq: int
    compaction: Compaction
    forgotten: int
    forgotten_answers: int
    chunks: list[tuple[int, int, int, int]]
    entries: list[tuple[int, Entry]]


class StateFile:
    """One connection, one thread. Every method may raise JournalUnavailable, and has changed nothing then.

    Args:
        lock_wait_s: how long to wait while another process writes.

    Raises:
        JournalUnavailable: the file cannot be opened. Damaged: it is none of ours.
    """

    def __init__(self, path: Path, lock_wait_s: float):
        self._path = path
        self._patience = Patience(lock_wait_s)
        self._connection = self._connect()
        try:
            self._retried(self._prepare)
            self.identity = self._read_identity()
        except JournalUnavailable:
            self._connection.close()
            raise

    def __repr__(self) -> str:
        return f"<StateFile {self._path}>"

    def begin(self) -> None:
        """A transaction: nobody else writes meanwhile."""
        self._retried(lambda: self._connection.execute("BEGIN IMMEDIATE"))

    def commit(self) -> None:
        self._retried(lambda: self._connection.execute("COMMIT"))

    def rollback(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # of a full disk we have been told already
                self._connection.rollback()

    def save(self, seq: int, compaction: Compaction, changes: Changes, totals: tuple[int, int]) -> None:
        """In a transaction: the state after row *seq*."""
        try:
            self._save(changes)
            row = (1, seq, *compaction, *totals)
            marks = ", ".join("?" * len(row))
            self._connection.execute(f"INSERT OR REPLACE INTO state VALUES ({marks})", row)  # noqa: S608
        except sqlite3.Error as error:
            self._fail(error)

    def load(self) -> State:
        is_ours = not self._connection.in_transaction
        try:
            if is_ours:
                self._connection.execute("BEGIN")
            return self._load()
        except sqlite3.Error as error:
            self._fail(error)
        finally:
            if is_ours:
                self.rollback()

    def seq(self) -> int:
        """Up to which row the state is saved."""
        row = self._retried(lambda: self._connection.execute("SELECT seq FROM state").fetchone())
        if row is None:
            raise Damaged(str(self._path), "holds no state")
        return int(row[0])

    def new_owner(self) -> int:
        def insert() -> int | None:
            sql = "INSERT INTO owners (pid, since) VALUES (?, ?)"
            return self._connection.execute(sql, (os.getpid(), time.time())).lastrowid

        number = self._retried(insert)
        assert number is not None
        old = (number - _KEPT_OWNERS,)
        self._retried(lambda: self._connection.execute("DELETE FROM owners WHERE number < ?", old))
        return number

    def close(self) -> None:
        """Idempotent."""
        self._connection.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        try:
            # SQLite gives its other two files the mode of the first; what stands there is nobody else's business.
            # Only if it is not there: closing a file drops every lock that this process has on it, SQLite's as well.
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            # The main thread opens and closes, the I/O thread does the rest.
            return sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        except OSError as error:
            raise refused(self._path, f"cannot be opened: {error.strerror}") from error
        except sqlite3.Error as error:
            raise refused(self._path, f"cannot be opened: {error}") from error

    def _prepare(self) -> None:
        connection = self._connection
        set_up(connection)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise JournalUnavailable(
                str(self._path), "cannot be shared here: its folder must be on a file system of this machine"
            )
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise JournalUnavailable(str(self._path), f"has format {version}, this servicebus knows {_VERSION}")
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    def _read_identity(self) -> bytes:
        row = self._retried(lambda: self._connection.execute("SELECT id FROM identity").fetchone())
        if row is None:
            raise Damaged(str(self._path), "does not say which journal it is")
        return bytes(row[0])

    def _save(self, changes: Changes) -> None:
        many = self._connection.executemany
        many(
            "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)",
            ((_key(key), expires, sent, _packed(bits)) for key, expires, sent, bits in changes.chunks),
        )
        many("DELETE FROM chunks WHERE id = ?", ((_key(key),) for key in changes.lost_chunks))
        many(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)",
            ((_key(number), *entry) for number, entry in changes.entries),
        )
        many("DELETE FROM entries WHERE id = ?", ((_key(number),) for number in changes.lost_entries))

    def _load(self) -> State:
        execute = self._connection.execute
        state = execute("SELECT * FROM state").fetchone()
        if state is None:
            raise Damaged(str(self._path), "holds no state")
        _, seq, *rest = state
        chunks = execute("SELECT id, expires, sent, bits FROM chunks").fetchall()
        entries = execute("SELECT id, owner, attempts, deaths, expires, sent FROM entries").fetchall()
        return State(
            seq,
            Compaction(*rest[:-2]),
            rest[-2],
            rest[-1],
            [(int.from_bytes(key, "big"), expires, sent, _unpacked(bits)) for key, expires, sent, bits in chunks],
            [
                (int.from_bytes(key, "big"), (owner, attempts, deaths, expires, sent))
                for key, owner, attempts, deaths, expires, sent in entries
            ],
        )

    def _retried(self, action: Callable[[], T]) -> T:
        """What *action* gives, tried again while another process has the lock."""
        done: list[T] = []
        failed: list[sqlite3.Error] = []

        def attempt() -> bool:
            try:
                done.append(action())
            except sqlite3.Error as error:
                if not _is_locked(error):
                    self._fail(error)
                failed.append(error)
                return False
            return True

        if not self._patience.insist(attempt):
            self._fail(failed[-1])
        return done[0]

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        where = str(self._path)
        if _is_locked(error):
            holder = holder_of(Path(f"{where}-shm"), "POSIX", _WRITE_LOCK_BYTE)
            raise JournalUnavailable(where, self._patience.reason(holder), holder=holder) from error
        raise (Damaged(where, str(error)) if is_damage(error) else refused(self._path, str(error))) from error


def set_up(connection: sqlite3.Connection) -> None:
    """What every connection needs: it never waits for the disk, unless it is told to checkpoint."""
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")


def is_damage(error: Exception) -> bool:
    # "Not a database" and "malformed" have no class of their own, but every error that may pass has one.
    return type(error) is sqlite3.DatabaseError


def _is_locked(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _key(number: int) -> bytes:
    return number.to_bytes(_KEY_BYTES, "big")


def _packed(bits: int) -> bytes:
    """A full chunk, as most are in the end, takes no room."""
    return b"" if bits == _FULL else bits.to_bytes(bits.bit_length() // 8 + 1, "little")


def _unpacked(data: bytes) -> int:
    return int.from_bytes(data, "little") if data else _FULL
