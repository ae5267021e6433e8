"""The receiving side of the log channel: what each process sent, in order, once. Pure; ``now`` is monotonic seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from servicebus.errors import EnvelopeError
from servicebus.wire.logrecord import MAX_BATCH_BYTES, Batch, Datagram, DatagramKind, decode_batch

__all__ = ["LogSession", "LogSessions"]

MAX_AHEAD = 512
"""Packets above a hole that are kept; four times what a client of ours has on its way."""
MAX_AHEAD_BYTES = 2 * 1024 * 1024
MAX_HELD_BYTES = 32 * 1024 * 1024
"""Of all processes together: packets above a hole, and pieces of batches that are not whole."""
PACKET_BYTES = 1024
"""What a packet takes beside its body, at most."""
MAX_SESSIONS = 4096
ACTIVE_S = 5.0


@dataclass(slots=True)
class LogSession:
    """One process's log channel. ``next_record`` is the number of the first record that is not yet known of."""

    id: bytes
    sender: bytes
    pid: int
    name: str
    next_record: int
    heard_at: float
    next_packet: int = 1
    has_ended: bool = False
    _ahead: dict[int, Datagram] = field(default_factory=dict)
    _ahead_bytes: int = 0
    _pieces: list[bytes] = field(default_factory=list)
    _pieces_bytes: int = 0
    counted_bytes: int = 0
    """``held_bytes`` when they were counted last."""

    @property
    def held_bytes(self) -> int:
        """What is kept of it in memory."""
        pieces_bytes = self._pieces_bytes if self._pieces else 0
        return self._ahead_bytes + pieces_bytes + PACKET_BYTES * (len(self._ahead) + len(self._pieces))

    def greeted_again(self, pid: int, name: str, next_record: int) -> None:
        """Nothing came yet, so a hello of before may have been played back: the later one knows of more records."""
        if self.next_packet == 1 and not self._ahead and next_record > self.next_record:
            self.pid, self.name, self.next_record = pid, name, next_record

    def has(self, number: int) -> bool:
        """Whether the packet of that number came before."""
        return number < self.next_packet or number in self._ahead

    def missing(self, limit: int = 64) -> list[int]:
        """The holes below what has come, the first *limit* of them."""
        holes: list[int] = []
        if self._ahead:
            for number in range(self.next_packet, max(self._ahead)):
                if number not in self._ahead:
                    holes.append(number)
                    if len(holes) == limit:
                        break
        return holes

    def receive(self, packet: Datagram) -> Iterator[Batch]:
        """Take a packet that ``has`` does not know; give the batches that are whole now, in the order of their numbers.

        Raises:
            EnvelopeError: ``oversized`` for a packet too far ahead, which the client sends again; while iterating
                ``malformed`` or ``oversized`` for a body that is no batch. Its packet counts as received, what it
                held as lost. Go on with ``receive_more``.
        """
        if packet.number == self.next_packet:
            self.next_packet += 1
            yield from self._open(packet)
            yield from self.receive_more()
            return
        size = self._ahead_bytes + len(packet.body)
        if packet.number >= self.next_packet + MAX_AHEAD or size > MAX_AHEAD_BYTES:
            raise EnvelopeError("oversized", "the packet is too far ahead of the oldest missing one")
        self._ahead[packet.number] = packet
        self._ahead_bytes = size

    def receive_more(self) -> Iterator[Batch]:
        """The batches in the packets that waited for a hole to be filled."""
        while self._ahead:
            packet = self._ahead.pop(self.next_packet, None)
            if packet is None:
                return
            self._ahead_bytes -= len(packet.body)
            self.next_packet += 1
            yield from self._open(packet)

    def lost_before(self, batch: Batch) -> int:
        """How many records are missing before *batch*, which is counted as known of from now on.

        Raises:
            EnvelopeError: ``malformed`` for numbers that were used before.
        """
        lost = batch.first - self.next_record
        if lost < 0:
            raise EnvelopeError("malformed", "the numbers of the records were used before")
        self.next_record = batch.first + len(batch.records)
        return lost

    def _open(self, packet: Datagram) -> Iterator[Batch]:
        if packet.kind is DatagramKind.PIECE or packet.kind is DatagramKind.LAST:
            self._pieces_bytes += len(packet.body)
            if self._pieces_bytes <= MAX_BATCH_BYTES:
                self._pieces.append(packet.body)
            else:
                self._pieces.clear()  # the rest is counted, not kept
            if packet.kind is DatagramKind.LAST:
                yield self._joined()
            return
        if packet.kind is DatagramKind.BYE:
            self.has_ended = True
        yield decode_batch(packet.body)

    def _joined(self) -> Batch:
        pieces, size = self._pieces, self._pieces_bytes
        self._pieces, self._pieces_bytes = [], 0
        if size > MAX_BATCH_BYTES:
            raise EnvelopeError("oversized", f"a batch in pieces has {size} bytes")
        return decode_batch(b"".join(pieces))


class LogSessions:
    """All sessions. Of too many the longest silent one is forgotten; its process greets again after its next packet.

    Args:
        server_id: 16 hexadecimal digits that no server had before, so that no datagram is good for two servers.
    """

    def __init__(self, server_id: bytes, max_sessions: int = MAX_SESSIONS):
        self._server_id = server_id
        self._max_sessions = max_sessions
        self._by_sender: OrderedDict[bytes, LogSession] = OrderedDict()
        self._held_bytes = 0
        self.count = 0
        """How many there were."""

    def find(self, datagram: Datagram, now: float) -> LogSession | None:
        """The session that a packet belongs to, if it is known."""
        session = self._by_sender.get(datagram.sender)
        if session is None or session.id != datagram.session:
            return None
        session.heard_at = now
        self._by_sender.move_to_end(datagram.sender)
        return session

    def greet(self, sender: bytes, pid: int, name: str, next_record: int, now: float) -> LogSession:
        """The session of a process that says hello: the one it has, else a new one.

        A repeated hello changes nothing once a packet came, and a session once forgotten never comes back: what was
        recorded of it is worthless.
        """
        session = self._by_sender.get(sender)
        if session is None:
            self.count += 1
            session = LogSession(b"%s-%d" % (self._server_id, self.count), sender, pid, name, next_record, now)
            self._by_sender[sender] = session
            if len(self._by_sender) > self._max_sessions:
                self._forget(next(iter(self._by_sender)))
        else:
            session.greeted_again(pid, name, next_record)
        return session

    def account(self, session: LogSession) -> None:
        """Count what *session* holds by now. When all hold too much, the one that holds most is forgotten."""
        held = session.held_bytes
        self._held_bytes += held - session.counted_bytes
        session.counted_bytes = held
        while self._held_bytes > MAX_HELD_BYTES:
            self._forget(max(self._by_sender.values(), key=lambda each: each.counted_bytes).sender)

    def _forget(self, sender: bytes) -> None:
        self._held_bytes -= self._by_sender.pop(sender).counted_bytes

    def active(self, now: float) -> int:
        """How many processes were heard of in the last seconds."""
        return sum(not s.has_ended and now - s.heard_at < ACTIVE_S for s in self._by_sender.values())
