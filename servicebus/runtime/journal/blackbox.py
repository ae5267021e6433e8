"""BlackBox: which of the ids that a worker has begun it never came to start; read by others after its death.

One small file per worker beside the journal, mapped into memory: the worker's threads write to it as to any memory, and
the kernel keeps what they wrote, however they end. A slot holds an id and how far it came. The worker's I/O thread
writes the id as *waiting* before the row of its begin is in the log, and clears the slot when the row of its end is; a
service thread makes it *started* before it runs the user's code. So an id that its dead worker holds, and that stands
there as waiting, was never started. One that does not stand there may have been: there was no slot, or no file.

The state of a slot is its last byte, written last: a slot that is only half written is a free one. When the machine
goes down anything may be left in the file, so it holds for one boot only.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from operator import setitem
from pathlib import Path

from servicebus.runtime.journal.head import this_boot
from servicebus.runtime.journal.records import COUNT_BITS, Numbered
from servicebus.runtime.journal.refused import refused
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import nothing

LOG = get_logger(__name__)

__all__ = ["BlackBox", "BlackBoxes"]

_SLOTS = 4096
"""More than a worker ever holds at once, with a prefetch that makes sense; beyond, ids count as started."""
_HEAD = struct.Struct("<8s40s")
_MAGIC = b"sbusbox1"
_SLOT = struct.Struct("<QQB7x")
_STATE = 16
"""Where in a slot."""
_FREE, _WAITING, _STARTED = range(3)
_SIZE = _HEAD.size + _SLOTS * _SLOT.size
_COUNT_MASK = (1 << COUNT_BITS) - 1


class BlackBox:
    """Our own. For the I/O thread, but for what ``starter`` gives. Without a *memory* it notes nothing."""

    def __init__(self, path: Path, memory: mmap.mmap | None):
        self._path = path
        self._memory = memory
        self._free = [] if memory is None else list(range(_SIZE - _SLOT.size, _HEAD.size - 1, -_SLOT.size))
        self.slots: dict[int, int] = {}
        """Of each number that is noted, where."""

    def __repr__(self) -> str:
        return f"<BlackBox {self._path} used={len(self.slots)}>"

    def note(self, starts: Iterable[Numbered]) -> None:
        """They wait from here on; those that were noted before stay as they are."""
        slots, free, memory = self.slots, self._free, self._memory
        for number, _, _ in starts:
            if number not in slots and free:
                slots[number] = at = free.pop()
                _SLOT.pack_into(memory, at, number >> COUNT_BITS, number & _COUNT_MASK, _WAITING)  # type: ignore[arg-type]

    def starter(self, number: int) -> Callable[[], None]:
        at = self.slots.get(number)
        if at is None or self._memory is None:
            return nothing
        return partial(setitem, self._memory, at + _STATE, _STARTED)

    def clear(self, numbers: Iterable[int]) -> None:
        slots, memory = self.slots, self._memory
        for number in numbers:
            if number in slots:
                at = slots.pop(number)
                memory[at + _STATE] = _FREE  # type: ignore[index]
                self._free.append(at)

    def clear_all_but(self, numbers: Collection[int]) -> None:
        kept = set(numbers)
        self.clear([number for number in self.slots if number not in kept])

    def close(self) -> None:
        """What stands there as waiting is for others to read. The memory goes when no thread can write to it."""
        if not self.slots:
            _remove(self._path)
        self._memory = None


class BlackBoxes:
    """Those of all workers of one journal: files whose names are *prefix* and the worker's number."""

    def __init__(self, prefix: Path):
        self._prefix = prefix
        self._boot = this_boot()

    def __repr__(self) -> str:
        return f"<BlackBoxes {self._prefix}>"

    def open(self, number: int) -> BlackBox:
        """That of a worker that has just got this number.

        Raises:
            JournalUnavailable: there is an old one, and it cannot be taken away.
        """
        path = self._path(number)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise refused(path, f"cannot be removed: {error.strerror}") from error
        try:
            return BlackBox(path, self._map(path))
        except OSError as error:
            LOG.warning("%s: %s; what only waits when this worker dies will count as started", path, error.strerror)
            _remove(path)
            return BlackBox(path, None)

    def numbers(self) -> list[int]:
        """Of all workers, dead or alive, that have one."""
        start = self._prefix.name
        try:
            tails = [path.name[len(start) :] for path in self._prefix.parent.iterdir() if path.name.startswith(start)]
        except OSError:
            return []
        return [int(tail) for tail in tails if tail.isdecimal()]

    def waiting(self, number: int) -> list[int]:
        """What a worker that is dead had begun, or was about to begin, and never started."""
        try:
            data = self._path(number).read_bytes()
        except OSError:
            return []
        if len(data) != _SIZE or not self._boot or _HEAD.unpack_from(data) != self._head:
            return []
        slots = _SLOT.iter_unpack(memoryview(data)[_HEAD.size :])
        return [high << COUNT_BITS | low for high, low, state in slots if state == _WAITING]

    def remove(self, number: int) -> None:
        """Nobody needs to read it any more."""
        _remove(self._path(number))

    def remove_all(self) -> None:
        for number in self.numbers():
            self.remove(number)

    @property
    def _head(self) -> tuple[bytes, bytes]:
        return _MAGIC, self._boot.ljust(40, b"\0")

    def _path(self, number: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}{number}")

    def _map(self, path: Path) -> mmap.mmap:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # A page that finds no room on the disk when it is written to would end the process.
            os.posix_fallocate(fd, 0, _SIZE)
            memory = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)
        _HEAD.pack_into(memory, 0, *self._head)
        return memory


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
