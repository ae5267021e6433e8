"""One process's socket to the log server: says hello, packs records, sends what the channel has due, hears answers.

Nothing here waits: ``pump`` does what can be done now and comes back. Who calls it, and when, is
    servicebus.transport.logpump's.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence

from servicebus.errors import ConfigurationError, EnvelopeError
from servicebus.policy.logchannel import LogChannel, Packet
from servicebus.transport.logbacklog import Backlog
from servicebus.wire.logrecord import (
    HEAD_BYTES,
    NO_SESSION,
    Datagram,
    DatagramKind,
    Signer,
    decode_datagram,
    decode_object,
    encode_batch,
    encode_datagram,
    encode_object,
    in_pieces,
)

__all__ = ["LogLink", "resolve"]

LOOPBACK_DATAGRAM_BYTES = 7_500
"""benchmarks/logs.py --datagram: 15 + 6 us of CPU (caller + server) for a record at 1,400 bytes, 11 + 4 at 7,500 and at
60,000. Larger ones make the turns of callers longer; from 7,700 bytes on Linux charges 16 KiB of buffer for one."""
NETWORK_DATAGRAM_BYTES = 1_400
"""Below every usual MTU: a fragmented datagram is lost with its first fragment."""
FIRST_HELLO_S = 0.05
LONGEST_HELLO_S = 1.0
SILENT_S = 3.0
"""A server that has owed an acknowledgement for so long is greeted again: it may have forgotten this process."""
REFUSALS_TO_GIVE_UP = 3

Address = tuple[socket.AddressFamily, "tuple[object, ...]"]


def resolve(host: str, port: int) -> Address:
    """The family and address of the log server. Raises ConfigurationError where the name means nothing."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"the log server's host {host!r} cannot be resolved: {error}", key="logging.host"
        ) from error
    return found[0], found[4]


def _is_loopback(sockaddr: Sequence[object]) -> bool:
    host = str(sockaddr[0])
    return host.startswith("127.") or host == "::1"


