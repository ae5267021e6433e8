"""OwnerLock: a worker's number, and whether the worker that has a number still lives.

Each worker holds a lock on one byte of a file: the byte of its own number. The kernel lets go of it with the process:
who finds the byte free knows that nothing of that worker runs any more. Process ids are used again, these numbers never
are. The same byte of a second file, one without which the journal cannot be opened, is locked, too: a lock file that
looks left behind may be removed, and who opens the journal then must not take the living for dead.
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
        self._file = _opened(path)
        self._second: LockFile | None = None

    def __repr__(self) -> str:
        return f"<OwnerLock {self._path} number={self.number}>"

    def hold(self, number: int) -> bool:
        """Take *number* for this worker; False if another one has it."""
        if not all(file.try_lock(number) for file in self._both):
            return False
        self.number = number
        return True

    def use_second(self, path: Path) -> None:
        """*path* is the second file, if it is there. Raises JournalUnavailable: it cannot be opened."""
        if self._second is not None:
            self._second.close()
        self._second = _opened(path) if path.exists() else None

    def is_alive(self, number: int) -> bool:
        """Does the worker with that number live? Our own counts as well."""
        return number == self.number or any(file.is_locked(number) for file in self._both)

    def anybody_alive(self) -> bool:
        """Does any worker but us live?"""
        return any(file.is_locked(_OPENING + 1, TO_THE_END) for file in self._both)

    def close(self) -> None:
        """Our number counts as dead from here on. Idempotent."""
        for file in self._both:
            file.close()

    @property
    def _both(self) -> list[LockFile]:
        return [self._file] if self._second is None else [self._file, self._second]

    def __enter__(self) -> OwnerLock:
        deadline = time.monotonic() + self._wait_s
        while not self._file.try_lock(_OPENING):
            if time.monotonic() >= deadline:
                raise JournalUnavailable(str(self._path), f"another process has been opening it for {self._wait_s:g} s")
            time.sleep(_POLL_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.unlock(_OPENING)


def _opened(path: Path) -> LockFile:
    try:
        return LockFile(path)
    except OSError as error:
        raise refused(path, f"cannot be opened: {error.strerror}") from error
