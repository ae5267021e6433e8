"""refused(): the error for a file system that does not take what the journal writes, with what to do about it."""

from __future__ import annotations

from pathlib import Path

from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.transport.disk_space import advice

__all__ = ["refused"]


def refused(path: Path, what: str) -> JournalUnavailable:
    """An error that says *what* happened at *path*."""
    to_do = advice(path, "name another path with the key journal")
    return JournalUnavailable(str(path), f"{what}; {to_do}" if to_do else what)
