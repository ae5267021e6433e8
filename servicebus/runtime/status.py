"""StatusSocket: the master's state as one JSON document per connection, for the command line and health checks."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

_SEND_LIMIT_S = 0.2


class StatusSocket:
    """A Unix socket at *path* (none for None), served by the master's loop: one answer, then end of file.

    A process that may connect may read the state, so the socket is made for its owner alone.
    """

    def __init__(self, path: str | None, snapshot: Callable[[], dict[str, Any]]):
        self._path = path
        self._snapshot = snapshot
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None

    def open(self) -> None:
        if self._path is None:
            return
        if _is_answered(self._path):
            LOG.error("no status socket: another agent answers at %s; give each a path of its own", self._path)
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_socket(self._path)
            mask = os.umask(0o177)
            try:
                listener.bind(self._path)
            finally:
                os.umask(mask)
            listener.listen(8)
            listener.setblocking(False)
            self._identity = _identity(self._path)
        except OSError as error:
            listener.close()
            LOG.warning("no status socket at %s: %s", self._path, error.strerror or error)
            return
        self._socket = listener

    def watched(self) -> list[Any]:
        return [] if self._socket is None else [self._socket]

    def serve(self, _source: Any) -> None:
        """Answer one caller; one that does not read is dropped, the master has children to look after."""
        assert self._socket is not None
        try:
            caller, _ = self._socket.accept()
        except OSError:
            return
        with caller:
            caller.settimeout(_SEND_LIMIT_S)
            with suppress(OSError):
                caller.sendall(json.dumps(self._snapshot()).encode())

    def forget(self) -> None:
        """In a forked child: the socket is the master's."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        if self._socket is not None:
            self.forget()
            with suppress(OSError):
                if _identity(self._path or "") == self._identity:  # else another agent's by now
                    _remove_socket(self._path or "")


def _remove_socket(path: str) -> None:
    """Remove what a killed agent left behind. Raises FileExistsError for anything but a socket: that is not ours."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "something that is no socket is there and stays; choose another path")
    Path(path).unlink(missing_ok=True)


def _identity(path: str) -> tuple[int, int]:
    found = Path(path).lstat()
    return found.st_dev, found.st_ino


def _is_answered(path: str) -> bool:
    """Whether a process listens there: what a killed agent left behind may be replaced, a living one's may not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_SEND_LIMIT_S)
        try:
            caller.connect(path)
        except OSError:
            return False
        return True
