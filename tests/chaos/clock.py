"""A wall clock that the rig can set: ``time.time`` of a program is moved by an offset in a file that the rig writes.

The machine's own clock is everybody's and stays as it is. Monotonic time is never touched, as nobody can set it.
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

__all__ = ["make_clock", "set_clock", "use_clock"]

_OFFSET = struct.Struct("d")
_true_time = time.time


def make_clock(path: Path) -> None:
    path.write_bytes(_OFFSET.pack(0.0))


def set_clock(path: Path, offset_s: float) -> None:
    """From now on the programs that use *path* are *offset_s* ahead. One write of eight bytes: never half of it."""
    with path.open("r+b") as file:
        file.write(_OFFSET.pack(offset_s))


def use_clock(path: Path) -> None:
    """Have this program, and what it forks, live by that clock."""
    with path.open("rb") as file:
        offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    read = _OFFSET.unpack_from

    def moved_time() -> float:
        return _true_time() + float(read(offset)[0])

    time.time = moved_time
