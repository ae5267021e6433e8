"""The socket on which the log server listens."""

from __future__ import annotations

import contextlib
import socket

from servicebus.errors import ConfigurationError

__all__ = ["RECEIVE_BUFFER_BYTES", "listen"]

RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
_SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>: passes net.core.rmem_max, for those who may (CAP_NET_ADMIN)


def listen(host: str, port: int) -> socket.socket:
    """A bound UDP socket with as large a receive buffer as the system allows. Raises ConfigurationError."""
    try:
        family, kind, _, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        found = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"the log server cannot use the host {host!r}: {error}", key="host") from error
    try:
        found.bind(sockaddr)
    except OSError as error:
        found.close()
        message = f"the log server cannot listen on {host}:{port}: {error.strerror}"
        raise ConfigurationError(message, key="port") from error
    found.setblocking(False)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    if found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < RECEIVE_BUFFER_BYTES:
        # Without the privilege the windows of the clients are made to fit the smaller buffer.
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    return found
