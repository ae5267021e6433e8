"""Checkpointer: brings the journal to the disk, in a thread that may wait for it, and removes what is obsolete then.

First the segments, then a snapshot if one is due; only then segments go whose rows are in a snapshot. So whatever the
disk shows after the machine went down, the rows that follow the snapshot are there.

A snapshot is due when the rows since the last one take half as much: a worker that starts reads both in about the same
time then. One process at a time takes one, of a copy of the state that its I/O thread hands over. It holds a byte of
the lock file, among those of live workers, so that the journal is not replaced meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import closing, suppress

from servicebus.runtime.byte_locks import LockFile
from servicebus.runtime.journal import snapshot
from servicebus.runtime.journal.files import Files
from servicebus.runtime.journal.interface import Damaged, JournalUnavailable
from servicebus.runtime.journal.segments import BadSegment, CommitPointer, Stream, flush
from servicebus.runtime.journal.snapshot import Header
from servicebus.runtime.journal.state import State
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["Checkpointer"]

_SNAPSHOT = 1 << 62
"""No worker ever has this number."""
_LEAST_BYTES = 4 << 20
"""Of rows for which it pays to take a snapshot, however small that is."""
_LINGER_S = 10.0
"""Rows stay for so long after a snapshot has them: a worker that lags behind less than that reads on."""
_PAUSE_S = 0.0005
"""For other threads, after each few tenths of a millisecond."""
_STOP_S = 5.0


class Checkpointer:
    """Works when asked to; the thread starts with the first time.

    ``close`` may come from another thread than ``ask``: a worker may be told to stop in its first moment.
    """

    def __init__(self, files: Files, pointer: CommitPointer):
        self.wants_state = False
        """A snapshot is due; read by the other thread."""
        self.answers_from = 0
        """Segments of answers before this one are obsolete; set by the other thread."""
        self.damage = ""
        """What is wrong with the snapshot, if anything is; read by the other thread."""
        self._files = files
        self._pointer = pointer
        self._asked = threading.Event()
        self._handed: tuple[Header, State] | None = None
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._problem = ""
        self._done: object = None
        self._full: dict[Stream, int] = {}
        """The last segment of each stream when it was flushed: it may have been written to since."""
        self._taken: deque[tuple[float, int]] = deque()
        """When we took snapshots, and the first segment that is needed with each; those that still linger."""

    def ask(self) -> None:
        if self._thread is None and not self._is_closing:
            thread = threading.Thread(target=self._run, name="journal-checkpointer", daemon=True)
            thread.start()
            self._thread = thread  # not before: close() joins it, and only a thread that runs can be joined
        self._asked.set()

    def hand_over(self, header: Header, state: State) -> None:
        """What ``wants_state`` asks for."""
        self.wants_state = False
        self._handed = header, state

    def close(self) -> None:
        self._is_closing = True
        self._asked.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._asked.wait() and not self._is_closing:
            self._asked.clear()
            text = ""
            try:
                self.checkpoint()
            except (JournalUnavailable, OSError) as error:
                self.damage = error.reason if isinstance(error, Damaged) else ""
                text = str(error)
            # Once per cause: the next time is in a few seconds.
            if text and text != self._problem and not self._is_closing:
                LOG.warning("journal %s: cannot be brought to the disk: %s", self._files.path, text)
            self._problem = text

    def checkpoint(self) -> None:
        """Little, if nothing was written since the last time."""
        self._header()
        handed, self._handed = self._handed, None
        written = self._pointer.position()
        if written != self._done:
            for stream in (self._files.rows, self._files.answers):
                self._flush(stream)
            self._done = written
        if handed is not None:
            self._take_snapshot(*handed)
        while self._taken and time.monotonic() - self._taken[0][0] >= _LINGER_S:
            drop(self._files.rows, self._taken.popleft()[1])
        drop(self._files.answers, self.answers_from)
        self.wants_state = self._is_due()

    def _header(self) -> Header:
        path = self._files.path
        try:
            header = snapshot.read_header(path)
        except FileNotFoundError:
            raise Damaged(str(path), "is gone") from None
        if header.identity != self._files.identity:
            raise Damaged(str(path), "was replaced while it was in use")
        return header

    def _flush(self, stream: Stream) -> None:
        last = self._full.get(stream, 0)
        firsts = [first for first in stream.firsts() if first >= last]
        for first in firsts:
            with suppress(FileNotFoundError):
                flush(stream.path(first))
        if firsts and firsts[-1] != last:
            flush(self._files.path.parent)
            self._full[stream] = firsts[-1]

    def _is_due(self) -> bool:
        first, rows = self._header().first, self._files.rows
        grown = 0
        for each in rows.firsts():
            with suppress(FileNotFoundError):
                grown += rows.path(each).stat().st_size if each > first else 0
        return grown >= max(_LEAST_BYTES, self._files.path.stat().st_size // 2)

    def _take_snapshot(self, header: Header, state: State) -> None:
        """Unless another process does, or has."""
        path = self._files.path
        with closing(LockFile(path.with_name(path.name + ".lock"))) as lock:
            if not lock.try_lock(_SNAPSHOT) or self._header().seq >= header.seq:
                return
            snapshot.write(path, header, state, self._is_open, self._pause)
        self._taken.append((time.monotonic(), header.first))

    def _is_open(self) -> bool:
        return not self._is_closing and bool(self._header())

    def _pause(self) -> None:
        if self._is_closing:
            raise InterruptedError("the worker ends")
        time.sleep(_PAUSE_S)


def drop(stream: Stream, needed_from: int) -> None:
    """Remove segments before *needed_from*. Never the last one, which is written to."""
    for first in stream.firsts()[:-1]:
        if first >= needed_from:
            break
        with suppress(FileNotFoundError, BadSegment):
            # If it is ours: a journal may have been set aside and replaced while we waited for the disk.
            stream.open(first)
            stream.remove(first)
