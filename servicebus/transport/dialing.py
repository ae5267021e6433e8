"""Dialing: from a host name to a connected socket, step by step, on an EventLoop: resolve, connect, TLS handshake."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from servicebus.transport.loop import READ, WRITE, EventLoop
from servicebus.transport.stream import close_hard


class _Operation:
    """What ends once: with a result, or cancelled. Until then the loop watches *sock*, if there is one."""

    def __init__(self, loop: EventLoop, on_done: Callable[[Any], None], sock: socket.socket | None = None):
        self._loop = loop
        self._on_done = on_done
        self._sock = sock
        self._is_pending = True

    def finish(self, result: Any) -> None:
        if self._end():
            self._on_done(result)

    def cancel(self) -> bool:
        """``on_done`` will not be called; False if it was."""
        return self._end()

    def _end(self) -> bool:
        was_pending, self._is_pending = self._is_pending, False
        if was_pending and self._sock is not None:
            self._loop.unwatch(self._sock)
        return was_pending


def connect(
    loop: EventLoop, sock: socket.socket, address: Any, on_done: Callable[[BaseException | None], None]
) -> Callable[[], bool]:
    """Connect the non-blocking *sock*; ``on_done(None or error)`` follows in the loop. Returns a cancel function."""
    operation = _Operation(loop, on_done, sock)

    def on_ready(_mask: int) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        operation.finish(OSError(code, os.strerror(code)) if code else None)

    try:
        code = sock.connect_ex(address)
    except OSError as error:
        failed = error  # the name after "as" ends with the clause, before the callback runs
        loop.post(lambda: operation.finish(failed))
        return operation.cancel
    if code in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        loop.watch(sock, WRITE, on_ready)
    else:
        loop.post(lambda: operation.finish(OSError(code, os.strerror(code))))
    return operation.cancel


def resolve(loop: EventLoop, host: str, port: int, on_done: Callable[[Any], None], **hints: int) -> Callable[[], bool]:
    """Resolve like ``socket.getaddrinfo`` without blocking the loop: names in a thread, literal addresses at once."""
    operation = _Operation(loop, on_done)

    def look_up(flags: int) -> Any:
        try:
            return socket.getaddrinfo(host, port, **{**hints, "flags": flags})
        except OSError as error:
            return error

    flags = hints.get("flags", 0)
    literal = look_up(flags | socket.AI_NUMERICHOST)
    if not isinstance(literal, BaseException):
        loop.post(lambda: operation.finish(literal))
    else:

        def in_thread() -> None:
            result = look_up(flags)
            loop.post(lambda: operation.finish(result))

        threading.Thread(target=in_thread, name=f"resolve-{host}", daemon=True).start()
    return operation.cancel


def handshake_tls(
    loop: EventLoop,
    sock: socket.socket,
    context: ssl.SSLContext,
    server_hostname: str | None,
    on_done: Callable[[ssl.SSLSocket | BaseException], None],
) -> Callable[[], bool]:
    """Do the TLS handshake on a connected, non-blocking socket. Returns a cancel function, which closes it."""
    try:
        tls = context.wrap_socket(
            sock, server_hostname=server_hostname, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
    except (OSError, ValueError) as error:
        failed = error
        loop.post(lambda: on_done(failed))
        return lambda: False
    handshake = _Handshake(loop, tls, on_done)
    loop.watch(tls, READ | WRITE, handshake.step)
    return handshake.cancel


class _Handshake(_Operation):
    """One TLS handshake, step by step as the loop finds the socket ready."""

    def __init__(self, loop: EventLoop, tls: ssl.SSLSocket, on_done: Callable[[ssl.SSLSocket | BaseException], None]):
        super().__init__(loop, on_done, tls)
        self._tls = tls

    def step(self, _mask: int) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.rewatch(self._tls, READ, self.step)
        except ssl.SSLWantWriteError:
            self._loop.rewatch(self._tls, WRITE, self.step)
        except (OSError, ssl.SSLError) as error:
            self.finish(error)
            close_hard(self._tls)
        else:
            self.finish(self._tls)

    def cancel(self) -> bool:
        was_pending = self._end()
        if was_pending:
            close_hard(self._tls)
        return was_pending
