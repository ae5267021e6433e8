"""SqliteLog: the log of the shared journal in one SQLite file, for the workers of one machine.

Each row is one INSERT that commits by itself into SQLite's write-ahead log: about ten microseconds, without waiting for
the disk. The kernel has the row then, so no death of a process loses it; when the whole machine goes down, what was
written since the last checkpoint may be lost (the last rows, never ones in the middle, and the file stays sound). A
thread of its own checkpoints, because that does wait for the disk.

SQLite itself waits for its lock in steps of milliseconds; here a second try is made after a tenth of one.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

from servicebus.runtime.journal.checkpoints import Checkpointer
from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.runtime.journal.ledger import CHUNK_IDS, Changes
from servicebus.runtime.journal.log import Damaged, Row, Saved
from servicebus.runtime.journal.records import Compaction, Kind

__all__ = ["SqliteLog"]

T = TypeVar("T")

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (id BLOB PRIMARY KEY, expires INTEGER NOT NULL, bits BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    id BLOB PRIMARY KEY, owner INTEGER NOT NULL, attempts INTEGER NOT NULL, deaths INTEGER NOT NULL,
    expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owners (number INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS state (
    one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, at INTEGER NOT NULL,
    expired_before INTEGER NOT NULL, forget_before INTEGER NOT NULL, keep_from INTEGER NOT NULL,
    trim_to INTEGER NOT NULL, forgotten_now INTEGER NOT NULL, forgotten INTEGER NOT NULL,
    forgotten_answers INTEGER NOT NULL
);
INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0, 0);
"""
_APPEND = "INSERT INTO log (kind, data) VALUES (?, ?)"
_APPEND_BOTH = "INSERT INTO log (kind, data) VALUES (?, ?), (?, ?)"
_READ = "SELECT seq, kind, data FROM log WHERE seq > ? AND seq < ? ORDER BY seq"
_LAST = 2**63 - 1
_KEY_BYTES = 16
_PAGE_BYTES = 2048
"""Each row writes a page: half of the usual size saves a tenth of the time."""
_FULL = (1 << CHUNK_IDS) - 1
_KEPT_OWNERS = 100
"""Rows of owners are for people who look; the numbers are not used again anyway."""

_FIRST_PAUSE_S = 0.00005
_LONGEST_PAUSE_S = 0.002


