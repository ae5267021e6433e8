"""NodeLocks: which locks this worker has, so that no other worker of the node on this machine has them too.

A node whose journal is on a Redis server, for several machines, has its locks there (``redis_locks.py``). Here a lock
is two bytes of one lock file: the process that works has the first, those that wait for it share the second. All are
the kernel's: a worker that dies, however it dies, has none.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Protocol

from servicebus.configuration import Configuration
from servicebus.errors import JournalUnavailable
from servicebus.runtime.byte_locks import LockFile
from servicebus.runtime.state_folder import beside_journal
from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog

LOG = get_logger(__name__)

__all__ = ["Locks", "NodeLocks", "locks_of"]

_FILES = 2
"""So many of the last are kept, beside the first."""


class Locks(Protocol):
    """What a service with locks needs of them; for all threads."""

    def take(self, lock: int) -> bool: ...
    def has(self, lock: int) -> bool: ...
    def release(self, lock: int) -> None: ...
    def fence(self, lock: int) -> int | None: ...
    def want(self, lock: int) -> None: ...
    def want_no_more(self, lock: int) -> None: ...
    def is_wanted(self, lock: int) -> bool: ...
    def look(self) -> None: ...


def locks_of(config: Configuration) -> Locks:
    """The locks of the configured node: where its journal is on a Redis server, there; else beside its journal, or
    beside where that would be.

    Raises:
        OSError: the lock file cannot be opened.
    """
    where = "" if config.journal is None else config.journal.reveal()
    try:
        if "://" in where:
            from servicebus.runtime.redis_locks import RedisLocks  # needs an extra

            return RedisLocks(where, config.node_name)
        return NodeLocks(beside_journal(config, "service-locks").absolute())
    except JournalUnavailable as error:
        raise OSError(str(error)) from error


class NodeLocks:
    """For all threads of one process, which is the one that opens it; a child that is forked has none of the locks.

    It is never closed: a service that did not end in time may still be at work. The kernel does it with the process.

    Args:
        path: of the lock file, which is made if it is not there; None for a worker that is alone.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path | None = None):
        self._files = [] if path is None else [LockFile(path)]
        """More than one if the file was removed: other workers may know the former alone, and new ones the last."""
        self._path = path
        self._taken: set[int] = set()
        # The kernel gives a process what it has already: between our own threads it is this set that decides.
        self._lock = threading.Lock()
        self._log = RateLimitedLog(LOG, f"lock file {path}", period_s=60.0, burst=1)

    def __repr__(self) -> str:
        return f"<NodeLocks {self._path} taken={len(self._taken)}>"

    def take(self, lock: int) -> bool:
        """Have *lock* from now on, unless it is taken."""
        self.look()
        with self._lock:
            if lock in self._taken or not self._try(2 * lock):
                return False
            self._taken.add(lock)
            return True

    def has(self, lock: int) -> bool:
        """Whether *lock* is ours still, for certain."""
        return lock in self._taken

    def release(self, lock: int) -> None:
        with self._lock:
            self._taken.discard(lock)
            self._let_go(2 * lock)

    def fence(self, lock: int) -> int | None:
        """None: the kernel sees to it that nobody goes on without the lock."""
        return None

    def want(self, lock: int) -> None:
        """Let the others know that we wait for *lock*."""
        self._try(2 * lock + 1, shared=True)

    def want_no_more(self, lock: int) -> None:
        self._let_go(2 * lock + 1)

    def is_wanted(self, lock: int) -> bool:
        """Does another worker wait for *lock*?"""
        try:
            return any(file.is_locked(2 * lock + 1) for file in self._files)
        except OSError as error:
            self._complain(error)
            return False

    def look(self) -> None:
        """Notice that the file was removed, and have our locks in a new one, too. To be called once a second."""
        with self._lock:
            if not self._files or not self._files[-1].is_gone():
                return
            try:
                again = LockFile(self._files[-1].path)
            except OSError as error:  # so no other worker can begin by it; those that live keep to the former
                text = (
                    f"was removed while it is in use, and cannot be made again: {error.strerror}; no worker can start"
                )
                self._log.log(logging.ERROR, text, "gone")
                return
            text = (
                "was removed or replaced while it is in use: made again, with the locks that are held; leave it alone"
            )
            self._log.log(logging.ERROR, text, "made again")
            for lock in self._taken:
                again.try_lock(2 * lock)
            self._files.append(again)
            for former in self._files[1:-_FILES]:
                former.close()
            del self._files[1:-_FILES]

    def _try(self, byte: int, *, shared: bool = False) -> bool:
        try:
            for number, file in enumerate(self._files):
                if not file.try_lock(byte, shared=shared):
                    for had in self._files[:number]:
                        had.unlock(byte)
                    return False
        except OSError as error:  # the kernel has no room for more locks: as good as taken
            self._complain(error)
            self._let_go(byte)
            return False
        return True

    def _let_go(self, byte: int) -> None:
        for file in self._files:
            try:
                file.unlock(byte)
            except OSError as error:
                self._complain(error)

    def _complain(self, error: OSError) -> None:
        text = f"{error.strerror}; what needs a lock waits until it works again"
        self._log.log(logging.ERROR, text, str(error))  # tried again a hundred times a second
