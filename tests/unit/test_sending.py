"""What send() is told and what it returns."""

from __future__ import annotations

import copy
import json
import math
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from servicebus.client.pinging import ask_each
from servicebus.client.request import MessageOptions, PendingRequest
from servicebus.client.session import message_options
from servicebus.configuration import Configuration
from servicebus.errors import DurationError, EnvelopeError
from servicebus.protocol.v1 import ProtocolV1
from servicebus.protocol.v2 import ProtocolV2
from servicebus.sender import Receipt, Sender
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind, make_id
from servicebus.wire.signing import Keyring

DAY_S = 86400.0
NOW = 1_800_000_000.0


def test_a_receipt_is_the_event_id_for_programs_that_know_nothing_else() -> None:
    receipt = Receipt(7, "mq-a:5672")
    assert receipt == 7 and isinstance(receipt, int) and receipt + 1 == 8
    assert (str(receipt), f"{receipt:03d}", json.dumps(receipt), hash(receipt)) == ("7", "007", "7", hash(7))
    assert (receipt.confirmed_by, receipt.in_outbox) == ("mq-a:5672", False)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_receipt_survives_being_copied_and_pickled(way: Any) -> None:
    receipt = way(Receipt(7, None, True))
    assert (receipt, receipt.confirmed_by, receipt.in_outbox) == (7, None, True)


def test_a_message_is_good_for_as_long_as_its_token_and_due_at_once() -> None:
    assert message_options(0, None, DAY_S, NOW) == MessageOptions(None, int((NOW + DAY_S) * 1000))


def test_a_delayed_message_is_never_due_too_early() -> None:
    assert message_options(0.0001, None, DAY_S, NOW).due_ms == NOW * 1000 + 1
    assert message_options(90, 30, DAY_S, NOW) == MessageOptions(int((NOW + 90) * 1000), int((NOW + 30) * 1000))


def test_an_expiry_is_never_later_than_that_of_the_token() -> None:
    assert message_options(0, 2 * DAY_S, DAY_S, NOW).expires_ms == (NOW + DAY_S) * 1000


@pytest.mark.parametrize("delay", [-1, -0.001, math.nan, math.inf, "5", True, [1]])
def test_what_is_no_delay_is_refused(delay: Any) -> None:
    with pytest.raises(DurationError, match=r"delay must be a number of seconds, 0 or more, not "):
        message_options(delay, None, DAY_S, NOW)


@pytest.mark.parametrize("expires", [0, -1, math.nan, "5", False])
def test_what_is_no_expiry_is_refused(expires: Any) -> None:
    with pytest.raises(DurationError, match=r"expires must be a number of seconds above 0, not "):
        message_options(0, expires, DAY_S, NOW)


def test_a_delay_that_no_token_survives_is_refused_before_anything_is_sent() -> None:
    with Sender(Configuration({"hosts": ["127.0.0.1:1"], "secret_token": "s", "token_max_age": 60})) as sender:
        with pytest.raises(EnvelopeError, match=r"a delay of 60 s is too long: .* 60 s after it was sent"):
            sender.send("N.audit.record", 1, delay=60)
        assert sender.status()["hosts"][0]["state"] == "idle"


def test_an_agent_of_2_x_knows_no_delay_and_gets_the_message_when_it_is_due_only() -> None:
    config = Configuration({"hosts": ["127.0.0.1:1"], "secret_token": "s", "compat": True})
    address = Address.parse("N.audit.record")
    wire_id = make_id("0123456789abcdef", 1)
    now_ms = int(time.time() * 1000)
    later, now = (
        PendingRequest(1, wire_id, address, Kind.MESSAGE, b"[1]", timeout_s=1.0, options=MessageOptions(due_ms))
        for due_ms in (now_ms + 60_000, now_ms - 1)
    )
    with pytest.raises(EnvelopeError, match=r"node N is of version 2\.x, which knows no delay"):
        ProtocolV1(config).encode_request(later)
    assert ProtocolV1(config).encode_request(now).routing_key == "N"


def test_a_delayed_message_goes_past_the_exchange_until_it_is_due() -> None:
    config = Configuration({"hosts": ["127.0.0.1:1"], "secret_token": "s"})
    version = ProtocolV2(config, Keyring(config.secrets))
    now_ms = int(time.time() * 1000)

    def outgoing(remaining_s: float) -> tuple[str, str, Any]:
        options = MessageOptions(now_ms + int(remaining_s * 1000))
        request = PendingRequest(1, "x-1", Address.parse("N.a.b"), Kind.MESSAGE, b"1", timeout_s=1.0, options=options)
        outgoing = version.encode_request(request)
        return outgoing.exchange, outgoing.routing_key, outgoing.headers

    assert outgoing(700) == ("", "N.messages.delay.600", None)
    assert outgoing(0.9) == ("", "N.messages.delay.1", None)
    assert outgoing(-1) == ("servicebus", "N.messages", None)


def test_a_path_that_fails_at_once_is_not_asked_again_and_again() -> None:
    asked: list[int] = []

    def failing(_left_s: float) -> Future[Any]:
        asked.append(1)
        future: Future[Any] = Future()
        future.set_exception(ValueError())
        return future

    def silent(_left_s: float) -> Future[Any]:
        return Future()

    assert [type(error) for error in ask_each([failing, silent], 0.3)] == [ValueError, TimeoutError]
    assert len(asked) <= 7


def test_pings_end_with_the_first_answer_or_when_all_have_failed() -> None:
    def ending(end: Callable[[Future[Any]], None]) -> Callable[[float], Future[Any]]:
        def ask(_left_s: float) -> Future[Any]:
            future: Future[Any] = Future()
            end(future)
            return future

        return ask

    answers = ending(lambda future: future.set_result(1))
    error = ValueError()
    fails = ending(lambda future: future.set_exception(error))
    assert ask_each([answers, answers], 3600) == [None, None]
    assert ask_each([fails, fails], 3600) == [error, error]
    assert ask_each([fails, answers], 3600) == [error, None]
