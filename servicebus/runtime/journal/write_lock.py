"""WriteLock: one writer at a time among the processes that share a file; the kernel drops it with the process."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from servicebus.runtime.byte_locks import LockFile
from servicebus.runtime.journal.interface import JournalUnavailable

__all__ = ["WriteLock"]

_FIRST_PAUSE_S = 0.00005
"""A row takes microseconds."""
_LONGEST_PAUSE_S = 0.002
_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB


class WriteLock:
    """For one thread. Never blocks for long: a holder may be frozen, and a waiting worker has pings to answer.

    Args:
        where: which journal it is, for errors.
        wait_s: how long to wait for another process. After a wait in vain it does not wait again until it got the lock.
    """

    def __init__(self, path: Path, where: str, wait_s: float):
        self._path = path
        self._where = where
        self._wait_s = wait_s
        self.since = 0.0
        """Since when another process has had it, if the last wait was in vain; 0 is set by who gets it."""
        self._file = LockFile(path)
        # For every row: a method of ours would cost a third of the system call.
        self.take_free: Callable[[], None] = partial(fcntl.flock, self._file.fd, _TRY)
        """Take it; what it raises is for ``wait()``."""
        self.drop: Callable[[], None] = partial(fcntl.flock, self._file.fd, fcntl.LOCK_UN)
        """Only after one of the others, which see whether the file is still open."""

    def take(self) -> None:
        """Raises JournalUnavailable: another process has had it for too long."""
        try:
            self.take_free()
        except (OSError, ValueError) as error:
            self.wait(error)
        self.since = 0.0

    def wait(self, why: Exception) -> None:
        """Take it, which was not possible at once: *why* is what ``take_free()`` raised. Raises JournalUnavailable."""
        if not isinstance(why, BlockingIOError):
            raise JournalUnavailable(self._where, f"cannot be locked: {why}") from why
        self._wait()

    def close(self) -> None:
        """Idempotent."""
        self._file.close()
        self.take_free = partial(fcntl.flock, -1, _TRY)  # the number may be another file's soon

    def _wait(self) -> None:
        pause_s, began = _FIRST_PAUSE_S, time.monotonic()
        deadline = began if self.since else began + self._wait_s
        while True:
            try:
                return fcntl.flock(self._file.fd, _TRY)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self.since = self.since or began
        holder = _holder_of(self._path)
        who = f"process {holder}" if holder else "another process"
        reason = f"{who} has kept it locked for {time.monotonic() - self.since:.1f} s"
        raise JournalUnavailable(self._where, reason, holder=holder)


def _holder_of(path: Path) -> int | None:
    """The process that has a lock for writing on *path*, as far as the kernel tells."""
    try:
        inode = f":{path.stat().st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF
            fields = line.split()
            if len(fields) == 8 and fields[1] == "FLOCK" and fields[3] == "WRITE" and fields[5].endswith(inode):
                return int(fields[4])
    except (OSError, ValueError):
        return None
    return None
