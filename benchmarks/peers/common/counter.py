"""How many messages the server has handled: a file that server and client share."""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path

SLOTS = 512
"""One counter of eight bytes for each process (its pid modulo SLOTS), so that forked workers do not meet."""


class Handled:
    """Counts in this process's slot; the client adds up all of them."""

    def __init__(self) -> None:
        with Path(os.environ["PEER_COUNTER"]).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SLOTS * 8)
        self._lock = threading.Lock()
        self._pid = 0

    def add(self) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._offset = self._pid % SLOTS * 8
                (self._count,) = struct.unpack_from("q", self._map, self._offset)
            self._count += 1
            struct.pack_into("q", self._map, self._offset, self._count)

    def total(self) -> int:
        return sum(struct.unpack_from(f"{SLOTS}q", self._map))


_handled: Handled | None = None


def handled() -> None:
    """To be called by the server's handler, once for each message."""
    global _handled
    if _handled is None:
        _handled = Handled()
    _handled.add()
