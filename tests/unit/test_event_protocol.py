"""What a worker makes of events in the queues of its subscriptions, and of what strangers put there."""

from __future__ import annotations

import time
from typing import Any

import pytest

from servicebus.configuration import Configuration
from servicebus.protocol.events import EventProtocol
from servicebus.protocol.interface import Incoming, RequestRefused
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport.interface import Delivery
from servicebus.wire import headers
from servicebus.wire.envelope import EVENT, Kind
from servicebus.wire.events import EventQueue, event_queue, run_id
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import WaitStamp, make_requeue_ticket, write_wait
from servicebus.wire.xmlcodec import write_event

KEYRING = Keyring(["secret"])
CONFIG = Configuration({"hosts": ["mq"], "node_name": "NODE", "secret_token": "secret"})
BILLING = EventQueue("billing.invoice", event_queue("NODE", "billing.invoice"), ("orders.*",))
ID = "0123456789abcdef-7"


class Nowhere:
    def ack(self, tag: int) -> None: ...


def body(name: str = "orders.created", *, kind: Kind = EVENT, keyring: Keyring = KEYRING, age_s: float = 0) -> bytes:
    names = ("", "", name) if kind is EVENT else ("NODE", "billing", "invoice")
    fields = (ID, *names, kind, int((time.time() - age_s) * 1000), 0, "", b"[1]")
    return write_event(*fields, keyring.sign_event(*fields))


def read(text: bytes, marks: dict[str, Any] | None = None, *, is_shared: bool = False) -> Incoming:
    delivery = Delivery(Nowhere(), 1, text, headers=marks)  # type: ignore[arg-type]
    return EventProtocol(CONFIG, KEYRING, BILLING, is_shared=is_shared).decode_request(delivery)


def refused(*what: Any, **how: Any) -> str:
    with pytest.raises(RequestRefused) as caught:
        read(*what, **how)
    return caught.value.error.reason


def waits(text: bytes, queue: str = BILLING.name) -> dict[str, Any]:
    stamp = WaitStamp(int(time.time() * 1000), 1, 1)
    return {headers.SUBSCRIPTION: BILLING.service, headers.WAIT: write_wait(KEYRING, text, None, stamp, queue)}


def test_an_event_is_a_message_to_its_subscriber() -> None:
    incoming = read(body())
    assert (incoming.kind, incoming.category, incoming.service) == (Kind.MESSAGE, "billing", "invoice")
    assert (incoming.key, incoming.event) == ("event billing.invoice", "orders.created")
    assert (incoming.given_id, incoming.id) == (ID, run_id(ID, BILLING.name))


def test_what_it_has_not_subscribed_to_is_refused() -> None:
    assert refused(body("orders.eu.created")) == "not-subscribed"


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE, Kind.CONTROL])
def test_what_is_no_event_is_refused(kind: Kind) -> None:
    assert refused(body(kind=kind)) == "wrong-queue"


def test_what_is_signed_with_another_secret_is_refused() -> None:
    assert refused(body(keyring=Keyring(["other"]))) == "signature"


def test_what_is_too_old_is_refused_and_remembered() -> None:
    with pytest.raises(RequestRefused) as caught:
        read(body(age_s=CONFIG.token_max_age + CONFIG.clock_skew + 1))
    assert caught.value.error.reason == "stale"
    assert caught.value.incoming is not None and caught.value.incoming.id == run_id(ID, BILLING.name)


@pytest.mark.parametrize("text", [b"", b"<event>", b"x" * 100])
def test_what_is_no_envelope_is_refused(text: bytes) -> None:
    assert refused(text) == "malformed"


def test_an_event_in_a_queue_of_requests_is_refused() -> None:
    with pytest.raises(RequestRefused, match="wrong-queue"):
        ProtocolV2(CONFIG, KEYRING).decode_request(Delivery(Nowhere(), 1, body()))  # type: ignore[arg-type]


def test_what_waits_for_another_try_says_whose_it_is() -> None:
    text = body()
    incoming = read(text, waits(text), is_shared=True)
    assert incoming.stamps.wait.attempts == 1 and incoming.due_ms


def test_a_copy_among_those_that_wait_is_refused() -> None:
    assert refused(body(), {headers.SUBSCRIPTION: BILLING.service}, is_shared=True) == "wrong-queue"


@pytest.mark.parametrize("queue", ["", "OTHER.events.billing.invoice", "NODE.events.mail.invoice"])
def test_the_stamp_of_another_subscription_means_nothing(queue: str) -> None:
    text = body()
    assert refused(text, waits(text, queue), is_shared=True) == "wrong-queue"
    assert read(text, waits(text, queue)).stamps.wait == WaitStamp()


@pytest.mark.parametrize(
    ("queue", "is_believed"), [(BILLING.name, True), ("NODE.events.mail.invoice", False), ("", False)]
)
def test_a_ticket_is_of_one_subscription(queue: str, is_believed: bool) -> None:
    text = body()
    ticket = make_requeue_ticket(KEYRING, ID, text, "", int(time.time() * 1000), queue)
    incoming = read(text, {headers.REQUEUED: ticket})
    assert (incoming.id != run_id(ID, BILLING.name)) is is_believed
