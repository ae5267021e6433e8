"""Calls that a service makes end with the request that it serves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from servicebus import services
from servicebus._nested_sender import NestedSender
from servicebus.configuration import Configuration
from servicebus.errors import CallTimeout
from servicebus.services import Event, Request
from servicebus.wire.address import Address

ADDRESS = Address.parse("N.math.add")


@pytest.fixture
def sender() -> Iterator[NestedSender]:
    yield NestedSender(Configuration({"hosts": ["127.0.0.1:1"], "secret_token": "s"}))
    services._serving.set(None)


def serve(remaining_s: float | None) -> None:
    deadline = None if remaining_s is None else time.monotonic() + remaining_s
    services._serving.set(Request(Event("i-1", "c", "s", "t", None, "2"), deadline, lambda: None))


def test_a_nested_call_lasts_no_longer_than_the_request_that_is_served(sender: NestedSender) -> None:
    serve(5.0)
    assert 4.0 < sender._parse(str(ADDRESS), 300.0)[1] <= 5.0
    assert sender._parse(str(ADDRESS), 2.0)[1] == 2.0


def test_a_call_made_while_a_message_is_handled_has_its_own_limit_only(sender: NestedSender) -> None:
    serve(None)
    assert sender._parse(str(ADDRESS), 300.0)[1] == 300.0


def test_a_call_made_in_a_thread_of_the_services_own_has_its_own_limit_only(sender: NestedSender) -> None:
    assert sender._parse(str(ADDRESS), 300.0)[1] == 300.0


def test_a_request_that_has_expired_makes_no_calls(sender: NestedSender) -> None:
    serve(-1.0)
    with pytest.raises(CallTimeout) as caught:
        sender.call("N.math.add", [1, 2])
    assert "not sent: the deadline of the request" in str(caught.value.__cause__)
    assert sender._session is None, "not even a connection was made"


@pytest.mark.parametrize(("remaining_s", "given", "most_s"), [(5.0, None, 5.0), (5.0, 2.0, 2.0), (None, None, None)])
def test_a_nested_stream_lasts_no_longer_either(
    sender: NestedSender, remaining_s: float | None, given: float | None, most_s: float | None
) -> None:
    serve(remaining_s)
    plan: Any = sender._stream(lambda plan: plan, str(ADDRESS), None, given, None, 10, None, "", None)
    assert plan.timeout_s is None if most_s is None else most_s - 1 < plan.timeout_s <= most_s
