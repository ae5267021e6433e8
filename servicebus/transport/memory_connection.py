"""MemoryConnection: one connection to a broker in memory; see ``interface.BrokerConnection`` for the contract."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from servicebus.configuration import BrokerHost
from servicebus.errors import ConnectFailed, ConnectionLost, TransportError
from servicebus.transport.amqp import WHOLE_BYTES
from servicebus.transport.failures import too_few_channels
from servicebus.transport.interface import BrokerChannel, ConnectionEvents, Returned
from servicebus.transport.loop import EventLoop, nothing
from servicebus.transport.memory_channel import MemoryChannel
from servicebus.transport.memory_sessions import MemorySession

if TYPE_CHECKING:
    from servicebus.transport.memory import MemoryBroker

__all__ = ["MemoryConnection"]


class _Item(NamedTuple):
    """What travels."""

    arrive: Callable[[], None]
    size: int
    is_publish: bool
    due_at: float


class _Pipe:
    """One direction: what is put in arrives in order, in later callbacks of the loop."""

    def __init__(self, broker: MemoryBroker, loop: EventLoop, take: Callable[[_Item], None]):
        self.take = take
        self.may_take: Callable[[_Item], bool] = lambda _item: True
        self.after: Callable[[], None] = lambda: None
        """Called after some have arrived together."""
        self._broker = broker
        self._loop = loop
        self._items: deque[_Item] = deque()
        self._is_scheduled = False

    def put(self, arrive: Callable[[], None], size: int, *, is_publish: bool = False) -> None:
        with self._broker.lock:
            delay_s = self._broker.delay_s
            due_at = time.monotonic() + delay_s if delay_s else 0.0  # looking at the clock is a tenth of all this costs
            self._items.append(_Item(arrive, size, is_publish, due_at))
            if self._is_scheduled:
                return
            self.schedule()

    def clear(self) -> None:
        self._items.clear()

    def arrive_now(self) -> None:
        """All that may arrive does so, whatever the delay."""
        while self._items and self.may_take(self._items[0]):
            self.take(self._items.popleft())
        self.clear()

    def schedule(self) -> None:
        with self._broker.lock:
            if self._is_scheduled or not self._items or self._broker.is_frozen:
                return
            self._is_scheduled = True
        self._loop.post(self._begin)

    def _begin(self) -> None:
        due_at = self._items[0].due_at if self._items else 0.0
        wait_s = due_at - time.monotonic() if due_at else 0.0
        if wait_s > 0:
            self._loop.call_later(wait_s, self._move)
        else:
            self._move()

    def _move(self) -> None:
        self._is_scheduled = False
        for _ in range(len(self._items)):
            if not self._items or self._broker.is_frozen:
                break
            due_at = self._items[0].due_at
            if due_at and due_at > time.monotonic():
                break
            if not self.may_take(self._items[0]):
                self.after()
                return  # until ``schedule()`` is called
            self.take(self._items.popleft())
        self.after()
        if self._items:
            self.schedule()


class MemoryConnection:
    """Made in the loop's thread by ``MemoryBroker.connect()``; starts to connect at once."""

    def __init__(
        self,
        broker: MemoryBroker,
        loop: EventLoop,
        host: BrokerHost,
        events: ConnectionEvents,
        *,
        label: str,
        heartbeat_s: int,
        connect_timeout_s: float,
        handshake_timeout_s: float,
        most_bytes: int,
        fast: bool = True,
    ):
        self.host = host
        self.loop = loop
        self.label = label
        self.blocked: str | None = None
        self.most_bytes = max(most_bytes, WHOLE_BYTES)
        self.bytes_received = self.bytes_written = self.bytes_acknowledged = 0
        self._broker = broker
        broker.connections.append(self)
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._session: MemorySession | None = None
        self._channels: list[MemoryChannel] = []
        self._is_opened = self._has_ended = self._is_closing = False
        self._up = _Pipe(broker, loop, self._reaches_broker)
        self._up.may_take = self._may_reach_broker
        self._up.after = self._confirm
        self._down = _Pipe(broker, loop, self._reaches_us)
        limit_s = connect_timeout_s + handshake_timeout_s
        silent = f"connected, but no answer to the handshake within {handshake_timeout_s:g} s"
        self._giving_up = loop.call_later(limit_s, lambda: self._fail("silent", silent))
        self.send(self._shake_hands)

    def __repr__(self) -> str:
        state = "closed" if self._has_ended else "open" if self._is_opened else "connecting"
        return f"<MemoryConnection {self.host.place} {state}{' blocked' if self.blocked else ''}>"

    @property
    def is_open(self) -> bool:
        return self._is_opened and not self._has_ended

    @property
    def server_version(self) -> str:
        return self._broker.version if self._is_opened else ""

    @property
    def channel_max(self) -> int:
        return 2047

    @property
    def session(self) -> MemorySession:
        assert self._session is not None
        return self._session

    def open_channel(
        self,
        on_open: Callable[[BrokerChannel], None],
        on_closed: Callable[[TransportError], None],
        *,
        on_returned: Callable[[Returned], None] | None = None,
        on_confirmed: Callable[[int, bool, bool], None] | None = None,
    ) -> None:
        if not self.is_open or self._is_closing:
            return
        if len(self._channels) >= self._broker.channel_max:
            too_few = too_few_channels(self.host, len(self._channels))
            self.loop.post(lambda: on_closed(too_few))
            return
        self._channels.append(MemoryChannel(self, on_open, on_closed, on_returned, on_confirmed))

    def forget(self, channel: MemoryChannel) -> None:
        """*channel* is closed."""
        if channel in self._channels:
            self._channels.remove(channel)

    def close(self) -> None:
        if self._is_closing or not self.is_open:
            return
        self._is_closing = True
        for channel in self._channels:
            channel.is_open = False
        self.send(self._say_goodbye)

    def abort(self, reason: str) -> None:
        if self._has_ended:
            return
        frozen = self._broker.is_frozen  # the reset is lost, and the broker finds out by its heartbeat
        end = self._leave(reason)
        self.loop.call_later(2 * self._heartbeat_s, end) if frozen else end()

    def abandon(self, reason: str) -> Callable[[], None]:
        return nothing if self._has_ended else self._leave(reason)

    # -- the end of our process; with the broker's lock ------------------------------------------------------------

    def vanish(self, *, loses_all: bool) -> None:
        """Our process has ended; what it has sent may be on its way."""
        self._end()
        if loses_all:
            self._up.clear()

    def end_vanished(self) -> None:
        """The broker reads what a process had sent that has ended."""
        self._up.arrive_now()

    # -- the wire --------------------------------------------------------------------------------------------------

    def send(self, arrive: Callable[[], None], size: int = 8, *, is_publish: bool = False) -> None:
        """Send *size* bytes to the broker, where *arrive* is called."""
        if not self._has_ended:
            self.bytes_written += size
            self._up.put(arrive, size, is_publish=is_publish)

    def receive(self, arrive: Callable[[], None], size: int) -> None:
        """The broker sends *size* bytes; from any thread, with the broker's lock."""
        if not self._has_ended:
            self._down.put(arrive, size)

    def resume(self) -> None:
        """The broker reads again."""
        self._up.schedule()
        self._down.schedule()

    def _may_reach_broker(self, item: _Item) -> bool:
        with self._broker.lock:
            return self._session is None or not item.is_publish or self._session.may_publish()

    def _reaches_broker(self, item: _Item) -> None:
        self.bytes_acknowledged += item.size
        with self._broker.working_for(self.loop):
            self.loop.guarded(item.arrive)

    def _confirm(self) -> None:
        if self._session is not None:
            with self._broker.lock:
                self._session.send_confirms()

    def _reaches_us(self, item: _Item) -> None:
        self.bytes_received += item.size
        self.loop.guarded(item.arrive)

    # -- what happens at the broker --------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        if self._broker.refuses is not None:
            kind, reason = self._broker.refuses
            self.receive(lambda: self._fail(kind, reason), 8)
        else:
            self._session = MemorySession(self._broker, self)
            self._session.send(self._open)

    def _say_goodbye(self) -> None:
        self.session.send(lambda: self._lose("closed: 200 Normal shutdown"))
        self.session.end()

    # -- what the broker says --------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._giving_up.cancel()
        self._is_opened = True
        self._events.connection_opened(self)

    def _fail(self, kind: str, reason: str) -> None:
        if not (self._has_ended or self._is_opened):
            self._finish()
            self._events.connection_failed(self, ConnectFailed(self.host.place, reason, kind=kind))

    def become_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        self._events.connection_blocked(self, reason)

    def break_off(self, reason: str) -> None:
        """The broker cuts the connection; from any thread."""
        self.loop.post(lambda: self._lose(reason))

    def _lose(self, reason: str) -> None:
        if self._has_ended:
            return
        if not self._is_opened:
            self._fail("closed", reason)
            return
        self._finish()
        lost = ConnectionLost(self.host.place, reason, sent=True)
        self._end_channels(lost)
        self._events.connection_lost(self, lost)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _leave(self, reason: str) -> Callable[[], None]:
        """End our side now; returns the function that ends the broker's."""
        was_open = self.is_open
        self._finish()
        lost = ConnectionLost(self.host.place, reason, sent=True)
        if was_open:
            self.loop.post(lambda: self._events.connection_lost(self, lost))
        else:
            failed = ConnectFailed(self.host.place, reason, kind="closed")
            self.loop.post(lambda: self._events.connection_failed(self, failed))
        self.loop.post(lambda: self._end_channels(lost))
        return self._end_session

    def _finish(self) -> None:
        self._end()
        self._up.clear()

    def _end(self) -> None:
        self._giving_up.cancel()
        self._has_ended = True
        with self._broker.lock:
            self._broker.connections.remove(self)
        self._down.clear()
        for channel in self._channels:
            channel.is_open = False

    def _end_channels(self, lost: ConnectionLost) -> None:
        for channel in list(self._channels):
            self.loop.guarded(partial(channel.end, lost))

    def _end_session(self) -> None:
        if self._session is not None:
            with self._broker.working_for(self.loop):
                self._session.end()
