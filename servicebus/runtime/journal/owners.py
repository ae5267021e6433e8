"""OwnerLock: a worker's number, and whether the worker that has a number still lives.

Each worker holds a lock on one byte of a file: the byte of its own number. The kernel lets go of it with the process:
who finds the byte free knows that nothing of that worker runs any more. Process ids are used again, these numbers never
are.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from servicebus.runtime.byte_locks import TO_THE_END, LockFile
from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.runtime.journal.refused import refused

__all__ = ["OwnerLock"]

_OPENING = 0
"""Nobody's number: the byte that whoever opens or repairs the journal holds."""
_POLL_S = 0.01


class OwnerLock:
    """One open lock file. ``with lock:`` keeps others from opening the journal meanwhile.

    Raises:
        JournalUnavailable: the file cannot be opened, or somebody has been opening the journal for *wait_s*.
    """

    def __init__(self, path: Path, wait_s: float = 45.0):
        self.number = 0
        """Our own, once ``hold`` succeeded."""
        self._path = path
        self._wait_s = wait_s
        try:
            self._file = LockFile(path)
        except OSError as error:
            raise refused(path, f"cannot be opened: {error.strerror}") from error

    def __repr__(self) -> str:
        return f"<OwnerLock {self._path} number={self.number}>"

    def hold(self, number: int) -> bool:
        """Take *number* for this worker; False if another one has it."""
        if not self._file.try_lock(number):
            return False
        self.number = number
        return True

    def is_alive(self, number: int) -> bool:
        """Does the worker with that number live? Our own counts as well."""
        return number == self.number or self._file.is_locked(number)

    def anybody_alive(self) -> bool:
        """Does any worker but us live?"""
        return self._file.is_locked(_OPENING + 1, TO_THE_END)

    def close(self) -> None:
        """Our number counts as dead from here on. Idempotent."""
        self._file.close()

    def __enter__(self) -> OwnerLock:
        deadline = time.monotonic() + self._wait_s
        while not self._file.try_lock(_OPENING):
            if time.monotonic() >= deadline:
                raise JournalUnavailable(str(self._path), f"another process has been opening it for {self._wait_s:g} s")
            time.sleep(_POLL_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.unlock(_OPENING)
