"""One connection through the fault proxy: two sockets and what waits to be handed on. Lives in the proxy's thread."""

from __future__ import annotations

import contextlib
import enum
import random
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

__all__ = ["Behaviour", "Mode", "ProxiedConnection", "reset_socket"]

_CHUNK = 65_536
_SLOW_CHUNK = 8192
"""A slow link hands on, and holds, so little at a time."""
_MAX_HELD_BYTES = 1_048_576
"""Beyond this nothing more is read from the other end, so that a client of a frozen server notices."""
_RETRANSMITTED_AFTER_S = 0.2
"""What a lost packet costs on Linux: TCP sends it again so much later, and twice as late if it is lost again."""
_MOST_LOSSES = 3
"""What got lost so often arrives: else a few bytes of many would be away for minutes."""


class Mode(enum.Enum):
    """What a `FaultProxy` does with connections, open and new."""

    PASS = "pass"  # noqa: S105 - a mode, no password
    """Hands everything on."""
    DEAF = "deaf"
    """Accepts, never reads, never answers: a wedged process. A client's buffers fill up after a while."""
    SWALLOW = "swallow"
    """Accepts, reads, throws away, never answers: a path on which nothing arrives any more."""
    REFUSE = "refuse"
    """Open connections are closed, new ones refused: a stopped broker."""
    RESET = "reset"
    """Open connections are reset, new ones as soon as they are accepted: a crashing host."""
    DROP = "drop"
    """Nothing moves on open connections, and new ones are never accepted: packets are dropped."""
    DROP_TO_SERVER = "drop to server"
    """The same for what clients send; what the server sends on open connections arrives."""
    DROP_TO_CLIENT = "drop to client"
    """The same for what the server sends; what clients send on open connections arrives."""


@dataclass
class Behaviour:
    """What the proxy does now, shared by all of its connections; changed by the proxy's thread only."""

    mode: Mode = Mode.PASS
    delay_s: float = 0.0
    loss: float = 0.0
    """Which part of what is read gets lost on its way, and arrives late for that."""
    rate: float = 0.0
    """How many bytes a second of each connection go in each direction; 0 for as many as come."""
    forwarded: int = 0

    def hold_s(self) -> float:
        """How long what was read just now is held back."""
        late_s, wait_s = 0.0, _RETRANSMITTED_AFTER_S
        for _ in range(_MOST_LOSSES):
            if random.random() >= self.loss:
                break
            late_s, wait_s = late_s + wait_s, 2 * wait_s
        return self.delay_s + late_s


