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


def connect(
    loop: EventLoop, sock: socket.socket, address: Any, on_done: Callable[[BaseException | None], None]
) -> Callable[[], bool]:
    """Connect the non-blocking *sock*; ``on_done(None or error)`` follows in the loop. Returns a cancel function."""
    pending = [True]

    def finish(error: BaseException | None) -> None:
        if pending[0]:
            pending[0] = False
            loop.unwatch(sock)
            on_done(error)

    def cancel() -> bool:
        was_pending, pending[0] = pending[0], False
        if was_pending:
            loop.unwatch(sock)
        return was_pending

    def on_ready(_mask: int) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        finish(OSError(code, os.strerror(code)) if code else None)

    try:
        code = sock.connect_ex(address)
    except OSError as error:
        failed = error  # the name after "as" ends with the clause, before the callback runs
        loop.post(lambda: finish(failed))
        return cancel
    if code in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        loop.watch(sock, WRITE, on_ready)
    else:
        loop.post(lambda: finish(OSError(code, os.strerror(code))))
    return cancel


def resolve(loop: EventLoop, host: str, port: int, on_done: Callable[[Any], None], **hints: int) -> Callable[[], bool]:
    """Resolve like ``socket.getaddrinfo`` without blocking the loop: names in a thread, literal addresses at once."""
    pending = [True]

    def finish(result: Any) -> None:
        if pending[0]:
            pending[0] = False
            on_done(result)

    def cancel() -> bool:
        was_pending, pending[0] = pending[0], False
        return was_pending

    def look_up(flags: int) -> Any:
        try:
            return socket.getaddrinfo(host, port, **{**hints, "flags": flags})
        except OSError as error:
            return error

    flags = hints.get("flags", 0)
    literal = look_up(flags | socket.AI_NUMERICHOST)
    if not isinstance(literal, BaseException):
        loop.post(lambda: finish(literal))
    else:

        def in_thread() -> None:
            result = look_up(flags)
            loop.post(lambda: finish(result))

        threading.Thread(target=in_thread, name=f"resolve-{host}", daemon=True).start()
    return cancel


def handshake_tls(
    loop: EventLoop,
    sock: socket.socket,
    context: ssl.SSLContext,
    server_hostname: str | None,
    on_done: Callable[[ssl.SSLSocket | BaseException], None],
) -> Callable[[], bool]:
    """Do the TLS handshake on a connected, non-blocking socket. Returns a cancel function, which closes it."""
    pending = [True]
    try:
        tls = context.wrap_socket(
            sock, server_hostname=server_hostname, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
    except (OSError, ValueError) as error:
        failed = error
        loop.post(lambda: on_done(failed))
        return lambda: False

    def finish(result: ssl.SSLSocket | BaseException) -> None:
        if pending[0]:
            pending[0] = False
            loop.unwatch(tls)
            on_done(result)

    def cancel() -> bool:
        was_pending, pending[0] = pending[0], False
        if was_pending:
            loop.unwatch(tls)
            close_hard(tls)
        return was_pending

    def step(_mask: int) -> None:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            loop.rewatch(tls, READ, step)
        except ssl.SSLWantWriteError:
            loop.rewatch(tls, WRITE, step)
        except (OSError, ssl.SSLError) as error:
            finish(error)
            close_hard(tls)
        else:
            finish(tls)

    loop.watch(tls, READ | WRITE, step)
    return cancel
