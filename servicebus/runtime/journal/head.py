"""Head: where the rows of the shared log end. One page that all workers of a node have mapped.

It names the segments that are written to, and how far they are written: the *word*, one number for both streams. A
writer puts its rows behind that and stores the word last, by one store of eight bytes, so that a row is there as a
whole or not at all, wherever its writer is killed. When a segment is full the names change too: so there are two
*slots* for names and word, and a *generation* that says which one counts; the other one is written, then it is.

Nobody writes here without the lock. Reading needs none. The page says of which boot it is: after another one it may
hold anything.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from servicebus.runtime.journal.segments import ROW_UNIT

__all__ = ["GENERATION", "Head", "Position", "at_of", "this_boot", "word_of"]

_BYTES = 4096
_MAGIC = b"sbushea2"
_NAMES = struct.Struct("<8s16s40s")
# Of the page as numbers of eight bytes.
GENERATION = 16
_SLOTS = 24
_SLOT = 4
_WORD_BITS = 32
_WORD_MASK = (1 << _WORD_BITS) - 1
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_boot() -> bytes:
    """What is another one after each start of the machine; nothing if it does not say so."""
    try:
        return _BOOT.read_bytes().strip()
    except OSError:
        return b""


class Position(NamedTuple):
    """Where the rows end."""

    generation: int
    rows_first: int
    """The segment of the last row."""
    answers_first: int
    """0: there is none."""
    word: int


class Head:
    """The page itself. ``words`` is it as numbers of eight bytes, each of which is read and stored at once."""

    def __init__(self, path: Path, memory: mmap.mmap):
        self.path = path
        # Not struct: that stores byte by byte, and some of them twice.
        self.words = memoryview(memory).cast("Q")

    def __repr__(self) -> str:
        return f"<Head {self.path}>"

    def position(self) -> Position:
        words = self.words
        while True:
            generation = words[GENERATION]
            slot = _SLOTS + _SLOT * (generation & 1)
            found = Position(generation, words[slot], words[slot + 1], words[slot + 2])
            if words[GENERATION] == generation:
                return found

    def word_index(self, generation: int) -> int:
        """Where in ``words`` the word of that generation stands."""
        return _SLOTS + _SLOT * (generation & 1) + 2

    def publish(self, rows_first: int, answers_first: int, word: int) -> None:
        slot = _SLOTS + _SLOT * (self.words[GENERATION] + 1 & 1)
        self.words[slot], self.words[slot + 1], self.words[slot + 2] = rows_first, answers_first, word
        self.words[GENERATION] += 1

    @classmethod
    def create(cls, path: Path, identity: bytes, boot: bytes, rows_first: int, answers_first: int, word: int) -> Head:
        """A new one, instead of one that nobody uses. Raises OSError."""
        new = path.with_name(path.name + ".new")
        with suppress(FileNotFoundError):
            new.unlink()
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, _BYTES)
            memory = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        _NAMES.pack_into(memory, 0, _MAGIC, identity, boot)
        head = cls(path, memory)
        head.publish(rows_first, answers_first, word)
        new.rename(path)
        return head

    @classmethod
    def open(cls, path: Path, identity: bytes, boot: bytes) -> Head | None:
        """That of this journal and this boot of the machine; None if there is none. Raises OSError."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            if os.fstat(fd).st_size != _BYTES:
                return None
            memory = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        is_ours = _NAMES.unpack_from(memory) == (_MAGIC, identity, boot.ljust(40, b"\0"))
        return cls(path, memory) if is_ours else None


def word_of(last_at: int, answers_end: int) -> int:
    """Where the last row begins (0: there is none in its segment), and where the answers end, in one number."""
    return last_at // ROW_UNIT | answers_end // ROW_UNIT << _WORD_BITS


def at_of(word: int) -> tuple[int, int]:
    return (word & _WORD_MASK) * ROW_UNIT, (word >> _WORD_BITS) * ROW_UNIT
