"""How a service is run: what is given where it is registered, else its own attributes."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from servicebus.configuration import Configuration
from servicebus.endpoints import MessageService, Request, Response, RpcService
from servicebus.errors import ConfigurationError
from servicebus.runtime.registration import register
from servicebus.service import ServiceBus
from servicebus.wire.envelope import Kind

CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "secret token"})


class Plain:
    def on_call(self, request: Request, response: Response) -> None: ...


class Transfer(RpcService):
    threads = 4
    idempotent = True

    def lock(self, params: Any) -> str:
        return str(params["account"])


class Nightly(MessageService):
    retry = (1, 5)
    concurrency = "node"


def test_without_a_word_it_is_one_thread_without_locks() -> None:
    service = register(Kind.CALL, "a", "b", Plain(), threads=None, lock=None)
    assert (service.threads, service.idempotent, service.ladder, service.is_locked) == (1, False, None, False)


def test_a_service_of_ours_says_itself_how_it_is_run() -> None:
    transfer = register(Kind.CALL, "a", "b", Transfer(), threads=None, idempotent=None, lock=None, concurrency=None)
    assert (transfer.threads, transfer.idempotent, transfer.is_locked) == (4, True, True)
    assert callable(transfer.lock)
    assert transfer.lock({"account": 7}) == "7"
    nightly = register(Kind.MESSAGE, "a", "b", Nightly(), threads=None, retry=None, lock=None, concurrency=None)
    assert (nightly.ladder, nightly.concurrency, nightly.lock) == ((1.0, 5.0), "node", None)


def test_what_is_given_where_it_is_registered_comes_first() -> None:
    assert register(Kind.CALL, "a", "b", Transfer(), threads=2, idempotent=False).threads == 2
    assert register(Kind.CALL, "a", "b", Transfer(), threads=2, idempotent=False).idempotent is False
    assert register(Kind.MESSAGE, "a", "b", Nightly(), retry=()).ladder == ()


def test_attributes_of_any_other_service_mean_what_they_meant_in_2() -> None:
    """Many have a lock of their own."""

    class Old(Plain):
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.threads = "many"

    service = register(Kind.CALL, "a", "b", Old(), threads=None, lock=None, concurrency=None)
    assert (service.threads, service.is_locked) == (1, False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threads": 0}, "service a.b: threads must be a whole number from 1 to 1024, not 0"),
        ({"retry": [-1]}, "service a.b: retry must be a number of seconds above 0, at most a year, not -1"),
        ({"lock": ""}, "service a.b: lock must be the place of a value in the params, or a function of the params"),
        (
            {"lock": threading.Lock()},
            "service a.b: lock must be the place of a value in the params, or a function of the params",
        ),
        ({"concurrency": "machine"}, "service a.b: concurrency must be one of node"),
        ({"lock": "x", "concurrency": "node"}, "service a.b: takes one of lock and concurrency, not both"),
    ],
)
def test_an_option_that_is_none_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        register(Kind.CALL, "a", "b", Plain(), **options)
    assert str(caught.value) == text


def test_the_bus_takes_them() -> None:
    bus = ServiceBus(CONFIG)
    bus.add_rpc_service("a", "b", Plain(), threads=2, idempotent=True, lock="account")
    bus.add_message_service("a", "c", Nightly(), retry=(2,))
    call, message = bus._services.values()
    assert (call.threads, call.idempotent, call.lock) == (2, True, "account")
    assert (message.ladder, message.concurrency) == ((2.0,), "node")
    with pytest.raises(ConfigurationError, match="has no on_message"):
        bus.add_message_service("a", "d", Plain())
