"""What a service and middleware see of a context, and where it is not seen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import servicebus.testing
from servicebus._steps import outgoing_of
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, RemoteError
from servicebus.middleware import Middleware, MiddlewareSender, Outgoing
from servicebus.sender import Sender
from servicebus.services import Event, MessageService, Request, Retry, RpcService, _serving
from servicebus.stub import AsyncStub, Stub, StubService
from servicebus.typed import Services

CONFIG = Configuration({"hosts": ["127.0.0.1:1"], "secret_token": "s"})


def request(**context: str) -> Request:
    made = Request(Event("i-1", "c", "s", "t", None, "2"), None, lambda: None)
    if context:
        made.add_context(context)
    return made


def test_a_request_has_an_empty_context_that_cannot_be_changed() -> None:
    assert request().context == {}
    with pytest.raises(TypeError):
        request().context["k"] = "v"  # type: ignore[index]
    with pytest.raises(TypeError):
        request(k="v").context["k"] = "w"  # type: ignore[index]


def test_what_is_added_is_there_from_then_on_and_what_was_read_before_stays() -> None:
    made = request(a="1", b="2")
    before = made.context
    made.add_context({"b": "3", "c": "4", "a": None})
    assert (dict(made.context), dict(before)) == ({"b": "3", "c": "4"}, {"a": "1", "b": "2"})


@pytest.mark.parametrize("pairs", [{"K": "v"}, {"k": 1}, {"k": "v" * 4096}, "k=v"])
def test_what_cannot_travel_is_not_added(pairs: Any) -> None:
    made = request(a="1")
    with pytest.raises(EnvelopeError, match="unencodable: context: "):
        made.add_context(pairs)
    assert made.context == {"a": "1"}


def test_neither_a_request_nor_what_is_about_to_be_sent_shows_its_context() -> None:
    outgoing = outgoing_of("call", "N.c.s", None, {"token": "hunter2"})
    assert outgoing.context == {"token": "hunter2"}
    assert "hunter2" not in repr(request(token="hunter2")) + repr(outgoing)
    assert hash(outgoing) == hash(Outgoing("call", "N.c.s", None))


def test_what_middleware_takes_out_is_not_inherited_all_the_same() -> None:
    class Out(Middleware):
        def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
            del outgoing.context["token"]
            return proceed()

        async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
            del outgoing.context["token"]
            return await proceed()

    asked: list[Any] = []

    class Recording(MiddlewareSender):
        def _make(self, *what: Any, **how: Any) -> Any:
            made = super()._make(*what, **how)[1]
            asked.append(made.context)
            raise InterruptedError

    sender = Recording(CONFIG, middleware=[Out()])
    _serving.set(request(token="hunter2", k="v"))
    try:
        for ask in (sender.call, sender.send):
            with pytest.raises(InterruptedError):
                ask("N.c.s")
        with pytest.raises(InterruptedError):
            sender.call_async("N.c.s").result()
    finally:
        _serving.set(None)
        sender.close()
    assert asked == ['{"k":"v"}'] * 3


def test_stubs_and_clients_send_theirs_and_refuse_what_is_none_when_they_are_made() -> None:
    group = Services("c")

    @group.rpc
    def who(request: Request) -> dict[str, str]:
        return dict(request.context)

    class Made(Stub):
        NODE = "N"

        def who(self) -> Any:
            return self._call(service, dict, {})

    service = StubService("c.who", "", "{}")
    with servicebus.testing.bus(group, node_name="N") as world:
        assert Made(world.sender, context={"k": "v"}).who() == {"k": "v"}
        assert Made(world.sender).who() == {}
        assert world.sender.client("N", group, context={"k": "v"}).who() == {"k": "v"}
        makers: list[Callable[..., Any]] = [Made, AsyncStub, partial(world.sender.client, "N", group)]
        for make, how in zip(makers, ((world.sender,), (world.async_sender,), ()), strict=True):
            with pytest.raises(EnvelopeError, match="context: the key 'K'"):
                make(*how, context={"K": "v"})


class Fails(RpcService):
    def handle(self, request: Request) -> Any:
        raise ValueError("it fails")


class FailsToo(MessageService):
    retry = (1.0,)

    def handle(self, request: Request) -> Any:
        raise Retry(0.1, "not yet") if request.attempts == 1 else ValueError("it fails")


def test_no_log_no_error_and_no_dead_letter_detail_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    services = {"c.fails": Fails(), "m.fails": FailsToo()}
    with servicebus.testing.bus(services, node_name="N", fault_traces=True) as world:
        with pytest.raises(RemoteError) as caught:
            world.sender.call("N.c.fails", context={"token": "hunter2"})
        world.sender.send("N.m.fails", context={"token": "hunter2"})
        world.advance(5)
        told = [each.detail for each in world.history]
        assert world.history.only("dead-lettered")
        assert world.history.only("dead-lettered")[0].context == {"token": "hunter2"}
    assert "it fails" in caplog.text
    assert "hunter2" not in caplog.text + str(caught.value) + str(caught.value.trace) + str(told)


def test_questions_about_a_node_have_none() -> None:
    """Who answers them is the agent; and a description is no work of the request that is served."""
    found: list[str] = []

    class Recording(Sender):
        def _make(self, *what: Any, **how: Any) -> Any:
            made = super()._make(*what, **how)[1]
            found.append(made.context)
            raise InterruptedError

    sender = Recording(CONFIG)
    _serving.set(request(k="v"))
    try:
        with pytest.raises(InterruptedError):
            sender.describe("N")
    finally:
        _serving.set(None)
        sender.close()
    assert found == [""]