def reset_socket(sock: socket.socket) -> None:
    """Close with a TCP reset: what is unsent is thrown away, and the other end gets an error."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class ProxiedConnection:
    """Two connected sockets; what one reads is sent to the other after the delay, while the mode lets it."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        behaviour: Behaviour,
        ends: tuple[socket.socket, socket.socket],
        on_close: Callable[[ProxiedConnection], None],
    ):
        self._selector = selector
        self._behaviour = behaviour
        self._ends = ends
        self._on_close = on_close
        self._is_open = True
        self._finished: set[socket.socket] = set()
        """Ends that said they will send no more: asking them again would only say so again, without a pause."""
        # What waits to be sent to each end, with the time from which it may; empty bytes stand for the end of input.
        self._waiting: dict[socket.socket, deque[tuple[float, bytes]]] = {end: deque() for end in ends}
        self._held = dict.fromkeys(ends, 0)
        self._watched = dict.fromkeys(ends, 0)
        """What the selector was asked for; asking again costs a system call each."""
        self._free_at = dict.fromkeys(ends, 0.0)
        """When a slow link has handed on what it has."""
        self._is_torn = False
        for end in ends:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.watch()

    def next_due(self, now: float) -> float | None:
        """When held-back bytes may go out next; ``None`` if nothing is held back."""
        return min(
            (queue[0][0] for end, queue in self._waiting.items() if queue and queue[0][0] > now and self._reaches(end)),
            default=None,
        )

    def watch(self) -> None:
        """Ask the selector for what the mode lets happen."""
        now = time.monotonic()
        for end in self._ends:
            events = 0
            if self._may_read(end):
                events |= selectors.EVENT_READ
            if self._reaches(end) and self._is_due(end, now):
                events |= selectors.EVENT_WRITE
            self._watch_for(end, events)

    def flush(self) -> None:
        """Send what has been held back long enough, as far as the sockets take it."""
        if not self._is_open:
            return
        try:
            for end in self._ends:
                if self._waiting[end] and self._reaches(end):
                    self._flush_to(end)
        except OSError:
            self.close(reset=True)
            return
        if len(self._finished) == 2 and not any(self._waiting.values()):
            self.close(reset=False)
        else:
            self.watch()

    def tear(self) -> None:
        """Reset the connection in the middle of what is handed on next, which most often is the middle of a frame."""
        self._is_torn = True

    def close(self, *, reset: bool) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for end in self._ends:
            self._watch_for(end, 0)
            if reset:
                reset_socket(end)
            end.close()
        self._on_close(self)

    def _may_read(self, end: socket.socket) -> bool:
        if end in self._finished:
            return False
        if self._behaviour.mode is Mode.SWALLOW:
            return True
        most_bytes = _SLOW_CHUNK if self._behaviour.rate else _MAX_HELD_BYTES
        return self._reaches(self._other(end)) and self._held[self._other(end)] < most_bytes

    def _reaches(self, end: socket.socket) -> bool:
        """Whether anything is handed on to *end*."""
        mode = self._behaviour.mode
        return mode is Mode.PASS or mode is (Mode.DROP_TO_CLIENT if end is self._ends[1] else Mode.DROP_TO_SERVER)

    def _other(self, end: socket.socket) -> socket.socket:
        return self._ends[1] if end is self._ends[0] else self._ends[0]

    def _is_due(self, end: socket.socket, now: float) -> bool:
        queue = self._waiting[end]
        return bool(queue) and queue[0][0] <= now

    def _flush_to(self, end: socket.socket) -> None:
        queue = self._waiting[end]
        now = time.monotonic()
        while self._is_due(end, now):
            due, data = queue.popleft()
            if not data:
                end.shutdown(socket.SHUT_WR)
                continue
            if self._is_torn and len(data) > 1:
                end.send(data[: len(data) // 2])
                raise ConnectionResetError("torn, as ordered")
            try:
                sent = end.send(data)
            except BlockingIOError:
                sent = 0
            self._behaviour.forwarded += sent
            self._held[end] -= sent
            if sent < len(data):
                queue.appendleft((due, data[sent:]))
                return

    def _watch_for(self, end: socket.socket, events: int) -> None:
        if end.fileno() >= 0 and self._watched[end] == events:
            return
        self._watched[end] = events
        # A selector does not take an empty set of events: such a socket is not registered at all.
        known = end.fileno() >= 0 and end in self._selector.get_map()
        if known and not events:
            self._selector.unregister(end)
        elif known:
            self._selector.modify(end, events, partial(self._on_ready, end))
        elif events:
            self._selector.register(end, events, partial(self._on_ready, end))

    def _on_ready(self, end: socket.socket, events: int) -> None:
        if not self._is_open or not events & selectors.EVENT_READ:
            return  # what can be written is flushed by the proxy's loop anyway
        try:
            data = end.recv(_SLOW_CHUNK if self._behaviour.rate else _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.close(reset=True)
            return
        if not data:
            self._finished.add(end)
        if self._behaviour.mode is Mode.SWALLOW:
            self.watch()
            return
        other = self._other(end)
        self._held[other] += len(data)
        due = time.monotonic() + self._behaviour.hold_s()
        if self._behaviour.rate:
            due = self._free_at[other] = max(due, self._free_at[other]) + len(data) / self._behaviour.rate
        self._waiting[other].append((due, data))
