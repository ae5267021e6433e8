"""``authorize=``: a function of the program's own that lets requests in, or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

import servicebus.testing
from servicebus import Services
from servicebus.errors import (
    CallRefused,
    ConfigurationError,
    EnvelopeError,
    InvalidParams,
    PermissionDenied,
    RemoteError,
)
from servicebus.runtime.text_request import TextRequest
from servicebus.services import Deny, MessageService, Request, RpcService, current_request
from servicebus.testing import MemoryBus

ASKED: list[tuple[str, Any, Mapping[str, str]]] = []
RAN: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_yet() -> None:
    ASKED.clear()
    RAN.clear()


def by_token(request: Request, context: Mapping[str, str]) -> Any:
    """What its context says becomes of it."""
    assert current_request() is request
    ASKED.append((request.get_event().service, request.params, context))
    said = context.get("token", "")
    if said == "denied":
        raise Deny("the token has expired")
    if said == "broken":
        raise KeyError("keys of the issuer")
    return {"good": True, "truthy": "yes", "none": None, "": False}[said]


async def by_token_async(request: Request, context: Mapping[str, str]) -> Any:
    await asyncio.sleep(0)
    return by_token(request, context)


class Class(RpcService, MessageService):
    authorize = staticmethod(by_token)

    def handle(self, request: Request) -> Any:
        RAN.append(request.params)
        return request.params


def services() -> list[Any]:
    group = Services("group", authorize=by_token)
    free = Services("free")

    @group.rpc
    def plain(value: Any) -> Any:
        RAN.append(value)
        return value

    @group.rpc(lock=0)
    def locked(value: Any) -> Any:
        RAN.append(value)
        return value

    @group.rpc(authorize=by_token_async)
    async def task(value: Any) -> Any:
        RAN.append(value)
        return value

    @group.rpc(authorize=by_token, lock=0)
    async def locked_task(value: Any) -> Any:
        RAN.append(value)
        return value

    @group.rpc(authorize=lambda request, context: by_token_async(request, context))
    async def lazy_task(value: Any) -> Any:
        RAN.append(value)
        return value

    @group.rpc
    def rows(value: Any) -> Iterator[Any]:
        RAN.append(value)
        yield value

    @group.rpc(authorize=by_token_async)
    async def rows_async(value: Any) -> AsyncIterator[Any]:
        RAN.append(value)
        yield value

    @group.message(retry=())
    def note(value: Any) -> None:
        RAN.append(value)

    @group.event("noted.*", retry=())
    def heard(value: Any) -> None:
        RAN.append(value)

    @free.rpc
    def open(value: Any) -> Any:
        if value == "denied":
            raise Deny("not this one")
        return value

    @free.message(retry=(1,) * 3)
    def never(value: Any) -> None:
        raise Deny("not this one")

    @free.rpc(authorize=lambda request, context: by_token_async(request, context))
    def forgotten_await(value: Any) -> Any:
        RAN.append(value)
        return value

    return [group, free, {"class.one": Class()}]


TARGETS = ("group.plain", "group.locked", "group.task", "group.locked_task", "group.lazy_task", "class.one")
everywhere = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(name="world")
def _world() -> Any:
    with servicebus.testing.bus(*services(), callers={"shop": {"key": "key of shop", "allow": "*"}}) as world:
        yield world


def call(world: MemoryBus, target: str, token: str, params: Any = ("a",)) -> Any:
    return world.sender.call(f"NODE-01.{target}", list(params), context={"token": token})[1]


@everywhere
def test_what_it_lets_in_is_served(world: MemoryBus, target: str) -> None:
    result = call(world, target, "good")
    assert result in ("a", ["a"]) and len(RAN) == 1
    assert [(target.partition(".")[2], ["a"], {"token": "good"})] == ASKED


@everywhere
@pytest.mark.parametrize("token", ["truthy", "none", "", "denied"])
def test_nothing_but_true_lets_in(world: MemoryBus, target: str, token: str) -> None:
    with pytest.raises(PermissionDenied) as refusal:
        call(world, target, token)
    assert refusal.value.rule == f"authorize of {target}" and refusal.value.caller == ""
    assert ("the token has expired" in str(refusal.value)) == (token == "denied")
    assert not RAN and world.node._workers[0].dispatcher.counters["refused.permission-denied"] == 1


@everywhere
def test_what_it_raises_is_the_callers_to_know(world: MemoryBus, target: str) -> None:
    with pytest.raises(RemoteError, match="KeyError"):
        call(world, target, "broken")
    assert not RAN


@pytest.mark.parametrize("target", [each for each in TARGETS if each != "class.one"])
def test_who_may_not_ask_is_not_told_what_is_wrong_with_the_params(world: MemoryBus, target: str) -> None:
    with pytest.raises(PermissionDenied):
        call(world, target, "denied", ["a", "b", "c"])
    with pytest.raises(InvalidParams):
        call(world, target, "good", ["a", "b", "c"])
    assert not RAN


@pytest.mark.parametrize("target", ["group.rows", "group.rows_async"])
def test_streams_are_authorized_too(world: MemoryBus, target: str) -> None:
    def ask(token: str) -> list[Any]:
        return list(world.sender.stream(f"NODE-01.{target}", ["a"], context={"token": token}))

    assert ask("good") == ["a"] and len(RAN) == 1
    for token in ("denied", "none"):
        with pytest.raises(PermissionDenied):
            ask(token)
    assert len(RAN) == 1


@pytest.mark.parametrize("token", ["good", "denied"])
def test_messages_and_events_are_authorized_too(world: MemoryBus, token: str) -> None:
    world.sender.send("NODE-01.group.note", ["a"], context={"token": token})
    world.sender.publish("noted.b", ["b"], context={"token": token})
    world.sender.send("NODE-01.class.one", "c", context={"token": token})
    dead = [each.detail for each in world.history.only("dead-lettered")]
    if token == "good":
        assert len(RAN) == 3 and not dead
    else:
        assert not RAN and len(dead) == 3
        assert all(each.startswith("permission-denied: ") and "the token has expired" in each for each in dead)


def test_it_knows_the_caller(world: MemoryBus) -> None:
    sender = world.make_sender(caller="shop")
    with pytest.raises(PermissionDenied) as refusal:
        sender.call("NODE-01.group.plain", ["a"], context={"token": "denied"})
    assert refusal.value.caller == "shop" and "caller 'shop' may not ask group.plain" in str(refusal.value)


def test_a_service_may_deny_by_itself(world: MemoryBus) -> None:
    assert world.sender.call("NODE-01.free.open", ["a"])[1] == "a"
    with pytest.raises(PermissionDenied, match=r"by service free\.open: not this one"):
        world.sender.call("NODE-01.free.open", ["denied"])
    world.sender.send("NODE-01.free.never", ["a"])
    assert len(world.history.only("dead-lettered")) == 1 and not world.history.only("retried")


def test_a_forgotten_await_lets_nobody_in(world: MemoryBus) -> None:
    with pytest.raises(RemoteError, match="TypeError"):
        call(world, "free.forgotten_await", "good")
    assert not RAN


def test_a_description_says_that_there_is_one(world: MemoryBus) -> None:
    options = {each.key: each.options.get("authorize", False) for each in world.sender.describe("NODE-01")}
    assert options["group.plain"] is True and options["group.task"] is True and options["free.open"] is False
    assert options["class.one"] is True


def test_params_that_are_no_json_are_refused_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def malformed(text: bytes) -> Any:
        raise EnvelopeError("bad-json", "not this time")

    monkeypatch.setattr("servicebus.runtime.text_request.decode_params", malformed)
    with servicebus.testing.bus(*services()) as world:
        with pytest.raises(CallRefused) as refusal:
            call(world, "group.plain", "good")
        assert refusal.value.reason == "bad-json" and not RAN
        with pytest.raises(CallRefused):
            call(world, "group.task", "good")
        world.sender.send("NODE-01.group.note", ["a"], context={"token": "good"})
        assert [each.detail for each in world.history.only("dead-lettered")] == ["bad-json: not this time"]


def test_the_request_has_the_params_that_nobody_has_read_yet() -> None:
    incoming = SimpleNamespace(context=None, given_id="", id="1", category="c", service="s", token="t", version="2")
    incoming.raw_params = b"[1, 2]"
    request = TextRequest(SimpleNamespace(incoming=incoming, deadline=None), lambda: None)  # type: ignore[arg-type]
    assert (request.params, request.get_event().id, dict(request.context)) == ([1, 2], "1", {})


async def coroutine(request: Request, context: Mapping[str, str]) -> bool:
    return True


def generator(request: Request, context: Mapping[str, str]) -> Any:
    yield True


def of_one(request: Request) -> bool:
    return True


def sync(value: Any) -> Any: ...


async def asynchronous(value: Any) -> Any: ...


@pytest.mark.parametrize(
    ("function", "authorize", "says"),
    [
        (sync, coroutine, "coroutine function"),
        (sync, generator, "generator function"),
        (asynchronous, generator, "generator function"),
        (sync, of_one, "cannot take (request, context)"),
        (asynchronous, of_one, "cannot take (request, context)"),
        (sync, "admin", "must be a function"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(
    function: Callable[[Any], Any | Awaitable[Any]], authorize: Any, says: str
) -> None:
    group = Services("group")
    group.rpc(authorize=authorize)(function)
    with pytest.raises(ConfigurationError) as caught:
        servicebus.testing.bus(group)
    assert says in str(caught.value)
