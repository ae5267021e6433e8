"""From datagrams to lines and answers: who sent what, in order, once; what is missing. Pure, time is an argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from logging_service.lines import LineFormat
from logging_service.sessions import LogSession, LogSessions
from servicebus.errors import EnvelopeError
from servicebus.wire.logrecord import (
    Batch,
    Datagram,
    DatagramKind,
    Signer,
    decode_datagram,
    decode_object,
    encode_datagram,
    encode_object,
)
from servicebus.wire.printable import counted, printable

__all__ = ["Intake", "Refusals", "listed"]

LARGEST_WINDOW = 256 * 1024
SMALLEST_WINDOW = 16 * 1024
CLIENTS_AT_LEAST = 8
"""Windows are small enough for so many processes from the first one on: a burst of new ones must find room."""
STATS_AGE_MS = 60_000
NAME_LENGTH = 200

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 600.0

_PACKETS = frozenset({DatagramKind.RECORDS, DatagramKind.PIECE, DatagramKind.LAST, DatagramKind.BYE})


class Intake:
    """Everything the server knows of its clients.

    Args:
        server_id: 16 hexadecimal digits that no server had before.
        buffer_bytes: the socket's receive buffer, shared out to the clients as their windows.
    """

    def __init__(self, server_id: bytes, line_format: LineFormat, signer: Signer | None, buffer_bytes: int):
        self.sessions = LogSessions(server_id)
        self.refusals = Refusals()
        self.lost = 0
        self.repeated = 0
        """Packets that came again, for want of an acknowledgement."""
        self._format = line_format
        self._signer = signer
        self._buffer_bytes = buffer_bytes
        self._window = 0
        self._lines: list[bytes] = []
        self._heard: dict[tuple[bytes, Any], LogSession] = {}
        self._losses: dict[bytes, tuple[LogSession, int]] = {}
        self.share_window(0.0)

    def take(self, raw: bytes, address: Any, now: float, unix_ms: float) -> Datagram | None:
        """Take one datagram; returns the answer to send at once, if any. ``acknowledgements`` has the others.

        Args:
            address: only passed on, and named in lines about refusals as far as it is a host and a port.
            now: monotonic seconds.
        """
        try:
            datagram = decode_datagram(raw, self._signer)
            if datagram.kind in _PACKETS:
                return self._take_packet(datagram, address, now)
            if datagram.kind is DatagramKind.HELLO:
                return self._greet(datagram, now)
            if datagram.kind is DatagramKind.STATS:
                return self._check_request(datagram, unix_ms)
            raise EnvelopeError("malformed", "an answer was sent to the server")
        except EnvelopeError as error:
            self._refuse(error, address)
            return None

    def encode(self, answer: Datagram) -> bytes:
        """The bytes of an answer."""
        return encode_datagram(answer, self._signer)

    def take_lines(self) -> list[bytes]:
        """The records that are whole since the last call, each the bytes of its lines."""
        lines, self._lines = self._lines, []
        return lines

    def acknowledgements(self) -> list[tuple[Datagram, Any]]:
        """One for each process and address that was heard since the last call. Only to be sent when its lines are in
        the file. Each address, because a datagram that is played back from elsewhere must not divert the answer."""
        answers = []
        for (_, address), session in self._heard.items():
            body = encode_object({"missing": session.missing(), "window": self._window})
            answers.append(
                (Datagram(DatagramKind.ACK, session.sender, session.id, session.next_packet, 0, body), address)
            )
        self._heard.clear()
        return answers

    def forget_heard(self) -> None:
        """Acknowledge nothing: the lines could not be written."""
        self._heard.clear()

    def take_losses(self) -> list[str]:
        """A sentence for each process of which records turned out to be lost since the last call."""
        found = [
            f"{count} log records of process {session.pid} ({session.name}) were lost"
            for session, count in self._losses.values()
        ]
        self._losses.clear()
        return found

    def share_window(self, now: float) -> None:
        """Give each process its part of half the socket's buffer; the other half is for what the kernel adds."""
        share = self._buffer_bytes // 2 // max(self.sessions.active(now), CLIENTS_AT_LEAST)
        self._window = max(SMALLEST_WINDOW, min(LARGEST_WINDOW, share))

    def counts(self) -> dict[str, Any]:
        """The numbers so far; ``refusals`` by reason."""
        refused: Counter[str] = self.refusals.counts
        return {
            "lost": self.lost,
            "repeated": self.repeated,
            "refused": refused.total(),
            "refusals": dict(refused),
            "processes": self.sessions.count,
        }

    def _take_packet(self, packet: Datagram, address: Any, now: float) -> Datagram | None:
        session = self.sessions.find(packet, now)
        if session is None:
            self._refuse(EnvelopeError("unknown-session"), address)
            return Datagram(DatagramKind.UNKNOWN, packet.sender, packet.session)
        if not session.has(packet.number):
            self._take_new(session, packet, address)
        elif packet.attempt == 0:
            # A client marks what it sends again, so this one was played back (or doubled by a network).
            raise EnvelopeError("replayed")
        else:
            self.repeated += 1
        self._heard[session.sender, address] = session
        return None

    def _take_new(self, session: LogSession, packet: Datagram, address: Any) -> None:
        batches = session.receive(packet)
        while True:
            try:
                for batch in batches:
                    self._take_batch(session, batch)
                break
            except EnvelopeError as error:
                self._refuse(error, address)
                batches = session.receive_more()
        self.sessions.account(session)

    def _take_batch(self, session: LogSession, batch: Batch) -> None:
        lost = session.lost_before(batch)
        if lost:
            self.lost += lost
            before = self._losses.get(session.sender, (session, 0))[1]
            self._losses[session.sender] = (session, before + lost)
        line, pid, name = self._format.line, session.pid, session.name
        self._lines.extend([line(record, pid, name) for record in batch.records])

    def _greet(self, hello: Datagram, now: float) -> Datagram:
        body = decode_object(hello.body)
        pid, name, record = body.get("pid"), body.get("name"), body.get("record")
        if type(pid) is not int or type(name) is not str or type(record) is not int or not 1 <= record < 10**18:
            raise EnvelopeError("malformed", "the hello does not say who it is from")
        if not 0 <= pid < 2**32:
            raise EnvelopeError("malformed", "no process has such a number")
        session = self.sessions.greet(hello.sender, pid, printable(name[:NAME_LENGTH]), record, now)
        self.share_window(now)
        answer = encode_object({"next": session.next_packet, "window": self._window})
        return Datagram(DatagramKind.WELCOME, hello.sender, session.id, hello.number, 0, answer)

    def _check_request(self, request: Datagram, unix_ms: float) -> Datagram:
        if abs(unix_ms - request.number) > STATS_AGE_MS:
            raise EnvelopeError("stale", "a request for statistics is good for a minute")
        return Datagram(DatagramKind.COUNTS, request.sender, request.session, request.number)

    def _refuse(self, error: EnvelopeError, address: Any) -> None:
        self.refusals.count(error.reason, ":".join(map(str, address[:2])))


