"""Requests of callers with keys of their own: at the node that reads them, and among its dead letters."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from envelopes import dead_letter_headers, envelope, signed
from wire_forms import encode_envelope, sign_envelope

import servicebus.testing
from servicebus.configuration import Configuration
from servicebus.errors import PermissionDenied
from servicebus.operations.dead_letter import RequeueCheck, RequeueStatus
from servicebus.protocol.callers import keyring_of
from servicebus.protocol.events import EventProtocol
from servicebus.protocol.interface import RequestRefused
from servicebus.protocol.v2 import ProtocolV2
from servicebus.services import Request, RpcService
from servicebus.testing import MemoryBus
from servicebus.transport.interface import Delivery
from servicebus.wire import headers
from servicebus.wire.envelope import DIRECT_REPLY_TO, EVENT, Envelope, Kind, callers_id
from servicebus.wire.events import EventQueue, run_id
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import read_requeue_ticket
from servicebus.wire.xmlcodec import decode_json, decode_reply

BUS, SHOP, AUDIT, GONE = "secret of the bus", "key of shop alone", "key of audit alone", "a key that was retired"
CALLERS = {"shop": {"key": [SHOP], "allow": "*", "publish": "#"}, "audit": {"key": AUDIT}}
ID = "0123456789abcdef-7"
NOBODY: Any = None


def configured(**values: Any) -> Configuration:
    given = {"hosts": ["mq"], "secret_token": BUS, "node_name": "NODE-01", "callers": CALLERS, **values}
    return Configuration(given)


def protocol(config: Configuration) -> ProtocolV2:
    return ProtocolV2(config, keyring_of(config))


def message(secret: str) -> bytes:
    return signed("NODE-01.audit.record", {"a": 1}, kind=Kind.MESSAGE, id=ID, secret=secret)


def delivered(body: bytes, **found: Any) -> Delivery:
    return Delivery(NOBODY, 1, body, headers=found, reply_to=f"{DIRECT_REPLY_TO}.g1h2")


def requeued(body: bytes, config: Configuration) -> Delivery:
    """As an operator sends it back."""
    found = dead_letter_headers(body, secret=BUS)
    check = RequeueCheck(config, "NODE-01")
    return delivered(body, **check.with_ticket(check.read(delivered(body, **found)), time.time()).headers)


@pytest.mark.parametrize(("secret", "caller"), [(BUS, ""), (SHOP, "shop"), (AUDIT, "audit")])
def test_a_request_has_its_caller_and_an_id_that_no_other_has(secret: str, caller: str) -> None:
    incoming = protocol(configured()).decode_request(delivered(message(secret)))
    assert (incoming.caller, incoming.given_id) == (caller, ID)
    assert incoming.id == (callers_id(ID, caller) if caller else ID)


def test_an_event_of_a_caller_has_an_id_for_each_subscription_and_caller() -> None:
    queue = EventQueue("log.note", "NODE-01.events.log.note", ("orders.*",))
    ids = set()
    for secret, caller in ((BUS, ""), (SHOP, "shop"), (AUDIT, "audit")):
        event = Envelope(ID, "", "", "orders.made", EVENT, int(4e12), 1000, "", b"1")
        body = encode_envelope(event, sign_envelope(Keyring([secret]), event))
        reader = EventProtocol(configured(clock_skew=30_000_000), keyring_of(configured()), queue)
        incoming = _read_late(reader, delivered(body))
        assert (incoming.caller, incoming.given_id, incoming.event) == (caller, ID, "orders.made")
        ids.add(incoming.id)
    assert len(ids) == 3 and run_id(ID, queue.name) in ids


def _read_late(reader: EventProtocol, delivery: Delivery) -> Any:
    try:
        return reader.decode_request(delivery)
    except RequestRefused as refused:  # its date is far off, which is no matter here
        return refused.incoming


def test_a_requeued_message_is_that_of_its_caller() -> None:
    config = configured()
    incoming = protocol(config).decode_request(requeued(message(SHOP), config))
    assert incoming.caller == "shop" and incoming.id not in (ID, callers_id(ID, "shop"))


def test_a_requeue_ticket_gives_no_rights_to_a_caller_whose_key_is_retired() -> None:
    """It vouches for the bytes alone. The message goes back to the dead letters, as do those without a ticket."""
    before = configured(callers={**CALLERS, "gone": {"key": GONE, "allow": "*"}})
    back = requeued(message(GONE), before)
    assert protocol(before).decode_request(back).caller == "gone"
    with pytest.raises(RequestRefused, match="no key with the id"):
        protocol(configured()).decode_request(back)
    without = configured(callers=None, secret_token=[BUS, GONE])
    bus_alone = requeued(message(GONE), without)
    assert protocol(configured(callers=None)).decode_request(bus_alone).caller == "", "without callers as ever"


def test_dead_letters_of_two_callers_with_one_id_go_back_by_tickets_of_their_own() -> None:
    """Else one caller could choose another's id, and have its letter taken for a copy."""
    config, ids = configured(), set()
    for secret in (BUS, SHOP, AUDIT):
        body = message(secret)
        ticket = read_requeue_ticket(Keyring([BUS]), body, requeued(body, config).headers[headers.REQUEUED])  # type: ignore[index]
        assert ticket is not None
        ids.add(ticket.id)
    assert len(ids) == 3


