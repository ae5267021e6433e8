"""Checkpointer: brings the journal to the disk, in a thread that may wait for it, and removes what is not needed then.

In this order: the segments, then SQLite's state, and only then segments go that this state has made superfluous. So
whatever the disk shows after the machine went down, the rows that follow the state are there.

SQLite before 3.51.3 has a race in it ("The WAL-Reset Bug", sqlite.org/wal.html): a checkpoint that begins when nothing
is left to do, while a writer starts the write-ahead log anew, may count pages as saved that are not, and the database
is malformed. Four workers that checkpointed every five seconds have met it within minutes, when each row was SQLite's.
So here only one process at a time checkpoints, it makes sure that something is left to do, and a reader keeps writers
from starting the log anew meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path

from servicebus.runtime.byte_locks import LockFile
from servicebus.runtime.journal.head import Head
from servicebus.runtime.journal.places import Places
from servicebus.runtime.journal.segments import BadSegment, Stream
from servicebus.runtime.journal.state_file import is_damage, set_up
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["Checkpointer", "Saver"]

_PAGES_TO_WAIT_FOR = 16_384
"""64 MiB. Under a flood of Senders that say one thing each, compactions follow one another, and the log never ends at a
moment when it could be started anew; beyond this they are made to wait for one."""
_WRITERS_WAIT_S = 0.25
_STOP_S = 5.0
_TURN = 0
"""The byte of the lock file that whoever checkpoints holds."""


class Checkpointer:
    """Works when asked to; the thread starts with the first time.

    ``close`` may come from another thread than ``ask``: a worker that is told to stop in its first moment closes its
    journal while the I/O thread begins to use it.
    """

    def __init__(self, places: Places, head: Head):
        self._places = places
        self._head = head
        self._asked = threading.Event()
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._complaint = ""
        self.damage = ""
        """What makes no sense in what SQLite has, if anything does; read by the other thread."""

    def __repr__(self) -> str:
        return f"<Checkpointer {self._places.path}>"

    def ask(self) -> None:
        if self._thread is None and not self._is_closing:
            thread = threading.Thread(target=self._run, name="journal-checkpoints", daemon=True)
            thread.start()
            self._thread = thread  # not before: close() joins it, and only a thread that runs can be joined
        self._asked.set()

    def close(self) -> None:
        self._is_closing = True
        self._asked.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        with ExitStack() as open_ones:
            keeper: Keeper | None = None
            while self._asked.wait() and not self._is_closing:
                self._asked.clear()
                try:
                    keeper = keeper or open_ones.enter_context(closing(Keeper(self._places, self._head)))
                    keeper.keep()
                    self._complaint = ""
                except (sqlite3.Error, OSError) as error:
                    self.damage = str(error) if is_damage(error) else ""
                    self._complain(str(error))

    def _complain(self, text: str) -> None:
        """Once per cause: the next time is in a few seconds."""
        if text != self._complaint:
            LOG.warning("journal %s: cannot be brought to the disk: %s", self._places.path, text)
            self._complaint = text


class Keeper:
    """What the thread does each time. One thread."""

    def __init__(self, places: Places, head: Head):
        self._places = places
        self._head = head
        self._saver = Saver(places.path)
        self._wal = places.path.with_name(places.path.name + "-wal")
        self._done: object = None
        self._full: dict[Stream, int] = {}
        """Of each stream, the last segment that was the last one, and so may have been written to since."""

    def keep(self) -> None:
        """Does nothing if nothing was written since the last time."""
        written = self._head.position(), _state_of(self._places.path), _state_of(self._wal)
        if written == self._done:
            return
        # Anew each time: an older connection does not notice what somebody has done to the files.
        with closing(_connected(self._places.path)) as connection:
            state = connection.execute("SELECT keep_from, trim_to FROM state").fetchone()
        if state is None:
            raise sqlite3.DatabaseError("holds no state")
        keep_from, trim_to = state
        for stream in (self._places.rows, self._places.answers):
            self._flush(stream)
        _flush_file(self._wal)
        self._saver.checkpoint()
        _drop(self._places.rows, trim_to + 1)
        # A row with answers that others may still have to read is kept even if its answers are not.
        _drop(self._places.answers, min(keep_from, trim_to + 1))
        # What was written meanwhile is not done; our own checkpoint is.
        self._done = written[0], _state_of(self._places.path), _state_of(self._wal)

    def _flush(self, stream: Stream) -> None:
        last = self._full.get(stream)
        firsts = [first for first in stream.firsts() if last is None or first >= last]
        for first in firsts:
            _flush_file(stream.path(first))
        if firsts and firsts[-1] != last:
            _flush_file(self._places.path.parent)
            self._full[stream] = firsts[-1]

    def close(self) -> None:
        self._saver.close()


class Saver:
    """Checkpoints SQLite's write-ahead log: its own connections, and the turn that all workers of a node share."""

    def __init__(self, path: Path):
        self._log = path.with_name(path.name + "-wal")
        with ExitStack() as opened:
            self._turn = opened.enter_context(closing(LockFile(path.with_name(path.name + ".turn"))))
            self._saves = opened.enter_context(closing(_connected(path)))
            self._reads = opened.enter_context(closing(_connected(path)))
            self._open_ones = opened.pop_all()
        self._saved: tuple[int, int] | None = None
        self._count = 0

    def checkpoint(self) -> None:
        """Save what the log holds, unless another worker is at it, or nobody has written since we did."""
        if _state_of(self._log) == self._saved or not self._turn.try_lock(_TURN):
            return
        try:
            if self._save() > _PAGES_TO_WAIT_FOR:
                self._save_the_rest()
            self._saved = _state_of(self._log)
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

    def close(self) -> None:
        self._open_ones.close()


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_WRITERS_WAIT_S, isolation_level=None)
    try:
        set_up(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _state_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _flush_file(path: Path) -> None:
    """To the disk, if it is still there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _drop(stream: Stream, needed_from: int) -> None:
    """Those whose rows are all before *needed_from*. Never the last one, which is written to."""
    for first, following in pairwise(stream.firsts()):
        if following > needed_from:
            break
        with suppress(FileNotFoundError, BadSegment):
            # If it is ours: a journal may have been set aside and begun anew while we waited for the disk.
            stream.open(first)
            stream.remove(first)
