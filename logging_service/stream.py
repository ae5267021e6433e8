"""A log file that is the server's own standard output or error, as containers want it: not rotated, never reopened."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterable
from pathlib import Path

from servicebus.errors import ConfigurationError

__all__ = ["OWN_STREAMS", "LogStream"]

OWN_STREAMS = {"/dev/stdout": 1, "/dev/fd/1": 1, "/proc/self/fd/1": 1}
OWN_STREAMS |= {"/dev/stderr": 2, "/dev/fd/2": 2, "/proc/self/fd/2": 2}
"""Paths that name them, whatever they are (a pipe, a terminal, a socket, a file), with their descriptors."""

_WAIT_MS = 500
_PIECE = select.PIPE_BUF
"""So much a pipe takes without blocking when it takes anything."""


class LogStream:
    """What LogFile is for a file. Not safe for threads.

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
            if not ready.poll(_WAIT_MS):
                raise BlockingIOError(errno.EAGAIN, "its reader does not read")
            self._rest = self._rest[os.write(self._fd, self._rest[:_PIECE]) :]

    def tick(self, now: float) -> None:
        """Nothing to rotate."""

    def reopen(self) -> None:
        """It stays what it is."""

    def close(self) -> None:
        os.close(self._fd)
