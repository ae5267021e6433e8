"""refused(): the error for a file system that does not take what the journal writes, with what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

from servicebus.runtime.journal.interface import JournalUnavailable

__all__ = ["refused"]

_ROOM_BYTES = 2 << 20
"""Rows are given a file of one mebibyte at a time, answers too."""


def refused(path: Path, what: str) -> JournalUnavailable:
    """An error that says *what* happened at *path*. The file system is asked, as SQLite's words do not tell."""
    advice = _advice(path)
    return JournalUnavailable(str(path), f"{what}; {advice}" if advice else what)


def _advice(path: Path) -> str:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return ""
    if found.f_flag & os.ST_RDONLY:
        return "its file system is read-only: mount it writable, or name another path with the key journal"
    if found.f_bavail * found.f_frsize < _ROOM_BYTES or (found.f_files and not found.f_favail):
        return "its file system is full: make room there, or name another path with the key journal"
    return ""
