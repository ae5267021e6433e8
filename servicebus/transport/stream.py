"""SocketStream: a connected socket, plain or TLS, on an EventLoop."""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from servicebus.transport.interrupts import came_from_a_signal
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import READ, WRITE, EventLoop

LOG = get_logger(__name__)

_INT = struct.Struct("i")
_LONG_BYTES = 1 << 20
"""How much is read at once when there is more than usual; memory for so much is not asked for before."""


class StreamProtocol(Protocol):
    """The reader of a stream: the subset of asyncio's Protocol that pika implements."""

    def connection_made(self, transport: Any) -> None: ...
    def connection_lost(self, error: BaseException | None) -> None: ...
    def eof_received(self) -> bool | None: ...
    def data_received(self, data: bytes) -> None: ...


class SocketStream:
    """A connected socket, plain or TLS, that reads in large pieces and writes once per iteration of the loop."""

    READ_BYTES = 65536

    def __init__(self, loop: EventLoop, sock: socket.socket, protocol: StreamProtocol):
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._flush_pending = False
        self._watches_writes = False
        self._closed = False
        self.bytes_received = 0
        self.bytes_sent = 0
        """Taken by the kernel."""

    def __repr__(self) -> str:
        return f"<SocketStream fd={self._sock.fileno()} closed={self._closed} unsent={self._out_bytes}>"

    def start(self) -> None:
        self._loop.watch(self._sock, READ, self._read)
        self._loop.streams[self._sock.fileno()] = self
        self._protocol.connection_made(self)
        # A TLS handshake may have read the first bytes of the conversation into the TLS layer's own buffer,
        # where no selector sees them.
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            self._loop.post(self._read)

    @property
    def bytes_written(self) -> int:
        """Handed to us."""
        return self.bytes_sent + self._out_bytes

    @property
    def bytes_acknowledged(self) -> int:
        """Taken by the kernel of the other end. A kernel may hold megabytes for a slow link; with TLS, about."""
        with suppress(OSError, ValueError):  # closed
            raw = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
            return self.bytes_sent - int(_INT.unpack(raw)[0])
        return self.bytes_sent

    # -- pika's AbstractStreamTransport --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._closed:
            return
        self._out.append(data)
        self._out_bytes += len(data)
        if not self._flush_pending:
            self._flush_pending = True
            self._loop.send_later(self)

    def abort(self) -> None:
        """Close at once, without a word to the peer; ``connection_lost(None)`` follows in a later callback."""
        self._close(None)

    def cut(self, reason: str) -> None:
        """Close as if the network had broken: ``connection_lost`` gets an error with *reason*."""
        self._close(ConnectionAbortedError(reason))

    def abandon(self, reason: str) -> Callable[[], None]:
        """As ``cut()``, but the peer gets its reset only when the returned function is called."""
        if self._closed:
            return lambda: None
        # The kernel resets a connection when the last of its descriptors is closed.
        kept = socket.socket(fileno=os.dup(self._sock.fileno()))
        self.cut(reason)
        return lambda: close_hard(kept)

    def get_protocol(self) -> StreamProtocol:
        return self._protocol

    def get_write_buffer_size(self) -> int:
        return self._out_bytes

    # -- inside --------------------------------------------------------------------------------------------------

    def _read_or_write(self, events: int) -> None:
        if events & READ:
            self._read()
        if events & WRITE and not self._closed:
            self.flush()

    def _read(self, _events: int = READ) -> None:
        while not self._closed:
            end: OSError | None = None
            try:
                data = self._sock.recv(self.READ_BYTES)
                if len(data) == self.READ_BYTES:
                    data, end = self._more_of(data)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except BrokenPipeError:  # so OpenSSL 3.5 says what was an end of file before
                data = b""
            except (OSError, ssl.SSLError) as error:
                self._close(error)
                return
            if not data:
                self._protocol.eof_received()
                self._close(None)
                return
            self.bytes_received += len(data)
            try:
                self._protocol.data_received(data)
            except Exception as error:  # the peer sent what its protocol cannot read: this connection is lost, no other
                if came_from_a_signal(error):
                    raise
                LOG.warning("%r: unreadable data from the broker: %r", self, error)
                self._close(error)
            if end is not None:
                self._close(end)
            if not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
                return

    def _more_of(self, data: bytes) -> tuple[bytes, OSError | None]:
        """*data* and what stands behind it, which may be an error: a long document takes few iterations."""
        try:
            return b"".join((data, self._sock.recv(_LONG_BYTES))), None
        except (BlockingIOError, InterruptedError, BrokenPipeError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return data, None  # an end of file is seen once more
        except OSError as error:
            return data, error

    def flush(self) -> None:
        """Send what was written during this iteration; what the socket does not take now waits for it."""
        self._flush_pending = False
        if self._closed or not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except (OSError, ssl.SSLError) as error:
            self._close(error)
            return
        self._out_bytes -= sent
        self.bytes_sent += sent
        self._out = [memoryview(data)[sent:]] if sent < len(data) else []
        wants_more = bool(self._out)
        if wants_more is not self._watches_writes:
            self._watches_writes = wants_more
            if wants_more:
                self._loop.rewatch(self._sock, READ | WRITE, self._read_or_write)
            else:
                self._loop.rewatch(self._sock, READ, self._read)

    def _close(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._out = []
        self._out_bytes = 0
        self._loop.unwatch(self._sock)
        self._loop.streams.pop(self._sock.fileno(), None)
        close_hard(self._sock)
        self._loop.post(lambda: self._protocol.connection_lost(error))


def close_hard(sock: socket.socket) -> None:
    """Close *sock* with a reset, so that a silent peer keeps neither memory nor a port of ours."""
    with suppress(OSError):  # already disconnected by the peer
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()