class LogLink:
    """Not safe for threads: its owner locks around every call.

    Args:
        address: as ``resolve`` returns it.
        describe: returns pid and name of this process, for the server's lines about it.
    """

    def __init__(
        self,
        address: Address,
        backlog: Backlog,
        signer: Signer | None,
        describe: Callable[[], tuple[int, str]],
        datagram_bytes: int | None = None,
    ):
        family, sockaddr = address
        self.backlog = backlog
        self.channel = LogChannel()
        self.answers_refused = 0
        """Answers not signed by the server's key: the secrets differ, or another program answers on the port."""
        self.refusals = 0
        """How often in a row the host has refused the port: no process listens there."""
        self._signer = signer
        self._describe = describe
        self._incarnation = os.urandom(8).hex().encode()
        limit = LOOPBACK_DATAGRAM_BYTES if _is_loopback(sockaddr) else NETWORK_DATAGRAM_BYTES
        self._body_bytes = (datagram_bytes or limit) - HEAD_BYTES
        self._nonce = 0
        self._hello_at = 0.0
        self._hello_wait_s = FIRST_HELLO_S
        self._said_bye = False
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            self.socket.connect(sockaddr)
        except OSError:
            # No route at this moment, for example: sends will fail and be tried again, as for a server that is down.
            pass

    def __repr__(self) -> str:
        return f"<LogLink {self._incarnation.decode()} {self.channel!r}>"

    def close(self) -> None:
        self.socket.close()

    @property
    def is_drained(self) -> bool:
        """Whether the server has everything."""
        return self.channel.is_empty and not self.backlog.has_news

    @property
    def has_given_up(self) -> bool:
        """Whether it is no use to wait at the end of the process: no process listens on the port."""
        return self.refusals >= REFUSALS_TO_GIVE_UP

    @property
    def can_pack(self) -> bool:
        """Whether a record that is logged now could leave at once."""
        return self.channel.has_room

    def hurry(self, now: float) -> None:
        """The process is about to end: greet a server that was away now, and not when its turn comes."""
        self.refusals = 0
        if not self.channel.open:
            self._hello_wait_s = FIRST_HELLO_S
            self._hello_at = now

    def pump(self, now: float, max_batches: int = 1_000_000) -> None:
        """Do what can be done at *now* (monotonic seconds) without waiting. Never raises OSError.

        Packing a batch takes some hundred microseconds; *max_batches* bounds that for callers in a hurry.
        """
        self._hear(now)
        if self.channel.open and self.channel.silent_s(now) >= SILENT_S:
            self._down(now)
        if not self.channel.open:
            if now >= self._hello_at and not self.is_drained:
                self._say_hello(now)
                self._hear(now)  # on loopback, a refused port is known as soon as send returns
            if not self.channel.open:
                return
        self._send_due(now)
        while max_batches > 0 and self.channel.has_room and self.backlog.has_news:
            max_batches -= 1
            self._pack(DatagramKind.RECORDS)
            self._send_due(now)

    def say_bye(self) -> None:
        """Let the last packet say that no record will follow. Only once, and only to a server that is there."""
        if self.channel.open and not self._said_bye:
            self._said_bye = True
            self._pack(DatagramKind.BYE)

    def next_due(self) -> float | None:
        """When ``pump`` has something to do though nothing arrives and nothing is logged; None for never."""
        if self.channel.open:
            return self.channel.next_due()
        return None if self.is_drained else self._hello_at

    def _pack(self, kind: DatagramKind) -> None:
        first, records = (
            self.backlog.take(self._body_bytes) if kind is DatagramKind.RECORDS else (self.backlog.next_number, [])
        )
        body = encode_batch(first, records)
        # The estimate of the size may be short, for text that JSON escapes: then the batch travels in pieces.
        bodies = in_pieces(body, self._body_bytes) if kind is DatagramKind.RECORDS else [(kind, body)]
        self.channel.add(((kind.value, piece) for kind, piece in bodies), first + len(records) - 1)

    def _send_due(self, now: float) -> None:
        self._send_packets(self.channel.due(now), now)

    def _send_packets(self, packets: Sequence[Packet], now: float) -> None:
        for packet in packets:
            session = self.channel.session or NO_SESSION
            if not self._send(DatagramKind(packet.kind), session, packet.number, packet.attempt, packet.body, now):
                return  # what was not sent is sent again as if it were lost

    def _send(self, kind: DatagramKind, session: bytes, number: int, attempt: int, body: bytes, now: float) -> bool:
        raw = encode_datagram(Datagram(kind, self._incarnation, session, number, attempt, body), self._signer)
        for _ in range(2):
            try:
                self.socket.send(raw)
            except ConnectionRefusedError:
                # The kernel reports the fate of an earlier datagram here, and has not sent this one.
                self._down(now)
                self.refusals += 1
            except OSError:
                return False  # no buffer, no route: the repeat is the channel's or the hello's
            else:
                return True
        return False

    def _say_hello(self, now: float) -> None:
        self._nonce = int.from_bytes(os.urandom(6), "big")
        pid, name = self._describe()
        body = encode_object({"pid": pid, "name": name, "record": self.channel.records_acknowledged + 1})
        self._hello_at = now + self._hello_wait_s
        self._hello_wait_s = min(self._hello_wait_s * 2, LONGEST_HELLO_S)
        self._send(DatagramKind.HELLO, NO_SESSION, self._nonce, 0, body, now)

    def _hear(self, now: float) -> None:
        while True:
            try:
                raw = self.socket.recv(65536)
            except ConnectionRefusedError:
                self._down(now)
                self.refusals += 1
                continue
            except OSError:
                return
            try:
                self._take_answer(decode_datagram(raw, self._signer), now)
            except EnvelopeError:
                self.answers_refused += 1

    def _take_answer(self, answer: Datagram, now: float) -> None:
        if answer.sender != self._incarnation:
            return
        if answer.kind is DatagramKind.WELCOME and answer.number == self._nonce and not self.channel.open:
            body = decode_object(answer.body)
            self.refusals = 0
            self._hello_wait_s = FIRST_HELLO_S
            self.channel.opened(answer.session, _whole(body, "next"), _whole(body, "window"), now)
        elif answer.session != self.channel.session:
            return
        elif answer.kind is DatagramKind.ACK:
            body = decode_object(answer.body)
            missing = body.get("missing")
            holes = missing if isinstance(missing, list) else []
            self._send_packets(self.channel.acknowledged(answer.number, holes, _whole(body, "window"), now), now)
        elif answer.kind is DatagramKind.UNKNOWN and self.channel.open:
            self.channel.suspend()
            self._hello_at = now

    def _down(self, now: float) -> None:
        if self.channel.open:
            self.channel.suspend()
            self._hello_wait_s = FIRST_HELLO_S
            self._hello_at = now + FIRST_HELLO_S

    def abandon(self) -> None:
        """Close in a forked child, where the socket is the parent's."""
        with contextlib.suppress(OSError):
            self.socket.close()


def _whole(body: dict[str, object], key: str) -> int:
    value = body.get(key)
    if type(value) is not int or value < 0:
        raise EnvelopeError("malformed", f"{key} is missing")
    return value