class SqliteLog:
    """A Log. One connection, one thread.

    Args:
        lock_wait_s: how long to wait while another process writes, which takes microseconds unless it is frozen.

    Raises:
        JournalUnavailable: the file cannot be opened. Damaged: it is none of ours.
    """

    def __init__(self, path: Path, lock_wait_s: float = 1.0):
        self._path = path
        self._lock_wait_s = lock_wait_s
        self._locked_since = 0.0
        """Since when somebody has kept us out, if our last wait was in vain."""
        self._connection = self._connect()
        try:
            self._retried(self._prepare)
        except JournalUnavailable:
            self._connection.close()
            raise
        self._cursor = self._connection.cursor()
        self._checkpointer = Checkpointer(path)

    def __repr__(self) -> str:
        return f"<SqliteLog {self._path}>"

    def append(self, kind: int, data: bytes) -> int:
        return self._insert(_APPEND, (kind, data))

    def append_both(self, first: tuple[int, bytes], second: tuple[int, bytes]) -> int:
        return self._insert(_APPEND_BOTH, first + second)

    def read(self, after: int, before: int | None = None) -> list[Row]:
        bounds = (after, _LAST if before is None else before)
        return self._retried(lambda: self._connection.execute(_READ, bounds).fetchall())

    def data(self, seq: int) -> bytes | None:
        query = "SELECT data FROM log WHERE seq = ?"
        row = self._retried(lambda: self._connection.execute(query, (seq,)).fetchone())
        return None if row is None else row[0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._retried(lambda: self._connection.execute("BEGIN IMMEDIATE"))
        try:
            yield
            self._retried(lambda: self._connection.execute("COMMIT"))
        finally:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # of a full disk we have been told already
                    self._connection.rollback()

    def save(self, seq: int, compaction: Compaction, changes: Changes, trimmed: int, totals: tuple[int, int]) -> None:
        try:
            self._save(changes)
            self._trim(compaction, trimmed)
            row = (1, seq, *compaction, *totals)
            self._connection.execute(f"INSERT OR REPLACE INTO state VALUES ({_marks(len(row))})", row)  # noqa: S608
        except sqlite3.Error as error:
            self._fail(error)

    def load(self) -> Saved:
        is_ours = not self._connection.in_transaction
        try:
            if is_ours:
                self._connection.execute("BEGIN")
            return self._load()
        except sqlite3.Error as error:
            self._fail(error)
        finally:
            if is_ours and self._connection.in_transaction:
                self._connection.rollback()

    def new_owner(self) -> int:
        def insert() -> int | None:
            sql = "INSERT INTO owners (pid, since) VALUES (?, ?)"
            return self._connection.execute(sql, (os.getpid(), time.time())).lastrowid

        number = self._retried(insert)
        assert number is not None
        old = (number - _KEPT_OWNERS,)
        self._retried(lambda: self._connection.execute("DELETE FROM owners WHERE number < ?", old))
        return number

    def checkpoint_soon(self) -> None:
        self._checkpointer.ask()

    def close(self) -> None:
        self._checkpointer.close()
        self._connection.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _insert(self, sql: str, values: tuple[int | bytes, ...]) -> int:
        try:
            self._cursor.execute(sql, values)
        except sqlite3.Error:
            self._retried(lambda: self._cursor.execute(sql, values))
        seq = self._cursor.lastrowid
        assert seq is not None
        return seq

    def _connect(self) -> sqlite3.Connection:
        try:
            # SQLite gives its other two files the mode of the first; answers are nobody else's business.
            # Only if it is not there: closing a file drops every lock that this process has on it, SQLite's as well.
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            # The main thread opens and closes, the I/O thread does the rest.
            return sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        except OSError as error:
            raise JournalUnavailable(str(self._path), f"cannot be opened: {error.strerror}") from error
        except sqlite3.Error as error:
            raise JournalUnavailable(str(self._path), f"cannot be opened: {error}") from error

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise JournalUnavailable(
                str(self._path), "cannot be shared here: its folder must be on a file system of this machine"
            )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise JournalUnavailable(str(self._path), f"has format {version}, this servicebus knows {_VERSION}")
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    def _save(self, changes: Changes) -> None:
        many = self._connection.executemany
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

    def _trim(self, compaction: Compaction, trimmed: int) -> None:
        execute = self._connection.execute
        trim_to = compaction.trim_to
        execute("DELETE FROM log WHERE seq < ?", (min(compaction.keep_from, trim_to + 1),))
        execute("DELETE FROM log WHERE seq > ? AND seq <= ? AND kind <> ?", (trimmed, trim_to, int(Kind.ANSWERS)))

    def _load(self) -> Saved:
        execute = self._connection.execute
        state = execute("SELECT * FROM state").fetchone()
        if state is None:
            raise Damaged(str(self._path), "holds no state")
        _, seq, *rest = state
        chunks = execute("SELECT id, expires, bits FROM chunks").fetchall()
        entries = execute("SELECT id, owner, attempts, deaths, expires FROM entries").fetchall()
        rows = execute(_READ, (0, _LAST)).fetchall()
        return Saved(
            seq,
            Compaction(*rest[:-2]),
            rest[-2],
            rest[-1],
            ((int.from_bytes(key, "big"), expires, _unpacked(bits)) for key, expires, bits in chunks),
            (
                (int.from_bytes(key, "big"), (owner, attempts, deaths, expires))
                for key, owner, attempts, deaths, expires in entries
            ),
            rows,
        )

    def _retried(self, action: Callable[[], T]) -> T:
        """What *action* gives, tried again while another process has the lock.

        Who has waited in vain does not wait again before it was let in once: our thread has pings to answer.
        """
        pause_s = _FIRST_PAUSE_S
        began = time.monotonic()
        deadline = began if self._locked_since else began + self._lock_wait_s
        while True:
            try:
                done = action()
            except sqlite3.Error as error:
                if not _is_locked(error):
                    self._fail(error)
                if time.monotonic() >= deadline:
                    self._locked_since = self._locked_since or began
                    self._fail(error)
            else:
                self._locked_since = 0.0
                return done
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        where = str(self._path)
        if _is_locked(error):
            holder = lock_holder(Path(f"{where}-shm"))
            who = f"process {holder}" if holder else "another process"
            now = time.monotonic()
            reason = f"{who} has kept it locked for {now - (self._locked_since or now):.1f} s"
            raise JournalUnavailable(where, reason, holder=holder) from error
        # "Not a database" and "malformed" have no class of their own, but every error that may pass has one.
        is_damaged = type(error) is sqlite3.DatabaseError
        raise (Damaged if is_damaged else JournalUnavailable)(where, str(error)) from error


def lock_holder(shm: Path) -> int | None:
    """The process that writes to the journal at the moment, as far as the kernel tells."""
    try:
        inode = f":{shm.stat().st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            # 1: POSIX  ADVISORY  WRITE 4711 fe:00:131 120 120 - the byte of SQLite's write lock
            if len(fields) == 8 and fields[3] == "WRITE" and fields[5].endswith(inode) and fields[6] == _WRITE_LOCK:
                return int(fields[4])
    except (OSError, ValueError):
        return None
    return None


_WRITE_LOCK = "120"


def _is_locked(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _key(number: int) -> bytes:
    return number.to_bytes(_KEY_BYTES, "big")


def _packed(bits: int) -> bytes:
    """A full chunk, as most are in the end, takes no room."""
    return b"" if bits == _FULL else bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _unpacked(data: bytes) -> int:
    return int.from_bytes(data, "little") or _FULL
