"""The log file: appended to, rotated by time or size between two records, reopened when it was moved. Or a stream."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import stat
import sys
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from servicebus.errors import ConfigurationError

__all__ = ["OWN_STREAMS", "LogFile", "LogStream", "next_midnight"]

FILE_MODE = 0o640
ROTATE_AGAIN_S = 60.0
_SUFFIX = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d{4,})?")

OWN_STREAMS = {"/dev/stdout": 1, "/dev/fd/1": 1, "/proc/self/fd/1": 1}
OWN_STREAMS |= {"/dev/stderr": 2, "/dev/fd/2": 2, "/proc/self/fd/2": 2}
"""Paths that name them, whatever they are (a pipe, a terminal, a socket, a file), with their descriptors."""

_READER_WAIT_MS = 500
_PIPE_BYTES = select.PIPE_BUF
"""So much a pipe takes without blocking when it takes anything."""


def next_midnight(now: float) -> float:
    """The first local midnight after *now* (seconds since the epoch)."""
    date = time.localtime(now)
    # mktime carries day 32 over to the next month, and knows the days of 23 and 25 hours.
    return time.mktime((date.tm_year, date.tm_mon, date.tm_mday + 1, 0, 0, 0, 0, 0, -1))


class LogFile:
    """One file that takes whole records. Not safe for threads.

    A rotated file is named after the moment of its rotation, ``agent.log.2026-11-20_00-00-00``; the *keep* newest stay.

    Args:
        path: the file; made, with its folder, when it is not there.
        at_midnight: rotate at each local midnight, with the first record or ``tick`` after it.
        max_bytes: rotate before a record that would make the file longer; one longer record has a file of its own.
        keep: how many rotated files stay; 0 for none.

    Raises:
        ConfigurationError: the file cannot be opened.
    """

    def __init__(self, path: str, *, at_midnight: bool = True, max_bytes: int | None = None, keep: int = 15):
        # Absolute, because a server may be started in one folder and reopen its file in another.
        self.path = Path(path).absolute()
        self.rotations = 0
        self.rotation_error: str | None = None
        """Why the last rotation failed; the file just grows on, and the next attempt is a minute later."""
        self._at_midnight = at_midnight
        self._max_bytes = max_bytes or sys.maxsize
        self._keep = keep
        self._waiting: deque[bytes] = deque()
        self._rest = b""
        self._not_before = 0.0
        self._last_name = ("", 0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise ConfigurationError(
                f"the log file {self.path} cannot be opened: {error.strerror}", key="file"
            ) from error

    def __repr__(self) -> str:
        return f"<LogFile {self.path}, {self._size} bytes, rotated {self.rotations} times>"

    def write(self, records: Iterable[bytes], now: float) -> None:
        """Append the records, each the bytes of its lines; *now* is seconds since the epoch.

        Raises:
            OSError: the disk is full, or the file gone bad. All is kept, and the next ``write`` (of nothing, say)
                goes on where this one stopped.
        """
        self._waiting.extend(records)
        self._finish()
        if now >= self._rotate_at:
            self.rotate(now)
        while self._waiting:
            if self._size and self._size + len(self._waiting[0]) > self._max_bytes:
                self.rotate(now)
            self._rest = self._next_chunk()
            self._finish()

    def tick(self, now: float) -> None:
        """Once in a while: rotate though nothing is logged, and notice that the file was moved or deleted."""
        if now >= self._rotate_at:
            self.rotate(now)
        elif self._was_moved():
            self.reopen()

    def rotate(self, now: float) -> None:
        """Put the file aside under its name of this moment, and begin a new one. An empty file just goes on."""
        self._set_alarm(now)
        if self._size == 0 or now < self._not_before:
            return
        try:
            with contextlib.suppress(FileNotFoundError):  # it was moved: a new one is what we want
                self.path.rename(self._free_name(now))
            self.reopen()
        except OSError as error:
            self.rotation_error = f"{self.path}: {error.strerror}"
            self._not_before = now + ROTATE_AGAIN_S
            return
        self.rotation_error = None
        self.rotations += 1
        self._prune()

    def reopen(self) -> None:
        """Open the path again, after the file was moved (logrotate, HUP). If that fails, the old one is kept."""
        old = self._fd
        self._open()
        os.close(old)

    def close(self) -> None:
        os.close(self._fd)

    def _open(self) -> None:
        # Without blocking: a FIFO would keep us here until someone reads it.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(self.path, flags, FILE_MODE)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            # It would be renamed when it is rotated.
            os.close(fd)
            raise OSError(errno.EINVAL, "it is no regular file; name one, or a new path")
        self._fd = fd
        self._size = found.st_size
        # A file of yesterday is rotated by the first record of today, also when no server ran at midnight.
        self._set_alarm(found.st_mtime if found.st_size else time.time())

    def _set_alarm(self, now: float) -> None:
        self._rotate_at = next_midnight(now) if self._at_midnight else float("inf")

    def _next_chunk(self) -> bytes:
        """The waiting records that fit, but at least one."""
        chunk = [self._waiting.popleft()]
        size = self._size + len(chunk[0])
        while self._waiting and size + len(self._waiting[0]) <= self._max_bytes:
            size += len(self._waiting[0])
            chunk.append(self._waiting.popleft())
        return b"".join(chunk)

    def _finish(self) -> None:
        while self._rest:
            count = os.write(self._fd, self._rest)
            self._rest = self._rest[count:]
            self._size += count

    def _was_moved(self) -> bool:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return True
        own = os.fstat(self._fd)
        return (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino)

    def _free_name(self, now: float) -> Path:
        base = f"{self.path.name}.{time.strftime('%Y-%m-%d_%H-%M-%S', time.localtime(now))}"
        count = self._last_name[1] + 1 if self._last_name[0] == base else 0
        while True:
            # Counted on, though pruning may have freed a lower one: names show the order.
            candidate = self.path.with_name(f"{base}-{count:04d}" if count else base)
            if not candidate.exists():
                self._last_name = (base, count)
                return candidate
            count += 1

    def _prune(self) -> None:
        start = self.path.name + "."
        rotated: list[Path] = []
        with contextlib.suppress(OSError):  # a folder that we may write to and not read
            names = (entry for entry in self.path.parent.iterdir() if entry.name.startswith(start))
            rotated = [entry for entry in names if _SUFFIX.fullmatch(entry.name[len(start) :])]
        # By their last record, since the local time of the names runs twice through one hour of the year.
        rotated.sort(key=_age_order)
        for old in rotated[: max(0, len(rotated) - self._keep)]:
            with contextlib.suppress(OSError):
                old.unlink()


def _age_order(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except OSError:
        return 0, path.name


class LogStream:
    """As LogFile, for the server's own standard output or error, as containers want it: not rotated, never reopened.

    Raises:
        ConfigurationError: the stream is closed.
    """

    rotations = 0
    rotation_error = None

    def __init__(self, path: str):
        self.path = Path(path)
        self._rest = b""
        try:
            self._fd = os.dup(OWN_STREAMS[path])
        except OSError as error:
            raise ConfigurationError(f"the log file {path} cannot be opened: {error.strerror}", key="file") from error

    def __repr__(self) -> str:
        return f"<LogStream {self.path}>"

    def write(self, records: Iterable[bytes], now: float) -> None:
        """Write the records.

        Raises:
            OSError: the reader is gone, or does not read. All is kept for the next ``write``.
        """
        self._rest += b"".join(records)
        ready = select.poll()
        ready.register(self._fd, select.POLLOUT)
        while self._rest:
            if not ready.poll(_READER_WAIT_MS):
                raise BlockingIOError(errno.EAGAIN, "its reader does not read")
            self._rest = self._rest[os.write(self._fd, self._rest[:_PIPE_BYTES]) :]

    def tick(self, now: float) -> None:
        """Nothing to rotate."""

    def reopen(self) -> None:
        """It stays what it is."""

    def close(self) -> None:
        os.close(self._fd)
