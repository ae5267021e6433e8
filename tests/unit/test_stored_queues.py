"""Quorum queues are declared without a delivery limit where the broker has one; older ones are used as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from servicebus.configuration import Configuration
from servicebus.transport.interface import BrokerChannel
from servicebus.transport.stored import StoredQueues, stored_arguments, stored_queues

TYPE = {"x-queue-type": "quorum"}
FORM = {**TYPE, "x-delivery-limit": -1}


class Channel:
    """Accepts every declaration, and notes its arguments."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}

    def declare_queue(self, name: str, on_done: Callable[[Any], None], *, arguments: Any, **_: Any) -> None:
        self.arguments = arguments
        on_done((name, 3, 2))


def config(queue_type: str) -> Configuration:
    return Configuration({"hosts": ["mq"], "secret_token": "a secret of the test", "queue_type": queue_type})


def declared(queues: StoredQueues, name: str) -> Any:
    channel = Channel()
    answers: list[Any] = []
    queues.declare(name)(cast(BrokerChannel, channel), answers.append)
    assert answers == [(name, 3, 2)]
    return channel.arguments


@pytest.mark.parametrize(
    ("queue_type", "version", "arguments"),
    [
        ("quorum", "3.10.8", TYPE),  # it would take -1 for 0
        ("quorum", "3.13.7", TYPE),
        ("quorum", "4.0.5", FORM),
        ("quorum", "4.3.6+1", FORM),
        ("quorum", "10.0.0", FORM),
        ("quorum", "", TYPE),
        ("quorum", "of our own", TYPE),
        ("classic", "3.10.8", {}),
        ("classic", "4.0.5", {}),
    ],
)
def test_the_limit_is_switched_off_where_the_broker_has_one(
    queue_type: str, version: str, arguments: dict[str, Any]
) -> None:
    assert stored_arguments(config(queue_type), version) == arguments


@pytest.mark.parametrize("name", stored_queues("N"))
def test_a_queue_that_refuses_the_new_form_is_declared_in_the_old_one_and_told_of(name: str) -> None:
    limited: list[str] = []
    queues = StoredQueues(config("quorum"), "4.0.5", limited.append)
    assert declared(queues, name) == FORM
    assert queues.is_worth_another_try(name)
    assert limited == []
    assert declared(queues, name) == TYPE
    assert limited == [name]
    assert declared(queues, "N.another.messages") == FORM
    # It is of another type altogether; both forms are tried again once it may have been moved.
    assert not queues.is_worth_another_try(name)
    assert declared(queues, name) == FORM
    assert queues.is_worth_another_try(name)


@pytest.mark.parametrize(
    ("queue_type", "version", "refused"),
    [
        ("quorum", "3.10.8", "N.messages"),
        ("classic", "4.0.5", "N.messages"),
        ("quorum", "4.0.5", "N.rpc"),
        ("quorum", "4.0.5", "N.control"),
    ],
)
def test_where_there_is_one_form_only_nothing_else_is_tried(queue_type: str, version: str, refused: str) -> None:
    queues = StoredQueues(config(queue_type), version, lambda _: None)
    assert not queues.is_worth_another_try(refused)
    assert not queues.is_worth_another_try(refused)
