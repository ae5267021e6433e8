"""LockFile: locks that the kernel keeps for a process, and lets go of when it is gone, however it went.

Each lock is one byte of a file, which need not have so many. The locks belong to the open file ("open file description
locks"), so that two LockFiles in one process know of each other; one that the LockFile has already it gets again. The
kernel does not let go before the last thread of the process is gone: to find a byte free means that nothing of its
last holder runs any more. A child that is forked would keep the locks, and is made to close the file at once.
"""

from __future__ import annotations

import fcntl
import os
import struct
import weakref
from pathlib import Path

__all__ = ["TO_THE_END", "LockFile", "LockFiles"]

TO_THE_END = 0
"""As a length: whatever follows."""

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid, padding.
_FLOCK = struct.Struct("hhqqi4x")


class LockFile:
    """Open for as long as its locks are to be held. Raises OSError if it cannot be opened, or the kernel refuses."""

    def __init__(self, path: Path):
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        """-1 once it is closed."""
        _open_files.add(self)

    def __repr__(self) -> str:
        return f"<LockFile {self.path}>"

    def try_lock(self, byte: int, *, shared: bool = False) -> bool:
        """Lock *byte*, if no other file has it locked; several may share one."""
        kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
        except BlockingIOError:
            return False
        return True

    def unlock(self, byte: int) -> None:
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))

    def is_locked(self, byte: int, length: int = 1) -> bool:
        """Whether another file has a lock, shared or not, on one of these bytes."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, length, 0)
        found = fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def is_gone(self) -> bool:
        """Whether its name is another file's by now, or none's: who opens that name knows nothing of these locks."""
        try:
            named = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return not os.path.samestat(named, os.fstat(self.fd))

    def close(self) -> None:
        """Let go of all its locks. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class LockFiles:
    """Locks that stand in several files, the same byte of each: free if no file has it locked."""

    def __init__(self, files: list[LockFile]):
        self.files = files
        self._again: LockFile | None = None

    def __repr__(self) -> str:
        return f"<LockFiles {self.files}>"

    def try_lock(self, byte: int) -> bool:
        return all(file.try_lock(byte) for file in self.files)

    def is_locked(self, byte: int, length: int = 1) -> bool:
        return any(file.is_locked(byte, length) for file in self.files)

    def hold_again(self, byte: int) -> None:
        """If the first of the files was removed, make one of its name, with *byte* locked: who opens that is not alone.

        The folder is made as well, if that is what was removed. Raises OSError.
        """
        first = self._again or self.files[0]
        if not first.is_gone():
            return
        if not first.path.parent.exists():
            first.path.parent.mkdir(mode=0o700)
        again = LockFile(first.path)
        again.try_lock(byte)
        if self._again is not None:
            self._again.close()
        self._again = again

    def close(self) -> None:
        """Idempotent."""
        if self._again is not None:
            self._again.close()
        for file in self.files:
            file.close()


_open_files: weakref.WeakSet[LockFile] = weakref.WeakSet()


def _close_all() -> None:
    # A process that is killed while a child of it lives on must have let go all the same.
    for file in _open_files:
        file.close()


os.register_at_fork(after_in_child=_close_all)
