"""What pika asks of an I/O loop (its ``AbstractIOServices``), answered by our EventLoop, one object per connection.

One per connection, because that yields the socket of each without reaching into pika: it is here that a stream is
made, so it is here that it can be cut.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

from pika.adapters.utils import nbio_interface

from servicebus.transport.dialing import connect, handshake_tls, resolve
from servicebus.transport.fastpath import FastPath
from servicebus.transport.loop import EventLoop, Timer
from servicebus.transport.stream import SocketStream, StreamProtocol


class _Cancel(nbio_interface.AbstractIOReference):  # type: ignore[misc]
    def __init__(self, cancel: Callable[[], bool]):
        self._cancel = cancel

    def cancel(self) -> bool:
        return self._cancel()


class ConnectionServices(nbio_interface.AbstractIOServices):  # type: ignore[misc]
    """The loop's services for one connection; remembers its stream, and the fast path between it and pika."""

    def __init__(self, loop: EventLoop, most_bytes: int):
        self._loop = loop
        self._most_bytes = most_bytes
        self.stream: SocketStream | None = None
        self.fast_path: FastPath | None = None

    def get_native_ioloop(self) -> EventLoop:
        return self._loop

    def run(self) -> None:
        self._loop.run()

    def stop(self) -> None:
        self._loop.stop()

    def close(self) -> None:
        self._loop.close()

    def add_callback_threadsafe(self, callback: Callable[[], None]) -> None:
        self._loop.post(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(delay, callback)

    def getaddrinfo(
        self,
        host: str,
        port: int,
        on_done: Callable[[Any], None],
        family: int = 0,
        socktype: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> _Cancel:
        return _Cancel(resolve(self._loop, host, port, on_done, family=family, type=socktype, proto=proto, flags=flags))

    def connect_socket(
        self, sock: socket.socket, resolved_addr: Any, on_done: Callable[[BaseException | None], None]
    ) -> _Cancel:
        return _Cancel(connect(self._loop, sock, resolved_addr, on_done))

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], StreamProtocol],
        sock: socket.socket,
        on_done: Callable[[Any], None],
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> _Cancel:
        def link(result: socket.socket | BaseException) -> None:
            if isinstance(result, BaseException):
                on_done(result)
                return
            protocol = protocol_factory()
            self.fast_path = FastPath(protocol, self._most_bytes)
            self.stream = SocketStream(self._loop, result, self.fast_path)
            self.stream.start()
            on_done((self.stream, protocol))

        if ssl_context is not None:
            return _Cancel(handshake_tls(self._loop, sock, ssl_context, server_hostname, link))
        self._loop.post(lambda: link(sock))
        return _Cancel(lambda: False)
