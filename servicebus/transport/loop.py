"""EventLoop: one thread's selector, timers, and the door through which other threads hand it work.

Theory of operation. Exactly one thread runs the loop and touches what belongs to it; every other thread uses
``post()``, which appends to a deque and wakes the loop at most once per batch: a loop that is awake looks at the deque
before it sleeps again, so only a sleeping one needs the byte through the pipe. What callbacks write to a stream during
one turn is joined and sent with one system call at the end of that turn; pika by itself would send frame by frame.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

LOG = logging.getLogger(__name__)

_IDLE_S = 3600.0
_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE


class Timer:
    """A pending ``call_later``; ``cancel()`` may be called any number of times, in the loop's thread."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]):
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Flushable(Protocol):
    """What asks to be flushed at the end of a turn."""

    def flush(self) -> None: ...


class EventLoop:
    """A selector loop. Everything but ``post()`` and ``stop()`` belongs to the thread that calls ``run()``."""

    def __init__(self, name: str = "io"):
        self.name = name
        self.turns = 0
        """Completed turns; a supervisor that sees it stand still knows that the loop hangs."""
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_ids = itertools.count()
        self._posted: deque[Callable[[], None]] = deque()
        self._dirty: list[Flushable] = []
        self._sleeping = False
        self._stopping = False
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._selector.register(self._wake_in, _READ, self._drain_wakeups)

    def __repr__(self) -> str:
        state = "stopping" if self._stopping else "running"
        return f"<EventLoop {self.name} {state} turns={self.turns} watched={len(self._selector.get_map() or ())}>"

    # -- for any thread ------------------------------------------------------------------------------------------

    def post(self, callback: Callable[[], None]) -> None:
        """Run *callback* in the loop's thread, soon. Callable from any thread; never blocks."""
        self._posted.append(callback)
        if self._sleeping:
            self._sleeping = False
            self._wake()

    def stop(self) -> None:
        """Let ``run()`` return after the current turn. Callable from any thread."""
        self._stopping = True
        self._wake()

    # -- for the loop's thread -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until ``stop()``."""
        while not self._stopping:
            self._turn()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._timer_ids), timer))
        return timer

    def watch(self, sock: socket.socket, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(mask)`` whenever *sock* is ready for *events* (selectors.EVENT_*)."""
        self._selector.register(sock, events, callback)

    def rewatch(self, sock: socket.socket, events: int, callback: Callable[[int], None]) -> None:
        self._selector.modify(sock, events, callback)

    def unwatch(self, sock: socket.socket) -> None:
        with suppress(KeyError, ValueError):  # never registered, or closed already: the wanted state is reached
            self._selector.unregister(sock)

    def flush_later(self, stream: Flushable) -> None:
        """Flush *stream* at the end of this turn."""
        self._dirty.append(stream)

    def close(self) -> None:
        """Release the selector and the pipe; only after ``run()`` has returned."""
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    # -- inside --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        timeout_s = self._time_to_next_timer()
        self._sleeping = True
        # A post between the last look at the deque and the line above did not see us sleeping: look again.
        events = self._selector.select(0 if self._posted else timeout_s)
        self._sleeping = False
        for key, mask in events:
            self._guarded(key.data, mask)
        self._run_posted()
        self._run_timers()
        self._flush()
        self.turns += 1

    def _time_to_next_timer(self) -> float:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return _IDLE_S
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _run_posted(self) -> None:
        # Only what was there at the start of the turn: callbacks that post again must not starve the sockets.
        for _ in range(len(self._posted)):
            self._guarded(self._posted.popleft())

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                self._guarded(callback)

    def _flush(self) -> None:
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for stream in dirty:
                self._guarded(stream.flush)

    def _guarded(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:  # one broken callback must not end the thread that serves all the others
            LOG.exception("%s: callback %r failed", self.name, callback)

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_out, b"\0")

    def _drain_wakeups(self, _mask: int) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_in, 4096)


class StreamProtocol(Protocol):
    """Who reads from a stream: the subset of asyncio's Protocol that pika speaks."""

    def connection_made(self, transport: Any) -> None: ...
    def connection_lost(self, error: BaseException | None) -> None: ...
    def eof_received(self) -> bool | None: ...
    def data_received(self, data: bytes) -> None: ...


class Stream:
    """A connected socket, plain or TLS, that reads in large pieces and writes once per turn."""

    READ_BYTES = 65536

    def __init__(self, loop: EventLoop, sock: socket.socket, protocol: StreamProtocol):
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_pending = False
        self._watches_writes = False
        self._closed = False
        self.bytes_received = 0

    def __repr__(self) -> str:
        return f"<Stream fd={self._sock.fileno()} closed={self._closed} unsent={self._out_bytes}>"

    def start(self) -> None:
        self._loop.watch(self._sock, _READ, self._on_ready)
        self._protocol.connection_made(self)
        # A TLS handshake may have read the first bytes of the conversation into the TLS layer's own buffer,
        # where no selector sees them.
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            self._loop.post(self._read)

    # -- pika's AbstractStreamTransport --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._closed:
            return
        self._out.append(data)
        self._out_bytes += len(data)
        if not self._flush_pending:
            self._flush_pending = True
            self._loop.flush_later(self)

    def abort(self) -> None:
        """Close at once, without a word to the peer; ``connection_lost(None)`` follows in a later callback."""
        self._close(None)

    def cut(self, reason: str) -> None:
        """Close as if the network had broken: ``connection_lost`` is given an error that says *reason*."""
        self._close(ConnectionAbortedError(reason))

    def abandon(self, reason: str) -> Callable[[], None]:
        """As ``cut()``, but the peer gets its reset only when the function that this gives is called."""
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

    def _on_ready(self, mask: int) -> None:
        if mask & _READ:
            self._read()
        if mask & _WRITE and not self._closed:
            self.flush()

    def _read(self) -> None:
        while not self._closed:
            try:
                data = self._sock.recv(self.READ_BYTES)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (OSError, ssl.SSLError) as error:
                self._close(error)
                return
            if not data:
                self._protocol.eof_received()
                self._close(None)
                return
            self.bytes_received += len(data)
            self._deliver(data)
            if not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
                return

    def _deliver(self, data: bytes) -> None:
        try:
            self._protocol.data_received(data)
        except Exception as error:  # the peer sent what its protocol cannot read: this connection is lost, no other
            LOG.warning("%r: unreadable data from the broker: %r", self, error)
            self._close(error)

    def flush(self) -> None:
        """Send what was written during this turn; what the socket does not take now waits for it."""
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
        self._out = [data[sent:]] if sent < len(data) else []
        self._watch_writes(bool(self._out))

    def _watch_writes(self, wanted: bool) -> None:
        if wanted != self._watches_writes:
            self._watches_writes = wanted
            self._loop.rewatch(self._sock, _READ | _WRITE if wanted else _READ, self._on_ready)

    def _close(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._out = []
        self._out_bytes = 0
        self._loop.unwatch(self._sock)
        close_hard(self._sock)
        self._loop.post(lambda: self._protocol.connection_lost(error))


def close_hard(sock: socket.socket) -> None:
    """Close *sock* with a reset, so that a silent peer keeps neither memory nor a port of ours."""
    with suppress(OSError):  # already disconnected by the peer
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


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
        loop.watch(sock, _WRITE, on_ready)
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
            loop.rewatch(tls, _READ, step)
        except ssl.SSLWantWriteError:
            loop.rewatch(tls, _WRITE, step)
        except (OSError, ssl.SSLError) as error:
            finish(error)
            close_hard(tls)
        else:
            finish(tls)

    loop.watch(tls, _READ | _WRITE, step)
    return cancel
