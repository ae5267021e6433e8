"""Checkpointer: brings SQLite's write-ahead log to the disk, in a thread that may wait for it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

LOG = logging.getLogger(__name__)

__all__ = ["Checkpointer"]

_PAGES_TO_WAIT_FOR = 16_384
"""64 MiB. A log that is written to all the time never ends at a moment when it could be started anew; beyond this its
writers are made to wait for one."""
_WRITERS_WAIT_S = 0.25
_STOP_S = 5.0


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
        connection: sqlite3.Connection | None = None
        while self._asked.wait() and not self._is_closing:
            self._asked.clear()
            try:
                if connection is None:
                    connection = sqlite3.connect(self._path, timeout=_WRITERS_WAIT_S, isolation_level=None)
                    connection.execute("PRAGMA synchronous = NORMAL")
                self._checkpoint(connection)
                self._complaint = ""
            except sqlite3.Error as error:
                self._complain(str(error))
        if connection is not None:
            connection.close()

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection) -> None:
        _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages > _PAGES_TO_WAIT_FOR:
            # Little is left to do after the one above, so the writers wait briefly.
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def _complain(self, text: str) -> None:
        """Once per cause: the next time is in a few seconds."""
        if text != self._complaint:
            LOG.warning("journal %s: cannot be brought to the disk: %s", self._path, text)
            self._complaint = text
