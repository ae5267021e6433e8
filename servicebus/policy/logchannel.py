"""The sending side of the log channel: what to put on the wire, what to send again, and what the server has.

A channel is TCP's idea in small: packets are numbered from 1 in each session with the server, at most a window of bytes
is on its way, the server acknowledges up to a number and names the holes above it. What is not TCP's: no caller ever
waits for it, and a channel outlives the server. A new session restarts the numbers with everything that was not
acknowledged, beginning with the first piece of a batch that the old server had in part: pieces live in the server's
memory, not in its file.

Packets stay until they are acknowledged; only the owner's backlog in front of the channel is bounded by dropping.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["FlushLimit", "LogChannel", "Packet"]

PACKET_COST = 1024
"""What the kernel charges for a small datagram in a receive buffer, rounded up (768 bytes measured on Linux 6)."""
MAX_IN_FLIGHT = 128
FIRST_WINDOW = 16 * 1024
FIRST_WAIT_S = 0.2
"""Before something unacknowledged is sent again. A loopback acknowledgement takes 0.2 ms; a server that shares two
cores with eight busy clients was seen to take 60 ms."""
LONGEST_WAIT_S = 1.0
MISSING_WAIT_S = 0.02
"""A hole that the server names is filled at once, but not again by the acknowledgements that crossed the repair."""


@dataclass(slots=True)
class Packet:
    """One datagram in the making. ``records_through`` is set on the last packet of a batch."""

    kind: str
    body: bytes
    records_through: int | None = None
    number: int = 0
    attempt: int = 0
    sent_at: float = 0.0

    @property
    def cost(self) -> int:
        """Bytes of the server's receive buffer. Linux rounds the room of a datagram up, at worst to nearly double."""
        return len(self.body) * 3 // 2 + PACKET_COST


class FlushLimit:
    """How long to wait for the server at the end: *timeout_s* from its last progress on, ten times that in all."""

    def __init__(self, timeout_s: float, now: float):
        self._timeout_s = timeout_s
        self._last_deadline = now + 10 * timeout_s
        self._progress = -1
        self.deadline = now + timeout_s

    def is_over(self, progress: int, now: float) -> bool:
        """*progress* is a count that grows while the server takes what it is sent."""
        if progress != self._progress:
            self._progress = progress
            self.deadline = min(now + self._timeout_s, self._last_deadline)
        return now >= self.deadline


class LogChannel:
    """What is on its way from one process to the log server. Pure: ``now`` is a monotonic time in seconds.

    Not safe for threads: its owner locks. ``open`` says whether the server is known and answering.
    """

    def __init__(self) -> None:
        self.open = False
        self.session: bytes | None = None
        self.records_acknowledged = 0
        """Every record up to this number is in the server's file, or was reported to it as dropped."""
        self.resent = 0
        self.packets_acknowledged = 0
        self._window = FIRST_WINDOW
        self._next = 1
        self._waiting: deque[Packet] = deque()
        self._flying: deque[Packet] = deque()
        self._flying_cost = 0
        self._partial: list[Packet] = []
        """Acknowledged pieces of a batch whose last packet is not acknowledged."""
        self._wait_s = FIRST_WAIT_S
        self._silent_since = 0.0

    def __repr__(self) -> str:
        state = "open" if self.open else "down"
        return f"<LogChannel {state}, {len(self._flying)} packets on their way, {len(self._waiting)} waiting>"

    @property
    def has_room(self) -> bool:
        """Whether another batch may be added: nothing waits, and the window is not full."""
        return self.open and not self._waiting and self._fits(PACKET_COST)

    @property
    def is_empty(self) -> bool:
        """Whether everything added was acknowledged."""
        return not self._flying and not self._waiting

    def add(self, bodies: Iterable[tuple[str, bytes]], records_through: int) -> None:
        """Take a batch that ends with the record of that number, as one packet or several in order."""
        packets = [Packet(kind, body) for kind, body in bodies]
        packets[-1].records_through = records_through
        self._waiting.extend(packets)

    def opened(self, session: bytes, next_number: int, window: int, now: float) -> None:
        """The server answered a hello. In a session that it still has, it only says how far it is."""
        if session != self.session:
            self._start_again(session)
        self.open = True
        self._silent_since = now
        self._wait_s = FIRST_WAIT_S
        self.acknowledged(next_number, (), window, now)

    def suspend(self) -> None:
        """The server does not answer: send nothing until ``opened``."""
        self.open = False

    def acknowledged(self, next_number: int, missing: Sequence[int], window: int, now: float) -> list[Packet]:
        """The server has every packet below *next_number*, but not those of *missing*. Give what to repair at once."""
        self._window = max(window, 2 * PACKET_COST)
        self._silent_since = now
        if next_number > self._next:  # cannot be: the server of this session counts what we numbered
            return []
        moved = False
        while self._flying and self._flying[0].number < next_number:
            self._arrived(self._flying.popleft())
            self.packets_acknowledged += 1
            moved = True
        if moved:
            self._wait_s = FIRST_WAIT_S
        holes = set(missing)
        return [
            self._again(packet, now)
            for packet in self._flying
            if packet.number in holes and now - packet.sent_at >= MISSING_WAIT_S
        ]

    def due(self, now: float) -> list[Packet]:
        """The packets to send now: new ones as the window allows, and the oldest again when nothing was heard of it."""
        if not self.open:
            return []
        packets = []
        if self._flying and now >= self._repeat_at():
            # Only the oldest: the answer to it names the other holes. Numbers of a frozen server would be sent in vain.
            packets.append(self._again(self._flying[0], now))
            self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
        while self._waiting and self._fits(self._waiting[0].cost):
            packets.append(self._launch(self._waiting.popleft(), now))
        return packets

    def next_due(self) -> float | None:
        """When ``due`` will have something again though no answer came; None if only an answer can bring that."""
        return self._repeat_at() if self.open and self._flying else None

    def silent_s(self, now: float) -> float:
        """For how long the server has owed an answer."""
        return now - self._silent_since if self._flying else 0.0

    def _fits(self, cost: int) -> bool:
        if not self._flying:
            return True
        return len(self._flying) < MAX_IN_FLIGHT and self._flying_cost + cost <= self._window

    def _repeat_at(self) -> float:
        return self._flying[0].sent_at + self._wait_s

    def _launch(self, packet: Packet, now: float) -> Packet:
        if not self._flying:
            self._silent_since = now
        packet.number = self._next
        packet.sent_at = now
        self._next += 1
        self._flying.append(packet)
        self._flying_cost += packet.cost
        return packet

    def _again(self, packet: Packet, now: float) -> Packet:
        packet.attempt += 1
        packet.sent_at = now
        self.resent += 1
        return packet

    def _arrived(self, packet: Packet) -> None:
        self._flying_cost -= packet.cost
        if packet.records_through is None:
            self._partial.append(packet)
            return
        self._partial.clear()
        self.records_acknowledged = packet.records_through

    def _start_again(self, session: bytes) -> None:
        unfinished = [*self._partial, *self._flying]
        for packet in unfinished:
            packet.attempt = 0
        self._waiting.extendleft(reversed(unfinished))
        self._partial.clear()
        self._flying.clear()
        self._flying_cost = 0
        self.session = session
        self._next = 1
