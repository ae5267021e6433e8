"""EndsFile: room on the disk, taken beforehand, to note that a message of the outbox needs no sending any more.

SQLite needs new room to delete a row. On a full disk there is none, and what another program fills is not given back by
giving up a reserve. So each message is accepted together with the sixteen bytes in which its end can be noted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from struct import Struct

__all__ = ["EndsFile"]

_MAGIC = b"sbus-outbox-ends"
_ENTRY = Struct("<Q8s")
"""The number of a row, never 0, and a digest of the id of its message: the file may lie beside another outbox."""
_STEP = 4096 * _ENTRY.size


class EndsFile:
    """For one thread. Raises OSError, and has changed nothing then."""

    def __init__(self, path: Path):
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        self._room = 0
        """How many bytes of the file are known to have their place on the disk."""
        self._used = 0
        try:
            self._refuse_what_is_not_ours()
            self.noted = self._read()
            """The digest of each row that was noted when it was opened."""
        except OSError:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<EndsFile {self._path} used={self._used} room={self._room}>"

    def make_room(self, count: int) -> None:
        """See to it that *count* ends can be noted beside those that are."""
        size = len(_MAGIC) + self._used + count * _ENTRY.size
        if size > self._room:
            room = -(-size // _STEP) * _STEP
            os.posix_fallocate(self._fd, 0, room)
            os.pwrite(self._fd, _MAGIC, 0)
            self._room = room

    def note(self, ends: Sequence[tuple[int, str]]) -> None:
        """Each a row and the id of its message. Waits for the disk."""
        self.make_room(len(ends))
        data = b"".join(_ENTRY.pack(row, _digest(wire_id)) for row, wire_id in ends)
        os.pwrite(self._fd, data, len(_MAGIC) + self._used)
        os.fdatasync(self._fd)
        self._used += len(data)

    @staticmethod
    def is_of(digest: bytes, wire_id: str) -> bool:
        return digest == _digest(wire_id)

    def clear(self) -> None:
        """All rows that are noted are gone. Should this fail: a row's number is never used again."""
        if self._used:
            with suppress(OSError):
                os.pwrite(self._fd, bytes(self._used), len(_MAGIC))
            self._used = 0

    def close(self) -> None:
        os.close(self._fd)

    def _refuse_what_is_not_ours(self) -> None:
        # All zero: the room was taken, and the process killed before it wrote the first bytes.
        heads = (b"", _MAGIC, bytes(len(_MAGIC)))
        if not stat.S_ISREG(os.fstat(self._fd).st_mode) or os.pread(self._fd, len(_MAGIC), 0) not in heads:
            raise FileExistsError(errno.EEXIST, "is of another program; move it away", str(self._path))

    def _read(self) -> dict[int, bytes]:
        data = os.pread(self._fd, os.fstat(self._fd).st_size, len(_MAGIC))
        found = {}
        for number, (row, digest) in enumerate(_ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size])):
            if row:
                found[row] = digest
                self._used = (number + 1) * _ENTRY.size
        return found


def _digest(wire_id: str) -> bytes:
    return blake2b(wire_id.encode(), digest_size=8).digest()
