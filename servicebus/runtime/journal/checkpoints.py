"""Checkpointer: brings SQLite's write-ahead log to the disk, in a thread that may wait for it.

SQLite before 3.51.3 has a race in it ("The WAL-Reset Bug", sqlite.org/wal.html): a checkpoint that begins when nothing
is left to do, while a writer starts the log anew, may count rows as saved that are not, and the database is malformed.
Four workers that checkpoint every five seconds under load have met it within minutes. So here only one process at a
time checkpoints, it makes sure that something is left to do, and a reader keeps writers from starting the log anew
meanwhile.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import ExitStack, closing
from pathlib import Path

from servicebus.runtime.byte_locks import LockFile

LOG = logging.getLogger(__name__)

__all__ = ["Checkpointer"]

_PAGES_TO_WAIT_FOR = 16_384
"""64 MiB. A log that is written to all the time never ends at a moment when it could be started anew; beyond this its
writers are made to wait for one."""
_WRITERS_WAIT_S = 0.25
_STOP_S = 5.0
_TURN = 0
"""The byte of the lock file that whoever checkpoints holds."""


class Checkpointer:
    """Works when asked to; the thread starts with the first time. ``ask`` and ``close`` are for one thread."""

    def __init__(self, path: Path):
        self._path = path
        self._asked = threading.Event()
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._complaint = ""

    def __repr__(self) -> str:
        return f"<Checkpointer {self._path}>"

    def ask(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal-checkpoints", daemon=True)
            self._thread.start()
        self._asked.set()

    def close(self) -> None:
        self._is_closing = True
        self._asked.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        with ExitStack() as open_ones:
            saver: Saver | None = None
            while self._asked.wait() and not self._is_closing:
                self._asked.clear()
                try:
                    saver = saver or open_ones.enter_context(closing(Saver(self._path)))
                    saver.checkpoint()
                    self._complaint = ""
                except (sqlite3.Error, OSError) as error:
                    self._complain(str(error))

    def _complain(self, text: str) -> None:
        """Once per cause: the next time is in a few seconds."""
        if text != self._complaint:
            LOG.warning("journal %s: cannot be brought to the disk: %s", self._path, text)
            self._complaint = text


class Saver:
    """The thread's own connections, and the turn to checkpoint that all workers of a node share. One thread."""

    def __init__(self, path: Path):
        self._log = path.with_name(path.name + "-wal")
        self._turn = LockFile(path.with_name(path.name + ".turn"))
        self._saves = _connected(path)
        self._reads = _connected(path)
        self._saved: tuple[int, int] | None = None
        self._count = 0

    def checkpoint(self) -> None:
        """Save what the log holds, unless another worker is at it, or nobody has written since we did."""
        if self._state() == self._saved or not self._turn.try_lock(_TURN):
            return
        try:
            if self._save() > _PAGES_TO_WAIT_FOR:
                self._save_the_rest()
            self._saved = self._state()
        finally:
            self._turn.unlock(_TURN)

    def _save(self) -> int:
        """Gives the pages in the log."""
        # A page that nobody has saved: with one the reader reads from the log, and then the log cannot be started anew.
        self._count += 1
        self._saves.execute(f"PRAGMA application_id = {self._count}")
        self._reads.execute("BEGIN")
        try:
            self._reads.execute("PRAGMA application_id").fetchone()
            return int(self._saves.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
        finally:
            self._reads.execute("COMMIT")

    def _save_the_rest(self) -> None:
        """Let writers wait while the little that is left is saved: the next one then starts the log anew."""
        # Not RESTART: it gives up its hold on the writers when it does not get it in time, and goes on all the same.
        self._reads.execute("BEGIN IMMEDIATE")
        try:
            self._saves.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            self._reads.execute("ROLLBACK")

    def _state(self) -> tuple[int, int] | None:
        """Of the log's file; by its name, because to open and close it would drop SQLite's own locks on it."""
        try:
            found = self._log.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size

    def close(self) -> None:
        self._saves.close()
        self._reads.close()
        self._turn.close()


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_WRITERS_WAIT_S, isolation_level=None)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection
