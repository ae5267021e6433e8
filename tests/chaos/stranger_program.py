"""Somebody who may use the brokers and has not the secret: publishes forged requests, and replays what others sent.

``python -m tests.chaos.stranger_program ORDERS``, where ORDERS is a file of JSON: ``urls`` (of the brokers), ``nodes``,
``wiretap`` (path of the socket on which it hears what senders sent), ``per_s``, ``state``, ``seed``. It stops when its
standard input ends.

Nothing that it sends may be executed: a forged request carries ``forged`` in its params, and a service that sees it
tells the history; a replay carries the number of an operation that has its one execution already, or is going to.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import pika
import pika.exceptions

from servicebus.wire.address import Address, messages_queue, rpc_queue
from servicebus.wire.envelope import DIRECT_REPLY_TO, Envelope, Kind, make_id
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import encode_envelope, encode_json

_KEPT = 500
_PIKA_FAILURES = (pika.exceptions.AMQPError, OSError)


class Stranger:
    def __init__(self, orders: dict[str, Any]):
        self._orders = orders
        self._rng = random.Random(f"stranger {orders['seed']}")
        self._heard: deque[tuple[str, str, str, bytes]] = deque(maxlen=_KEPT)
        self._tap = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._tap.bind(orders["wiretap"])
        self._tap.setblocking(False)
        self._keyring = Keyring(["a secret that is not the secret"])
        self._channels: dict[str, Any] = {}
        self._not_before: dict[str, float] = {}
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        pause_s = 1.0 / self._orders["per_s"]
        tricks = [self._sign_with_another_key, self._change_what_was_sent, self._replay, self._replay, self._garbage]
        while True:
            ready, _, _ = select.select([sys.stdin, self._tap], [], [], pause_s)
            if sys.stdin in ready and not os.read(sys.stdin.fileno(), 100):
                break
            self._listen()
            self._rng.choice(tricks)()
            time.sleep(pause_s)
        for channel in self._channels.values():
            with contextlib.suppress(*_PIKA_FAILURES):
                channel.connection.close()
        Path(self._orders["state"]).write_text(json.dumps(dict(self.counts)))

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                head, _, body = self._tap.recv(1_000_000).partition(b"\n")
                kind, node, id = head.decode().split()
                self._heard.append((kind, node, id, body))

    # -- tricks --------------------------------------------------------------------------------------------------------

    def _sign_with_another_key(self) -> None:
        kind = self._rng.choice([Kind.CALL, Kind.MESSAGE])
        service = "work.echo" if kind is Kind.CALL else "jobs.record"
        address = Address.parse(f"{self._rng.choice(self._orders['nodes'])}.{service}")
        envelope = Envelope(
            id=make_id(os.urandom(8).hex(), 1), node=address.node, category=address.category, service=address.name,
            kind=kind, sent_ms=int(time.time() * 1000), ttl_ms=30_000,
            reply=DIRECT_REPLY_TO if kind is Kind.CALL else "", params=encode_json({"forged": "another key"}),
        )  # fmt: skip
        body = encode_envelope(envelope, self._keyring.sign_envelope(envelope))
        self._publish("forged key", kind.value, address.node, envelope.id, body)

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

    # -- publishing ----------------------------------------------------------------------------------------------------

    def _publish(self, trick: str, kind: str, node: str, id: str, body: bytes) -> None:
        url = self._rng.choice(self._orders["urls"])
        queue = rpc_queue(node) if kind == "call" else messages_queue(node)
        properties = pika.BasicProperties(correlation_id=id, message_id=id, delivery_mode=1 if kind == "call" else 2)
        try:
            channel = self._channel(url)
            if channel is None:
                return
            channel.basic_publish("", queue, body, properties)
        except _PIKA_FAILURES:
            self._channels.pop(url, None)
            self._not_before[url] = time.monotonic() + 2.0
        else:
            self.counts[trick] += 1

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
