"""Middleware around services of every form and around the calls of a Sender: in order, and free where there is none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import pytest
from test_task_service import Bench, job
from virtual_bus import NODE, VirtualBus, configuration
from virtual_worker import Echo, Note, VirtualWorker

from servicebus._steps import run_steps, steps_of
from servicebus.aio import AsyncSender
from servicebus.errors import ConfigurationError, RemoteError
from servicebus.middleware import Middleware, MiddlewareSender, Outgoing
from servicebus.runtime.around import with_middleware
from servicebus.runtime.registration import Service, register
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.services import Request
from servicebus.typed import Services
from servicebus.wire.envelope import CALL, MESSAGE


class Trace(Middleware):
    def __init__(self, name: str, log: list[str]):
        self.name = name
        self.log = log

    def _enter(self, what: Any) -> None:
        self.log.append(f"{self.name} > {what}")

    def serve(self, request: Request, proceed: Callable[[], Any]) -> Any:
        self._enter(request.get_event().service)
        try:
            return proceed()
        finally:
            self.log.append(f"{self.name} <")

    async def serve_async(self, request: Request, proceed: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        self._enter(request.get_event().service)
        try:
            return await proceed()
        finally:
            self.log.append(f"{self.name} <")

    def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        self._enter(f"{outgoing.kind} {outgoing.target}")
        try:
            return proceed()
        finally:
            self.log.append(f"{self.name} <")

    async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Awaitable[Any]]) -> Any:
        self._enter(f"{outgoing.kind} {outgoing.target}")
        try:
            return await proceed()
        finally:
            self.log.append(f"{self.name} <")


class Auth(Middleware):
    """Lets nothing pass that says "secret", and doubles what is a number."""

    def serve(self, request: Request, proceed: Callable[[], Any]) -> Any:
        if "secret" in str(request.params):
            raise PermissionError("not for you")
        result = proceed()
        return 2 * result if isinstance(result, int) else result

    async def serve_async(self, request: Request, proceed: Callable[[], Awaitable[Any]]) -> Any:
        return await proceed()


@pytest.fixture
def log() -> list[str]:
    return []


def typed_service(*middleware: Middleware) -> Service:
    group = Services("test")

    @group.rpc
    def double(n: int | str) -> Any:
        return n

    (each,) = group
    return with_middleware(register(each.kind, each.category, each.name, each.make()), middleware)


def answers(bus: VirtualBus, name: str, params: Any) -> Any:
    future = bus.sender.call_async(f"{NODE}.test.{name}", params, 30.0)
    bus.time.until(future.done)
    return future.exception() or future.result()[1]


def test_it_runs_around_a_class_and_around_a_function_in_order(bus: VirtualBus, log: list[str]) -> None:
    class Other(Echo):
        background = False
        opened = False

        def setup(self) -> None:
            self.opened = True

    both = [Trace("a", log), Auth(), Trace("b", log)]
    echo, note = Other(), Note()
    around = with_middleware(register(CALL, "test", "other", echo), both)
    of_messages = with_middleware(register(MESSAGE, "test", "noted", note), both)
    around.instance.setup()
    assert echo.opened and around.instance.background is False and not hasattr(around.instance, "none")
    VirtualWorker(bus, more=[typed_service(*both), around, of_messages]).start()
    assert (answers(bus, "double", [4]), answers(bus, "other", 4)) == (8, 8)
    assert log == ["a > double", "b > double", "b <", "a <", "a > other", "b > other", "b <", "a <"]
    log.clear()
    for name, params in (("double", ["secret"]), ("other", "secret")):
        error = answers(bus, name, params)
        assert isinstance(error, RemoteError) and (error.type, error.message) == ("PermissionError", "not for you")
    assert log == ["a > double", "a <", "a > other", "a <"] and echo.seen == [4]
    log.clear()
    error = answers(bus, "other", "raises")
    assert isinstance(error, RemoteError) and error.type == "ValueError" and log[-1] == "a <"
    future = bus.sender.send_async(f"{NODE}.test.noted", "text", 30.0)
    bus.time.until(future.done)
    bus.time.settle()
    assert note.seen == ["text"]


def test_bad_params_do_not_reach_it(bus: VirtualBus, log: list[str]) -> None:
    VirtualWorker(bus, more=[typed_service(Trace("a", log))]).start()
    assert "invalid-params" in str(answers(bus, "double", [[]])) and log == []


def test_it_runs_around_an_async_function_in_its_task(log: list[str]) -> None:
    async def it(n: int) -> int:
        await asyncio.sleep(0)
        log.append(threading.current_thread().name)
        return n

    here = Bench(it, middleware=[Trace("a", log), Trace("b", log)])
    try:
        assert here.result([3]) == 3
        assert log == ["a > it", "b > it", "asyncio-test", "b <", "a <"]
        assert here.outcome(job(["x"])).fault is not None
    finally:
        here.stop()


def test_half_a_middleware_is_refused_at_the_start() -> None:
    class Half(Middleware):
        def serve(self, request: Request, proceed: Callable[[], Any]) -> Any:
            return proceed()

        async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Awaitable[Any]]) -> Any:
            return await proceed()

    group = Services("test")

    @group.rpc
    async def it() -> None: ...

    bus = ServiceBus(configuration("mq-a"), middleware=[Half()])
    with pytest.raises(ConfigurationError, match=r"Half has serve\(\) and no serve_async\(\)"):
        bus.include(group)
    with pytest.raises(ConfigurationError, match=r"Half has call_async\(\) and no call\(\)"):
        MiddlewareSender(configuration("mq-a"), middleware=[Half()])
    with pytest.raises(ConfigurationError, match="is no Middleware"):
        AsyncSender(configuration("mq-a"), middleware=[5])  # type: ignore[list-item]


def test_without_middleware_for_it_nothing_is_wrapped(log: list[str]) -> None:
    service = register(CALL, "test", "echo", Echo())
    assert with_middleware(service, [Middleware()]) is service
    assert MiddlewareSender(configuration("mq-a"), middleware=[Middleware()])._steps == ()


# -- around a Sender ---------------------------------------------------------------------------------------------------


def middleware_sender(bus: VirtualBus, *middleware: Middleware) -> MiddlewareSender:
    sender = MiddlewareSender(bus.config, middleware=middleware)
    sender._loop_of_process = lambda: bus.loop
    sender._connect = bus.network.connect
    return sender


def ended(bus: VirtualBus, future: Future[Any]) -> Future[Any]:
    bus.time.settle()
    bus.time.until(future.done)
    return future


def test_it_runs_around_futures_until_they_end(bus: VirtualBus, log: list[str]) -> None:
    worker = VirtualWorker(bus).start()
    sender = middleware_sender(bus, Trace("a", log), Trace("b", log))
    future = sender.call_async(f"{NODE}.test.echo", 5, 30.0)
    assert log == ["a > call NODE-01.test.echo", "b > call NODE-01.test.echo"]
    assert ended(bus, future).result()[1] == 5 and log[2:] == ["b <", "a <"]
    assert isinstance(ended(bus, sender.call_async(f"{NODE}.test.echo", "raises", 30.0)).exception(), RemoteError)
    log.clear()
    assert ended(bus, sender.send_async(f"{NODE}.test.note", "x", 30.0)).result() == 3
    assert log == ["a > message NODE-01.test.note", "b > message NODE-01.test.note", "b <", "a <"]
    bus.time.settle()
    assert worker.note.seen == ["x"]
    sender.close()


def test_cancelling_the_outer_future_cancels_the_call(bus: VirtualBus, log: list[str]) -> None:
    worker = VirtualWorker(bus).start()
    worker.hold()
    sender = middleware_sender(bus, Trace("a", log))
    future = sender.call_async(f"{NODE}.test.echo", 5, 30.0)
    bus.time.settle()
    assert future.cancel() and future.cancelled() and log[-1] == "a <"
    bus.time.settle()
    assert worker.dispatcher.counters["cancelled"] == 1
    sender.close()


class Again(Middleware):
    """Tries again whatever fails, and awaits something else first, if it is to."""

    def __init__(self, *, awaits_first: bool = False):
        self.awaits_first = awaits_first
        self.ends: list[type] = []

    def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        return proceed()

    async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Awaitable[Any]]) -> Any:
        try:
            if self.awaits_first:
                await _OfAnotherLoop()
            return await proceed()
        except Exception as error:
            self.ends.append(type(error))
            return await proceed()
        except BaseException as error:
            self.ends.append(type(error))
            await proceed()  # it is not asked for any more


def test_a_step_that_tries_again_does_not_repeat_what_was_cancelled(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus).start()
    worker.hold()
    step = Again()
    sender = middleware_sender(bus, step)
    future = sender.call_async(f"{NODE}.test.echo", 5, 30.0)
    bus.time.settle()
    assert future.cancel() and step.ends == [asyncio.CancelledError]
    bus.time.settle()
    assert sender.status()["travelling"] == 0 and worker.dispatcher.counters["cancelled"] == 1
    sender.close()


def test_a_step_that_handles_its_wrong_await_goes_on(bus: VirtualBus) -> None:
    VirtualWorker(bus).start()
    step = Again(awaits_first=True)
    sender = middleware_sender(bus, step)
    future = sender.call_async(f"{NODE}.test.echo", 5, 30.0)
    assert ended(bus, future).result()[1] == 5 and step.ends == [TypeError]
    sender.close()


def test_a_step_may_answer_itself_or_raise(bus: VirtualBus) -> None:
    class Cache(Middleware):
        def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
            return 0, outgoing.params

        async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Awaitable[Any]]) -> Any:
            if outgoing.params == "raises":
                raise PermissionError("not for you")
            if outgoing.params == "waits":
                await _OfAnotherLoop()
            return 0, outgoing.params

    sender = middleware_sender(bus, Cache())
    assert sender.call(f"{NODE}.test.echo", 7) == (0, 7)
    assert sender.call_async(f"{NODE}.test.echo", 7).result() == (0, 7)
    assert isinstance(sender.call_async(f"{NODE}.test.echo", "raises").exception(), PermissionError)
    error = sender.call_async(f"{NODE}.test.echo", "waits").exception()
    assert isinstance(error, TypeError) and "awaits nothing but proceed()" in str(error)
    assert not bus.brokers[0].queues


class _OfAnotherLoop:
    def __await__(self) -> Any:
        yield "something of asyncio"


def test_an_async_sender_runs_its_steps_and_those_of_its_sender(log: list[str]) -> None:
    class Answer(Middleware):
        def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any: ...

        async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Awaitable[Any]]) -> Any:
            await asyncio.sleep(0)
            return 0, outgoing.kind

    async def run() -> None:
        config = configuration("mq-a")
        for sender in (
            AsyncSender(config, middleware=[Trace("a", log), Answer()]),
            AsyncSender.of(MiddlewareSender(config, middleware=[Trace("a", log), Answer()])),
        ):
            log.clear()
            assert await sender.call("N.a.b") == (0, "call")
            assert await sender.send("N.a.b") == (0, "message")  # type: ignore[comparison-overlap]
            assert log == ["a > call N.a.b", "a <", "a > message N.a.b", "a <"]
            assert sender._plain()._steps == ()

    asyncio.run(run())


def test_a_plain_sender_asks_nothing() -> None:
    assert not {"_steps", "_async_steps"} & set(vars(Sender(configuration("mq-a"))))
    assert run_steps(steps_of([], "call", "call_async"), None, lambda: 5) == 5