class Refusals:
    """Counts by reason. Its lines are rare, ever rarer while refusals go on, so that garbage cannot fill the disk."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._said: Counter[str] = Counter()
        self._say_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._last_from = ""
        self._said_pickled = False

    def count(self, reason: str, address: str) -> None:
        """One datagram from *address* (for a line: of the last one only) was refused."""
        self.counts[reason] += 1
        self._last_from = address

    def due_lines(self, now: float) -> list[str]:
        """What to write now, mostly nothing."""
        if now < self._say_at:
            return []
        news = self.counts - self._said
        if not news:
            self._pause_s = FIRST_PAUSE_S
            return []
        self._said = Counter(self.counts)
        self._say_at = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        lines = [f"refused {counted(news.total(), 'datagram')} ({listed(news)}), the last from {self._last_from}"]
        if news["pickled"] and not self._said_pickled:
            self._said_pickled = True
            lines.append(
                "pickled records of py-servicebus 2.x are refused by policy, because to unpickle is to run the sender's"
                " code; let that program call servicebus.logging_service.LoggingService.init_logging"
            )
        return lines


def listed(counts: Mapping[str, int]) -> str:
    """``signature=3, pickled=1``"""
    return ", ".join(f"{reason}={count}" for reason, count in sorted(counts.items()))
