"""Takes the dead letters out of the brokers when a run is over, and tells the history whose they are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pika

from servicebus._plain import is_plain_key, plain_key
from servicebus.errors import EnvelopeError
from servicebus.testing import Broker
from servicebus.wire import headers
from servicebus.wire.address import dead_queue
from servicebus.wire.envelope import Envelope, Kind
from servicebus.wire.events import event_queue
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import read_dead_letter_stamp
from servicebus.wire.xmlcodec import decode_envelope
from tests.chaos.history import History

__all__ = ["take_dead_letters"]


def take_dead_letters(broker: Broker, node: str, keyring: Keyring, history: History) -> Counter[str]:
    """All dead letters of *node* on *broker*, by reason. Those that a stranger wrote are counted and no more.

    *keyring*: signs as the node does, and knows all keys that callers ever had.
    """
    reasons: Counter[str] = Counter()
    for properties, body in _taken(broker, dead_queue(node)):
        found = properties.headers or {}
        reason = str(found.get(headers.REASON, "?"))
        service = str(found.get(headers.SUBSCRIPTION, ""))
        queue = event_queue(node, service) if service else ""
        stamp = read_dead_letter_stamp(keyring, body, reason, found.get(headers.DEAD_LETTER), queue)
        if is_plain_key(service) and stamp is not None:
            reasons[reason] += 1
            told = f"{reason}: {found.get(headers.DETAIL, '')}"
            stage = f"{node}.{service.removeprefix(plain_key(''))}"
            history.dead(json.loads(body)["op"], properties.message_id, told, stamp.attempts or None, stage)
            continue
        envelope = _genuine(body, keyring)
        if envelope is None or stamp is None:
            reasons["forged" if envelope is None else "not signed by a worker"] += 1
            continue
        if _is_misdirected(envelope, node, service, reason):  # a copy; the original went its own way
            reasons["misdirected"] += 1
            continue
        reasons[reason] += 1
        if reason == "unreadable":  # a copy too: no Sender writes unreadable properties
            continue
        detail = f"{reason}: {found.get(headers.DETAIL, '')}"
        subscriber = f"{node}.{service}" if service else ""
        history.dead(json.loads(envelope.params)["op"], envelope.id, detail, stamp.attempts or None, subscriber)
    return reasons


def _is_misdirected(envelope: Envelope, node: str, service: str, reason: str) -> bool:
    if envelope.kind is Kind.EVENT:
        return not service or reason in ("not-subscribed", "wrong-queue")
    return envelope.node != node or envelope.kind is not Kind.MESSAGE


def _taken(broker: Broker, queue: str) -> Iterator[tuple[Any, bytes]]:
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        channel = connection.channel()
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                return
            yield properties, body


def _genuine(body: bytes, keyring: Keyring) -> Envelope | None:
    try:
        envelope = decode_envelope(body, len(body))
        keyring.verify_envelope(envelope)
    except EnvelopeError:
        return None
    return envelope
