"""advice(): why a file system does not take what is written to it, and what to do. The errors of SQLite do not."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["advice"]

_NEEDED_BYTES = 2 << 20
"""The files of the journal grow by one mebibyte at a time, those of SQLite by a page."""


def advice(path: Path, or_else: str) -> str:
    """What to do so that *path* can be written, *or_else* do that; empty if its file system could be written to."""
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return ""
    if found.f_flag & os.ST_RDONLY:
        return f"its file system is read-only: mount it writable, or {or_else}"
    if found.f_bavail * found.f_frsize < _NEEDED_BYTES or (found.f_files and not found.f_favail):
        return f"its file system is full: make room there, or {or_else}"
    if _is_over_quota(path.parent):
        return f"the quota of its file system is used up: make room there, or {or_else}"
    return ""


def _is_over_quota(folder: Path) -> bool:
    """``statvfs`` knows nothing of quotas: ask for a little room."""
    with suppress(OSError):
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _NEEDED_BYTES)
        except OSError as error:
            return error.errno == errno.EDQUOT
        finally:
            os.close(fd)
    return False