def test_a_dead_letter_shows_its_caller_and_goes_back_only_while_its_key_is_known() -> None:
    check = RequeueCheck(configured(), "NODE-01")
    for secret, caller, status in (
        (BUS, "", RequeueStatus.GOOD),
        (SHOP, "shop", RequeueStatus.GOOD),
        (GONE, "", RequeueStatus.REFUSED),
    ):
        body = message(secret)
        letter = check.read(delivered(body, **dead_letter_headers(body, secret=BUS)))
        assert letter.caller == caller and check.status(letter, 0)[0] is not RequeueStatus.UNVERIFIED
        assert (check.status(letter, 0)[0] is RequeueStatus.REFUSED) == (status is RequeueStatus.REFUSED)


def test_no_caller_signs_what_workers_sign() -> None:
    """A caller that may publish on the broker can make neither a ticket nor a dead letter of its node."""
    body = message(SHOP)
    check = RequeueCheck(configured(), "NODE-01")
    letter = check.read(delivered(body, **dead_letter_headers(body, secret=SHOP)))
    assert check.status(letter, 0)[0] is RequeueStatus.UNVERIFIED


class Add(RpcService):
    def handle(self, request: Request) -> Any:
        return sum(request.params)


@pytest.mark.parametrize(("secret", "is_cancelled"), [(SHOP, True), (AUDIT, False), (BUS, False)])
def test_a_caller_can_cancel_its_own_calls_alone(secret: str, is_cancelled: bool) -> None:
    """To a peer with the secret of the bus the calls of callers have other ids, too."""
    with servicebus.testing.bus({"math.add": Add()}, callers=CALLERS, secret_token=BUS) as world:
        control = world.node._workers[0].control
        cancelled: list[str] = []
        control._dispatcher.cancel = cancelled.append  # type: ignore[method-assign, assignment]
        request = envelope("NODE-01.servicebus.cancel", [ID], kind=Kind.CONTROL)
        body = encode_envelope(request, sign_envelope(Keyring([secret]), request))
        control.hear(Delivery(NOBODY, 1, body, reply_to=f"{DIRECT_REPLY_TO}.g1h2"))
        assert len(cancelled) == 1 and (cancelled == [callers_id(ID, "shop")]) is is_cancelled


@pytest.mark.parametrize(("secret", "answered"), [(SHOP, [ID]), (AUDIT, None), (BUS, None)])
def test_a_ping_tells_a_caller_of_its_own_calls_alone(secret: str, answered: list[str] | None) -> None:
    with servicebus.testing.bus({"math.add": Add()}, callers=CALLERS, secret_token=BUS) as world:
        control = world.node._workers[0].control
        control._dispatcher.refused_calls.add(callers_id(ID, "shop"))
        request = envelope("NODE-01.servicebus.ping", [ID], kind=Kind.CONTROL)
        body = encode_envelope(request, sign_envelope(Keyring([secret]), request))
        said = control.answer(Delivery(NOBODY, 1, body, reply_to=f"{DIRECT_REPLY_TO}.g1h2"))
        assert said is not None and decode_json(decode_reply(said[0], 10_000).message).get("answered") == answered


def test_a_forbidden_call_is_known_as_answered_under_its_callers_id() -> None:
    with servicebus.testing.bus({"math.add": Add()}, callers=CALLERS, brokers=1) as world:
        sender = world.make_sender(caller="audit")
        with pytest.raises(PermissionDenied):
            sender.call("NODE-01.math.add", [1, 2])
        wire_id = world.history.only("called")[0].id
        refused = world.node._workers[0].dispatcher.refused_calls
        assert callers_id(wire_id, "audit") in refused and wire_id not in refused


def test_a_flood_of_forbidden_calls_is_counted_and_not_logged_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with servicebus.testing.bus({"math.add": Add()}, callers=CALLERS, brokers=1) as world:
        sender = world.make_sender(caller="audit")
        for _ in range(100):
            with pytest.raises(PermissionDenied):
                sender.call("NODE-01.math.add", [1, 2])
        counters = world.node._workers[0].dispatcher.counters
        assert counters["refused.permission-denied"] == 100
        assert 1 <= sum("permission-denied" in record.getMessage() for record in caplog.records) <= 10
        assert not any(key in caplog.text for key in (AUDIT, SHOP))
        assert world.make_sender(caller="shop").call("NODE-01.math.add", [1, 2])[1] == 3


def test_a_call_of_the_same_attempt_may_run_once_the_rules_allow_it() -> None:
    """The journal is not told of forbidden calls: a caller must not be able to fill it with them."""
    with servicebus.testing.bus({"math.add": Add()}, callers=CALLERS, brokers=1) as world:
        before = _journal_rows(world)
        sender = world.make_sender(caller="audit")
        for _ in range(10):
            with pytest.raises(PermissionDenied):
                sender.call("NODE-01.math.add", [1, 2])
        assert _journal_rows(world) == before


def _journal_rows(world: MemoryBus) -> Any:
    return world.node._journal.snapshot()
