"""InFlightFile: which of the ids that a worker has begun it never started; read by others after its death.

One file per worker, mapped into memory: the kernel keeps what its threads wrote. An entry holds an id and its state.
The I/O thread writes the id as *waiting* before the row of its begin is in the log, and clears the entry after the row
of its end; a service thread makes it *started* before it runs the user's code. So an id of a dead worker that stands
there as waiting was never started. One that does not stand there may have been: there was no entry, or no file.

The state of an entry is its last byte, written last: a half-written entry is a free one. The machine may go down at any
write, so the file is valid for one boot only.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from operator import setitem
from pathlib import Path

from servicebus.runtime.journal.interface import refused
from servicebus.runtime.journal.records import COUNT_BITS, Numbered
from servicebus.runtime.journal.segments import create_mapped, numbered_files, this_boot
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import nothing

LOG = get_logger(__name__)

__all__ = ["InFlightFile", "InFlightFiles"]

_ENTRIES = 4096
"""More than a worker ever holds at once, with a sensible prefetch; beyond, ids count as started."""
_HEAD = struct.Struct("<8s40s")
_MAGIC = b"sbusbox1"
_ENTRY = struct.Struct("<QQB7x")
_STATE = 16
"""Its offset in an entry."""
_FREE, _WAITING, _STARTED = range(3)
_SIZE = _HEAD.size + _ENTRIES * _ENTRY.size
_COUNT_MASK = (1 << COUNT_BITS) - 1


class InFlightFile:
    """A worker's own. For the I/O thread, but for what ``starter`` returns. Without a *memory* it notes nothing."""

    def __init__(self, path: Path, memory: mmap.mmap | None):
        self._path = path
        self._memory = memory
        self._free = [] if memory is None else list(range(_SIZE - _ENTRY.size, _HEAD.size - 1, -_ENTRY.size))
        self.entries: dict[int, int] = {}
        """The offset of each number that is noted."""

    def note(self, starts: Iterable[Numbered]) -> None:
        """They wait from here on; those that were noted before stay as they are."""
        entries, free, memory = self.entries, self._free, self._memory
        for number, _, _ in starts:
            if number not in entries and free:
                entries[number] = at = free.pop()
                _ENTRY.pack_into(memory, at, number >> COUNT_BITS, number & _COUNT_MASK, _WAITING)  # type: ignore[arg-type]

    def starter(self, number: int) -> Callable[[], None]:
        at = self.entries.get(number)
        if at is None or self._memory is None:
            return nothing
        return partial(setitem, self._memory, at + _STATE, _STARTED)

    def clear(self, numbers: Iterable[int]) -> None:
        entries, memory = self.entries, self._memory
        for number in numbers:
            if number in entries:
                at = entries.pop(number)
                memory[at + _STATE] = _FREE  # type: ignore[index]
                self._free.append(at)

    def clear_all_but(self, numbers: Collection[int]) -> None:
        self.clear(self.entries.keys() - set(numbers))

    def close(self) -> None:
        """What stands there as waiting is for others to read. The memory goes when no thread can write to it."""
        if not self.entries:
            _remove(self._path)
        self._memory = None


class InFlightFiles:
    """Those of all workers of one journal: files whose names are *prefix* and the worker's number."""

    def __init__(self, prefix: Path):
        self._prefix = prefix
        boot = this_boot()
        self._head = _HEAD.pack(_MAGIC, boot) if boot else b""

    def open(self, number: int) -> InFlightFile:
        """That of a worker that has just got this number.

        Raises:
            JournalUnavailable: there is an old one that cannot be removed.
        """
        path = self._path(number)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise refused(path, f"cannot be removed: {error.strerror}") from error
        try:
            return InFlightFile(path, create_mapped(path, _SIZE, self._head))
        except OSError as error:
            LOG.warning("%s: %s; what only waits when this worker dies will count as started", path, error.strerror)
            return InFlightFile(path, None)

    def numbers(self) -> list[int]:
        """Of all workers, dead or alive, that have one."""
        try:
            return numbered_files(self._prefix)
        except OSError:
            return []

    def waiting(self, number: int) -> list[int]:
        """What a worker that is dead had begun, or was about to begin, and never started."""
        try:
            data = self._path(number).read_bytes()
        except OSError:
            return []
        if len(data) != _SIZE or not self._head or not data.startswith(self._head):
            return []
        entries = _ENTRY.iter_unpack(memoryview(data)[_HEAD.size :])
        return [high << COUNT_BITS | low for high, low, state in entries if state == _WAITING]

    def remove(self, number: int) -> None:
        _remove(self._path(number))

    def remove_all(self) -> None:
        for number in self.numbers():
            self.remove(number)

    def _path(self, number: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}{number}")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
