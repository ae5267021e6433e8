"""OwnerLock: a worker's number, and whether the worker that has a number still lives.

Each worker holds a lock on one byte of a file: the byte of its own number. The kernel lets go of it when the process is
gone, however it went, and not before its last thread is; so who finds the byte free knows that nothing of that worker
runs any more. Process ids are used again, these numbers never are.

The locks belong to the open file ("open file description locks"), so that two journals in one process know of each
other. A child that is forked would keep them, and is made to close the file at once.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import weakref
from pathlib import Path
from types import TracebackType

from servicebus.runtime.journal.interface import JournalUnavailable

__all__ = ["OwnerLock"]

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid, padding.
_FLOCK = struct.Struct("hhqqi4x")
_OPENING = 0
"""Nobody's number: the byte that whoever opens or repairs the journal holds."""
_TO_THE_END = 0
_POLL_S = 0.01


class OwnerLock:
    """One open lock file. ``with lock:`` keeps others from opening the journal meanwhile.

    Raises:
        JournalUnavailable: the file cannot be opened, or somebody has been opening the journal for *wait_s*.
    """

    def __init__(self, path: Path, wait_s: float = 10.0):
        self.number = 0
        """Our own, once ``hold`` succeeded."""
        self._path = path
        self._wait_s = wait_s
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalUnavailable(str(path), f"cannot be opened: {error.strerror}") from error
        _open_locks.add(self)

    def __repr__(self) -> str:
        return f"<OwnerLock {self._path} number={self.number}>"

    def hold(self, number: int) -> bool:
        """Take *number* for this worker; False if another one has it."""
        if not self._try(fcntl.F_WRLCK, number):
            return False
        self.number = number
        return True

    def is_alive(self, number: int) -> bool:
        """Does the worker with that number live? Our own counts as well."""
        return number == self.number or self._is_held(number, 1)

    def anybody_alive(self) -> bool:
        """Does any worker but us live?"""
        return self._is_held(_OPENING + 1, _TO_THE_END)

    def close(self) -> None:
        """Our number counts as dead from here on. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> OwnerLock:
        deadline = time.monotonic() + self._wait_s
        while not self._try(fcntl.F_WRLCK, _OPENING):
            if time.monotonic() >= deadline:
                raise JournalUnavailable(str(self._path), f"another process has been opening it for {self._wait_s:g} s")
            time.sleep(_POLL_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._try(fcntl.F_UNLCK, _OPENING)

    def _try(self, lock_type: int, start: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(lock_type, os.SEEK_SET, start, 1, 0))
        except BlockingIOError:
            return False
        return True

    def _is_held(self, start: int, length: int) -> bool:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        found = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


_open_locks: weakref.WeakSet[OwnerLock] = weakref.WeakSet()


def _close_all() -> None:
    # A worker that is killed while a child of one of its services lives on must count as dead all the same.
    for lock in _open_locks:
        lock.close()


os.register_at_fork(after_in_child=_close_all)
