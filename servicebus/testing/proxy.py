"""A TCP proxy that breaks connections on demand, for tests of what a client does then.

Theory: one thread owns every socket. The methods only leave an order in a queue and wake the thread; each returns when
the order has been carried out, so a test never races with its own proxy.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType

from servicebus._durations import to_seconds
from servicebus.testing.ports import LOOPBACK, free_ports
from servicebus.testing.proxylink import Behaviour, Mode, ProxiedConnection, reset_socket

__all__ = ["FaultProxy", "Mode"]

_BACKLOG = 128
_DROPS = (Mode.DROP, Mode.DROP_TO_SERVER, Mode.DROP_TO_CLIENT)


class FaultProxy:
    """Stands at ``host:port`` before a server on loopback. May be used from any thread; a context manager.

    ``accepted`` counts connections since it was made.
    """

    host = LOOPBACK

    def __init__(self, target_port: int, target_host: str = LOOPBACK, port: int = 0):
        """*port*: where it listens; 0 chooses one. It stays the same over `stop` and `start`."""
        self.target = (target_host, target_port)
        self.port = port or free_ports(1)[0]
        self.accepted = 0
        self._behaviour = Behaviour()
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._thread: threading.Thread | None = None
        self._links: set[ProxiedConnection] = set()
        self._listener: socket.socket | None = None
        self._listens_with: int | None = None
        self._fillers: list[socket.socket] = []

    def __repr__(self) -> str:
        state = self._behaviour.mode.value if self._thread else "stopped"
        return f"<FaultProxy {self.host}:{self.port} to {self.target[0]}:{self.target[1]} {state}>"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.host}:{self.port}/"

    @property
    def mode(self) -> Mode:
        return self._behaviour.mode

    @property
    def forwarded(self) -> int:
        """How many bytes it has handed on, both directions together."""
        return self._behaviour.forwarded

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def start(self) -> None:
        """Listen. Does nothing if it does already."""
        if self._thread is not None:
            return
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._running = True
        self._apply(self._behaviour.mode)
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close everything. `start` listens on the same port again."""
        if self._thread is None:
            return
        self._order(self._end)
        self._thread.join()
        self._thread = None
        # Not before: the thread may carry out the last order before it is woken for it.
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def set_mode(self, mode: Mode) -> None:
        """Treat old and new connections as *mode* says, from now on."""
        if self._thread is None:
            self._behaviour.mode = mode
        else:
            self._order(lambda: self._apply(mode))

    def set_delay(self, delay_s: float, loss: float = 0.0) -> None:
        """Hold back by *delay_s* what is read from now on, in both directions.

        *loss* is the part of it that is lost on its way. TCP sends it again, so that it, and what follows it on the
        same connection, comes 0.2 s later or more.
        """
        self._behaviour.delay_s = to_seconds("delay_s", delay_s)
        self._behaviour.loss = loss

    def set_rate(self, bytes_per_s: float) -> None:
        """Hand on so many bytes a second, of each connection in each direction; 0 for as many as come."""
        self._behaviour.rate = bytes_per_s

    def heal(self) -> None:
        """Hand everything on again, at once. What open connections could not deliver is delivered now."""
        self.set_delay(0.0)
        self.set_rate(0.0)
        self.set_mode(Mode.PASS)

    def cut(self) -> None:
        """Reset the open connections once; new ones are treated as before."""
        if self._thread is not None:
            self._order(lambda: self._close_links(reset=True))

    def tear(self) -> None:
        """Reset each open connection in the middle of what it hands on next; new ones are treated as before."""
        if self._thread is not None:
            self._order(self._tear_links)

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- below runs in the proxy's thread, or before it starts

    def _order(self, action: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.append((action, done))
        self._wake_write.send(b"!")
        if not done.wait(10.0):
            raise TimeoutError(f"{self!r} does not take orders")

    def _run(self) -> None:
        while self._running:
            for key, events in self._selector.select(self._pause()):
                if key.data is not None:
                    key.data(events)
            self._apply_orders()
            for link in list(self._links):
                link.flush()

    def _pause(self) -> float | None:
        now = time.monotonic()
        dues = [due for link in self._links if (due := link.next_due(now)) is not None]
        return max(0.0, min(dues) - now) if dues else None

    def _apply_orders(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(4096)
        while self._orders:
            action, done = self._orders.popleft()
            action()
            done.set()

    def _apply(self, mode: Mode) -> None:
        self._behaviour.mode = mode
        if mode in (Mode.REFUSE, Mode.RESET):
            self._close_links(reset=mode is Mode.RESET)
        backlog = None if mode is Mode.REFUSE else 0 if mode in _DROPS else _BACKLOG
        if backlog != self._listens_with:
            self._close_listener()
            if backlog is not None:
                self._open_listener(backlog)
        for link in self._links:
            link.watch()

    def _open_listener(self, backlog: int) -> None:
        self._listener = self._listen(backlog)
        self._listens_with = backlog
        if backlog:
            self._selector.register(self._listener, selectors.EVENT_READ, partial(self._accept, self._listener))
        else:
            self._fill_queue()

    def _listen(self, backlog: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(backlog)
        listener.setblocking(False)
        return listener

    def _fill_queue(self) -> None:
        """While the queue of a listener is full, the kernel drops the first packet of a new connection."""
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((self.host, self.port))
            self._fillers.append(filler)

    def _close_listener(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
            self._listens_with = None
        while self._fillers:
            self._fillers.pop().close()

    def _accept(self, listener: socket.socket, _events: int) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # gone again before we came
            return
        self.accepted += 1
        if self._behaviour.mode is Mode.RESET:
            reset_socket(client)
            return
        try:
            server = socket.create_connection(self.target, 5.0)
        except OSError:
            reset_socket(client)
            return
        self._links.add(ProxiedConnection(self._selector, self._behaviour, (client, server), self._links.discard))

    def _close_links(self, *, reset: bool) -> None:
        for link in list(self._links):
            link.close(reset=reset)

    def _tear_links(self) -> None:
        for link in self._links:
            link.tear()

    def _end(self) -> None:
        self._running = False
        self._close_links(reset=False)
        self._close_listener()
