"""OutboxFile: messages that no broker has taken yet, in one SQLite file that belongs to one process at a time.

What a transaction has stored survives the death of the process at any moment, and that of the machine (the disk is
waited for). The bodies are signed envelopes in plain text: the file shows what was sent, so it is the owner's alone.
Where SQLite cannot write, that a message needs no sending any more is noted in a file beside it (``outbox_ends.py``),
until it can.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import stat
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from servicebus.client.outbox_ends import EndsFile
from servicebus.errors import OutboxUnavailable
from servicebus.transport import forks
from servicebus.transport.disk_space import advice

__all__ = ["OutboxFile", "Stored"]

APPLICATION_ID = 0x53424F58
_SCHEMA = """
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL, target TEXT NOT NULL, event_id INTEGER NOT NULL,
    wire_id TEXT NOT NULL, due_ms INTEGER, expires_ms INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX by_node ON messages (node, seq);
CREATE INDEX by_expiry ON messages (expires_ms);
"""
_REFUSED_SCHEMA = """
CREATE TABLE IF NOT EXISTS refused (
    seq INTEGER PRIMARY KEY, node TEXT NOT NULL, target TEXT NOT NULL, event_id INTEGER NOT NULL, wire_id TEXT NOT NULL,
    due_ms INTEGER, expires_ms INTEGER NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL
)
"""
_REFUSED_AT_MOST = 100
_MUCH = 1024 * 1024
_BATCH_BYTES = 4 * 1024 * 1024
_AFTER_REMOVAL = "what it held is delivered as long as this Sender lives, then close the Sender and use it again"


class Stored(NamedTuple):
    """One message as it is kept."""

    target: str
    event_id: int
    wire_id: str
    due_ms: int | None
    expires_ms: int
    body: bytes
    seq: int = 0


class OutboxFile:
    """Opened in any thread, then used by one; ``count`` and ``bytes`` may be read by others.

    Raises:
        OutboxUnavailable: it cannot be opened, is in use, or is no outbox.
    """

    def __init__(self, path: str | os.PathLike[str], max_messages: int, max_bytes: int):
        self.path = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 Path's own raises for unknown users
        self._lock_path = self.path.with_name(self.path.name + ".lock")
        self.count = 0
        self.bytes = 0
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self._peak_bytes = 0
        self._expired: Counter[str] = Counter()
        self._ended: set[int] = set()
        """Noted in the file of ends, and not deleted yet. They are in no count."""
        self._refuse_what_is_no_file()
        self._lock_fd = self._lock()
        try:
            self._db = self._open()
        except BaseException:
            self._unlock()
            raise

    def __repr__(self) -> str:
        return f"<OutboxFile {self.path} count={self.count} bytes={self.bytes}>"

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything or nothing. Raises OutboxUnavailable: nothing, and the numbers are as before."""
        before = self.count, self.bytes
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if self._ended:
                self._db.executemany("DELETE FROM messages WHERE seq = ?", [(seq,) for seq in self._ended])
            yield
            self._refuse_if_removed()
            self._db.execute("COMMIT")
        except Exception as error:  # whatever it was: the caller must be told, and the next one finds it as it was
            self.count, self.bytes = before
            self._expired.clear()
            if self._db.in_transaction:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            raise self._unavailable("cannot be written", error) from error
        self._ended.clear()
        self._ends.clear()

    def add(self, node: str, message: Stored, now_ms: int) -> bool:
        """Store *message* behind all others; False if it does not fit."""
        if not self._fits(message):
            self.purge(now_ms)
            if not self._fits(message):
                return False
        self._ends.make_room(self.count + 1)
        self._db.execute(
            "INSERT INTO messages (node, target, event_id, wire_id, due_ms, expires_ms, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (node, *message[:-1]),
        )
        self.count += 1
        self.bytes += len(message.body)
        self._peak_bytes = max(self._peak_bytes, self.bytes)
        return True

    def oldest(self, node: str, limit: int, skipped: Iterable[int] = (), now_ms: int = 0) -> list[Stored]:
        """The next messages for *node* but for those *skipped*, in the order in which they were sent."""
        query = (
            "SELECT target, event_id, wire_id, due_ms, expires_ms, body, seq FROM messages WHERE node = ?"
            " AND seq NOT IN (SELECT value FROM json_each(?)) AND expires_ms > ? ORDER BY seq LIMIT ?"
        )
        found: list[Stored] = []
        size = 0
        for row in self._db.execute(query, (node, json.dumps([*skipped, *self._ended]), now_ms, limit)):
            found.append(Stored(*row))
            size += len(found[-1].body)
            if size >= _BATCH_BYTES:
                break
        return found

    def remove(self, seqs: Sequence[int]) -> int:
        """These are with a broker. Gives how many were still here: some may have expired on their way."""
        removed = 0
        for seq in seqs:
            row = self._db.execute("SELECT length(body) FROM messages WHERE seq = ?", (seq,)).fetchone()
            if row is not None:
                self._db.execute("DELETE FROM messages WHERE seq = ?", (seq,))
                self._gone(1, row[0])
                removed += 1
        return removed

    def note_ended(self, seqs: Sequence[int]) -> int:
        """``remove`` where no transaction succeeds, as on a full disk. Raises OutboxUnavailable: nothing is noted."""
        rows = {}
        try:
            for seq in seqs:
                row = self._db.execute("SELECT wire_id, length(body) FROM messages WHERE seq = ?", (seq,)).fetchone()
                if row is not None and seq not in self._ended:
                    rows[seq] = row
            if rows:
                self._ends.note([(seq, wire_id) for seq, (wire_id, _) in rows.items()])
        except (OSError, sqlite3.Error) as error:
            raise self._unavailable("cannot be written", error) from error
        self._ended.update(rows)
        self._gone(len(rows), sum(size for _, size in rows.values()))
        return len(rows)

    def refuse(self, seq: int, reason: str) -> int:
        """No broker will ever take this one: keep it in table ``refused``, the last hundred there. 0 if it is gone."""
        row = self._db.execute("SELECT length(body) FROM messages WHERE seq = ?", (seq,)).fetchone()
        if row is None:
            return 0
        self._db.execute(
            "INSERT INTO refused SELECT seq, node, target, event_id, wire_id, due_ms, expires_ms, body, ?"
            " FROM messages WHERE seq = ?",
            (reason, seq),
        )
        self._db.execute("DELETE FROM messages WHERE seq = ?", (seq,))
        self._gone(1, row[0])
        self._db.execute(
            "DELETE FROM refused WHERE seq NOT IN (SELECT seq FROM refused ORDER BY seq DESC LIMIT ?)",
            (_REFUSED_AT_MOST,),
        )
        return 1

    def purge(self, now_ms: int) -> None:
        """Let go of what has expired."""
        query = "SELECT node, count(*), sum(length(body)) FROM messages WHERE expires_ms <= ? GROUP BY node"
        rows = self._db.execute(query, (now_ms,)).fetchall()
        for node, count, size in rows:
            self._expired[node] += count
            self._gone(count, size)
        if rows:
            self._db.execute("DELETE FROM messages WHERE expires_ms <= ?", (now_ms,))

    def take_expired(self) -> dict[str, int]:
        """How many have expired since this was asked last, by node."""
        expired, self._expired = self._expired, Counter()
        return dict(expired)

    def counts(self) -> dict[str, int]:
        """How many there are, by node."""
        query = "SELECT node, count(*) FROM messages WHERE seq NOT IN (SELECT value FROM json_each(?)) GROUP BY node"
        return dict(self._db.execute(query, (json.dumps(list(self._ended)),)))

    def tidy(self) -> None:
        """Give the room back to the disk when everything is gone that was much. Outside of a transaction."""
        if self.count or self._peak_bytes < _MUCH:
            return
        self._peak_bytes = 0
        with suppress(sqlite3.Error):  # another time
            # As a script, which runs to its end: execute() would stop after one page.
            self._db.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._db.close()
        self._ends.close()
        self._unlock()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _fits(self, message: Stored) -> bool:
        return self.count < self.max_messages and self.bytes + len(message.body) <= self.max_bytes

    def _gone(self, count: int, size: int) -> None:
        self.count -= count
        self.bytes -= size

    def _unavailable(self, what: str, error: Exception) -> OutboxUnavailable:
        to_do = advice(self.path, "give the Sender another outbox")
        return OutboxUnavailable(str(self.path), f"{what}: {error}; {to_do}" if to_do else f"{what}: {error}")

    def _open(self) -> sqlite3.Connection:
        try:
            self._make_private()
            db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._unavailable("cannot be opened", error) from error
        try:
            self._prepare(db)
            self._found = [(path, path.stat()) for path in (self.path, self._lock_path)]
            self._ends = self._open_ends(db)
        except (OSError, sqlite3.Error) as error:
            db.close()
            if isinstance(error, OSError) or (isinstance(error, sqlite3.OperationalError) and advice(self.path, "")):
                raise self._unavailable("cannot be opened", error) from error
            # Never begun again by itself: it may hold what a caller was told is safe.
            reason = f"is damaged or no outbox ({error}); look at it, then move it away"
            raise OutboxUnavailable(str(self.path), reason) from error
        return db

    def _open_ends(self, db: sqlite3.Connection) -> EndsFile:
        ends = EndsFile(self.path.with_name(self.path.name + ".ends"))
        try:
            for seq, digest in ends.noted.items():
                row = db.execute("SELECT wire_id, length(body) FROM messages WHERE seq = ?", (seq,)).fetchone()
                if row is not None and ends.is_of(digest, row[0]):
                    self._ended.add(seq)
                    self._gone(1, row[1])
        except sqlite3.Error:
            ends.close()
            raise
        with suppress(OSError):  # said when a message is to be accepted
            ends.make_room(self.count)
        return ends

    def _refuse_what_is_no_file(self) -> None:
        """Before anything is made beside it: a device, say /dev/null, keeps nothing, and its mode is not ours."""
        with suppress(OSError):  # said by those who open it
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise OutboxUnavailable(str(self.path), "is not a regular file; name one that may be created")

    def _refuse_if_removed(self) -> None:
        """What is stored in a removed file is lost with this process: the next one opens another file."""
        for path, found in self._found:
            with suppress(FileNotFoundError):
                if os.path.samestat(found, path.stat()):
                    continue
            raise OSError(f"{path.name} was removed or replaced while in use; {_AFTER_REMOVAL}")

    def _make_private(self) -> None:
        """Create it before SQLite does, for its owner alone; SQLite gives its other files the same mode.

        A file that is there already keeps the mode that it has. Closed before SQLite opens it, or its locks were lost.
        """
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def _prepare(self, db: sqlite3.Connection) -> None:
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        is_new = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if not is_new and application_id != APPLICATION_ID:
            raise sqlite3.DatabaseError("it was written by another program")
        if is_new:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 4194304")
        if is_new:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID}; COMMIT;")
        db.execute(_REFUSED_SCHEMA)
        self.count, self.bytes = db.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM messages").fetchone()
        self._peak_bytes = self.bytes

    def _lock(self) -> int:
        try:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            why = f"the folder {self.path.parent} does not exist" if is_missing else error.strerror
            raise OutboxUnavailable(str(self.path), f"cannot be locked: {why}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            reason = "is in use by another Sender; each process, and each Sender in it, needs a file of its own"
            raise OutboxUnavailable(str(self.path), reason) from None
        _open_files.add(self)
        return fd

    def _unlock(self) -> None:
        _open_files.discard(self)
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)  # a child that was forked just now may have its copy open still
        os.close(self._lock_fd)

    def _leave_to_parent(self) -> None:
        """In a forked child: a lock is let go of when the last copy of its descriptor is closed."""
        os.close(self._lock_fd)


_open_files: weakref.WeakSet[OutboxFile] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for file in list(_open_files):
        file._leave_to_parent()
        _inherited.append(file)
    _open_files.clear()


_inherited: list[OutboxFile] = []
"""The parent's: never closed here, because SQLite would do its parent's housekeeping."""

forks.after_in_child(_leave_all_to_parent)
