"""Somebody who may use the brokers and has not the secret: forges, replays, misdirects, writes what cannot be read.

``python -m tests.chaos.stranger_program ORDERS``, where ORDERS is a file of JSON: ``urls`` (of the brokers), ``nodes``,
``wiretap`` (path of the socket on which it hears what senders and agents sent), ``per_s``, ``state``, ``seed``. It
stops when its standard input ends.

Nothing that it sends may be executed: a forged request carries ``forged`` in its params, and a service that sees it
tells the history; a replay carries the number of an operation that has its one execution already, or is going to. Nor
may a reply of its making, or one that others got, end a call.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from servicebus.wire import headers
from servicebus.wire.address import Address, control_queue, dead_queue, messages_queue, rpc_queue
from servicebus.wire.envelope import DIRECT_REPLY_TO, Kind, make_id
from servicebus.wire.events import EventName
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import encode_json, write_event
from tests.chaos.subscribers import PATTERNS, event_queues

_KEPT = 500
_TOO_LONG = 9_000_000
_PIKA_FAILURES = (pika.exceptions.AMQPError, AMQPConnectorException, OSError)


class _Raw(pika.BasicProperties):  # type: ignore[misc]  # pika has no types
    """Properties whose bytes are written by hand."""

    def __init__(self, flags: int, raw: bytes):
        super().__init__()
        self._raw = flags.to_bytes(2, "big") + raw

    def encode(self) -> list[bytes]:
        return [self._raw]


def _table(fields: bytes) -> _Raw:
    return _Raw(0x2000, struct.pack(">I", len(fields)) + fields)


UNREADABLE = [
    _table(b"\x07sent-atT" + struct.pack(">Q", 1795900000000)),  # milliseconds
    _table(b"\x01\xffV"),
    _Raw(0x0400, b"\x02\xff\xfe"),
]


class Stranger:
    def __init__(self, orders: dict[str, Any]):
        self._orders = orders
        self._rng = random.Random(f"stranger {orders['seed']}")
        self._heard: deque[tuple[str, str, str, bytes]] = deque(maxlen=_KEPT)
        self._asked: deque[tuple[str, str, str, bytes]] = deque(maxlen=_KEPT)
        """Calls as a worker got them: its node, the correlation id, the caller's address, the body."""
        self._answered: deque[bytes] = deque(maxlen=_KEPT)
        self._tap = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._tap.bind(orders["wiretap"])
        self._tap.setblocking(False)
        self._keyring = Keyring(["a secret that is not the secret"])
        self._channels: dict[str, Any] = {}
        self._not_before: dict[str, float] = {}
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        pause_s = 1.0 / self._orders["per_s"]
        tricks = list(self._tricks())
        while True:
            ready, _, _ = select.select([sys.stdin, self._tap], [], [], pause_s)
            if sys.stdin in ready and not os.read(sys.stdin.fileno(), 100):
                break
            self._listen()
            self._rng.choices(*zip(*tricks, strict=True))[0]()
            time.sleep(pause_s)
        for channel in self._channels.values():
            with contextlib.suppress(*_PIKA_FAILURES):
                channel.connection.close()
        Path(self._orders["state"]).write_text(json.dumps(dict(self.counts)))

    def _tricks(self) -> Iterator[tuple[Callable[[], None], float]]:
        """Each with how often it is done."""
        yield self._sign_with_another_key, 1.0
        yield self._change_what_was_sent, 1.0
        yield self._replay, 2.0
        yield self._garbage, 0.5
        yield self._unreadable, 0.5
        yield self._too_long, 0.02
        yield self._headers, 1.0
        yield self._misdirect, 2.0
        yield self._answer, 2.0
        yield self._dead_letter, 2.0

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                head, _, body = self._tap.recv(1_000_000).partition(b"\n")
                kind, node, id, *reply_to = head.decode().split()
                if kind == "asked":
                    self._asked.append((node, id, reply_to[0], body))
                elif kind == "answered":
                    self._answered.append(body)
                else:
                    self._heard.append((kind, node, id, body))

    # -- tricks --------------------------------------------------------------------------------------------------------

    def _sign_with_another_key(self) -> None:
        kind = self._rng.choice([Kind.CALL, Kind.MESSAGE, Kind.EVENT])
        service = "work.echo" if kind is Kind.CALL else "jobs.record"
        node = self._rng.choice(self._orders["nodes"])
        address = EventName.parse("chaos.plain") if kind is Kind.EVENT else Address.parse(f"{node}.{service}")
        id, sent_ms, reply = make_id(os.urandom(8).hex(), 1), int(time.time() * 1000), DIRECT_REPLY_TO
        fields = (
            id, "" if kind is Kind.EVENT else node, address.category, address.name, kind, sent_ms, 30_000,
            reply if kind is Kind.CALL else "", encode_json({"forged": "another key"}),
        )  # fmt: skip
        self._publish("forged key", kind.value, node, id, write_event(*fields, self._keyring.sign_event(*fields)))

    def _change_what_was_sent(self) -> None:
        if self._heard:
            kind, node, id, body = self._rng.choice(self._heard)
            self._publish("changed", kind, node, id, body.replace(b'{"op"', b'{"forged":"changed","op"'))

    def _replay(self) -> None:
        if self._heard:
            kind, node, id, body = self._rng.choice(self._heard)
            self._publish("replayed", kind, node, id, body)

    def _garbage(self) -> None:
        node = self._rng.choice(self._orders["nodes"])
        self._publish("garbage", self._rng.choice(["call", "message"]), node, "garbage", os.urandom(200))

    def _unreadable(self) -> None:
        """Properties that no decent client can write."""
        node = self._rng.choice(self._orders["nodes"])
        queue = self._rng.choice([rpc_queue, control_queue, messages_queue])(node)
        body = self._rng.choice(self._heard)[3] if self._heard else b"x"
        self._put("unreadable", queue, body, self._rng.choice(UNREADABLE))

    def _too_long(self) -> None:
        self._publish("too long", "message", self._rng.choice(self._orders["nodes"]), "x", b"x" * _TOO_LONG)

    def _headers(self) -> None:
        """A true message once more, with headers that say it is another one, or an old one."""
        kind, node, id, body = self._rng.choice(self._heard or [("message", self._orders["nodes"][0], "x", b"x")])
        queue = self._queue(kind, node)
        self._put("forged headers", queue, body, pika.BasicProperties(message_id=id, headers=self._made_up(id)))

    def _misdirect(self) -> None:
        """A call that is under way, into the queue of others: what they tell its caller is not true of it."""
        if self._asked:
            node, id, reply_to, body = self._asked[-1]
            other = self._rng.choice(self._orders["nodes"])
            queue = self._rng.choice([control_queue(node), rpc_queue(other), messages_queue(other)])
            properties = pika.BasicProperties(correlation_id=id, reply_to=reply_to)
            self._put("misdirected", queue, body, properties, everywhere=True)

    def _answer(self) -> None:
        """To a caller, what another was told."""
        if self._asked and self._answered:
            _, id, reply_to, _ = self._asked[-1]
            body = self._rng.choice(self._answered)
            self._put("replayed reply", reply_to, body, pika.BasicProperties(correlation_id=id), everywhere=True)

    def _dead_letter(self) -> None:
        """A copy of what was executed, or will be, among the dead letters."""
        messages = [each for each in self._heard if each[0] in ("message", "event")]
        if messages:
            kind, node, id, body = self._rng.choice(messages)
            if kind == "event":
                node = self._rng.choice(self._orders["nodes"])
            properties = pika.BasicProperties(message_id=id, headers=self._made_up(id), delivery_mode=2)
            self._put("buried", dead_queue(node), body, properties)

    def _made_up(self, id: str) -> dict[str, Any]:
        now = int(time.time())
        made_up = {
            headers.DEAD_LETTER: f"{now} {now} 6 {now + 86400}  {'0' * 73}",
            headers.REASON: self._rng.choice(["Failure", "stale", "", 7]),
            headers.WAIT: f"{now * 1000 + 500} 0 0 {'0' * 73}",
            headers.SUBSCRIPTION: self._rng.choice([*PATTERNS, "no.service", "", 1]),
            headers.REQUEUED: self._rng.choice(["", f"{id} {now * 1000} {'0' * 73}", 1]),
            "x-servicebus-attempts": self._rng.choice([0, 2**31, -1, "many"]),
            "x-death": self._rng.choice([[], "often", [{"count": 2**62}]]),
        }
        return dict(self._rng.sample(list(made_up.items()), 4))

    # -- publishing ----------------------------------------------------------------------------------------------------

    def _publish(self, trick: str, kind: str, node: str, id: str, body: bytes) -> None:
        queue = self._queue(kind, node)
        properties = pika.BasicProperties(correlation_id=id, message_id=id, delivery_mode=1 if kind == "call" else 2)
        self._put(trick, queue, body, properties)

    def _queue(self, kind: str, node: str) -> str:
        """Where a request belongs; an event into that of some subscription."""
        if kind == "event":
            return f"{self._rng.choice(self._orders['nodes'])}{self._rng.choice(event_queues())}"
        return rpc_queue(node) if kind == "call" else messages_queue(node)

    def _put(self, trick: str, queue: str, body: bytes, properties: Any, *, everywhere: bool = False) -> None:
        urls = self._orders["urls"]
        for url in urls if everywhere else [self._rng.choice(urls)]:
            self._put_at(url, trick, queue, body, properties)

    def _put_at(self, url: str, trick: str, queue: str, body: bytes, properties: Any) -> None:
        try:
            channel = self._channel(url)
            if channel is None:
                return
            channel.basic_publish("", queue, body, properties)
        except _PIKA_FAILURES:
            self._give_up(url)
            self._not_before[url] = time.monotonic() + 2.0
        else:
            self.counts[trick] += 1

    def _give_up(self, url: str) -> None:
        """What is half closed would stay at the broker."""
        channel = self._channels.pop(url, None)
        if channel is not None:
            with contextlib.suppress(*_PIKA_FAILURES):
                channel.connection.close()

    def _channel(self, url: str) -> Any:
        """A channel to that broker; None while it is down or silent, which is nothing to wait for."""
        if url not in self._channels:
            if time.monotonic() < self._not_before.get(url, 0.0):
                return None
            parameters = pika.URLParameters(url)
            parameters.heartbeat = 0
            parameters.socket_timeout = parameters.stack_timeout = 1.0
            parameters.blocked_connection_timeout = 1.0
            self._channels[url] = pika.BlockingConnection(parameters).channel()
        return self._channels[url]


def main(path: str) -> None:
    Stranger(json.loads(Path(path).read_text())).run()


if __name__ == "__main__":
    main(sys.argv[1])
