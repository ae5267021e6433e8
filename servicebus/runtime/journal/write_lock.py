"""WriteLock: one writer at a time among the processes that share a file; Patience: how long to wait for it.

The lock belongs to a file that was opened for it alone, and the kernel lets go of it with the process. It is tried
without blocking, because a holder may be frozen, and whoever waits has other things to do: pings to answer.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from servicebus.runtime.journal.interface import JournalUnavailable

__all__ = ["WriteLock"]

_FIRST_PAUSE_S = 0.00005
"""A row takes microseconds."""
_LONGEST_PAUSE_S = 0.002
_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB


class Patience:
    """To try something again for *wait_s*; who has waited in vain does not wait again before it was let in once."""

    def __init__(self, wait_s: float):
        self._wait_s = wait_s
        self._since = 0.0
        """Since when somebody has kept us out, if our last wait was in vain."""

    def insist(self, attempt: Callable[[], bool]) -> bool:
        """Until *attempt* gives True; False if it did not in time."""
        pause_s = _FIRST_PAUSE_S
        began = time.monotonic()
        deadline = began if self._since else began + self._wait_s
        while not attempt():
            if time.monotonic() >= deadline:
                self._since = self._since or began
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self.restore()
        return True

    def restore(self) -> None:
        """We were let in."""
        self._since = 0.0

    def reason(self, holder: int | None) -> str:
        """Why one was not let in."""
        who = f"process {holder}" if holder else "another process"
        now = time.monotonic()
        return f"{who} has kept it locked for {now - (self._since or now):.1f} s"


class WriteLock:
    """Its own descriptor of the file *path*. For one thread.

    Args:
        where: which journal it is, for errors.
        wait_s: how long to wait while another process has it.
    """

    def __init__(self, path: Path, where: str, wait_s: float):
        self._path = path
        self._where = where
        self._patience = Patience(wait_s)
        self._is_kept_out = False
        # Not to be found in a child that a service forks: it may outlive us, and must not keep the lock.
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        _open_locks.add(self)

    def __repr__(self) -> str:
        return f"<WriteLock {self._path}>"

    def take(self) -> None:
        """Raises JournalUnavailable: somebody else has it for too long."""
        try:
            fcntl.flock(self._fd, _TRY)
        except BlockingIOError:
            self._wait()
        except (OSError, ValueError) as error:
            raise JournalUnavailable(self._where, f"cannot be locked: {error}") from error
        if self._is_kept_out:
            self._is_kept_out = False
            self._patience.restore()

    def drop(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _wait(self) -> None:
        if not self._patience.insist(self._is_let_in):
            self._is_kept_out = True
            holder = _holder_of(self._path)
            raise JournalUnavailable(self._where, self._patience.reason(holder), holder=holder)

    def _is_let_in(self) -> bool:
        try:
            fcntl.flock(self._fd, _TRY)
        except BlockingIOError:
            return False
        return True


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


_open_locks: weakref.WeakSet[WriteLock] = weakref.WeakSet()


def _close_all() -> None:
    for lock in _open_locks:
        lock.close()


os.register_at_fork(after_in_child=_close_all)
