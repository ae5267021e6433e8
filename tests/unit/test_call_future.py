"""CallFuture: a Future in every way, though it makes what a Future is made of only when somebody asks for it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError, as_completed, wait
from functools import partial
from typing import Any

import pytest

from servicebus.client.future import CallFuture
from servicebus.client.request import PendingRequest
from servicebus.services import Event, Request, _serving, current_request
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind

SOON_S = 10.0
ROUNDS = 2000


def test_a_cancelled_future_reports_it_once() -> None:
    future = CallFuture()
    told: list[Any] = []
    future.wire_id, future.on_cancel = "x-1", told.append
    assert future.cancel() and future.cancel()
    assert told == ["x-1"]
    assert future.was_cancelled and future.cancelled() and future.done()


def test_a_future_that_has_ended_cannot_be_cancelled() -> None:
    future = CallFuture()
    told: list[Any] = []
    future.on_cancel = told.append
    future.set_result(3)
    assert not future.cancel()
    assert told == [] and not future.was_cancelled


@pytest.mark.parametrize(
    "end",
    [
        lambda request: request.complete(3),
        lambda request: request.fail(ValueError()),
        lambda request: request.future().cancel(),
    ],
    ids=["completed", "failed", "cancelled"],
)
def test_what_a_program_keeps_of_a_call_is_not_its_request(end: Callable[[PendingRequest], Any]) -> None:
    """Freed at once, without the garbage collector: a caller of 13,000 a second would wait for it all the time."""
    request = PendingRequest(1, "kept-1", Address("N", "c", "n"), Kind.CALL, b"", timeout_s=60.0)
    future = request.future()
    gc.disable()
    try:
        end(request)
        del request
        assert future.done()
        assert not [each for each in gc.get_objects() if isinstance(each, PendingRequest) and each.id == "kept-1"]
    finally:
        gc.enable()


def looks(future: Future[Any]) -> list[Any]:
    """All that can be asked of a Future without waiting."""

    def told(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except BaseException as error:
            return type(error)

    called: list[Future[Any]] = []
    future.add_done_callback(called.append)
    asked = (
        future.done,
        future.cancelled,
        future.running,
        lambda: future.result(timeout=0),
        lambda: str(future.exception(timeout=0)),
        lambda: repr(future).partition("state=")[2],
        lambda: called == [future],
    )
    return [told(ask) for ask in asked]


@pytest.mark.parametrize("is_looked_at", [False, True], ids=["before anybody looks", "while somebody looks"])
@pytest.mark.parametrize(
    "ending",
    [
        lambda _: None,
        lambda it: it.set_result(3),
        lambda it: it.set_result(None),
        lambda it: it.set_exception(KeyError("x")),
        lambda it: it.cancel(),
        lambda it: it.set_running_or_notify_cancel(),
    ],
    ids=["pending", "result", "none", "error", "cancelled", "running"],
)
def test_it_is_seen_as_a_future_is(ending: Callable[[Future[Any]], Any], is_looked_at: bool) -> None:
    futures: list[Future[Any]] = [CallFuture(), Future()]
    calls: list[Any] = []
    for future in futures:
        if is_looked_at:
            future.add_done_callback(lambda done: calls.append(type(done)))
        ending(future)
    assert looks(futures[0]) == looks(futures[1])
    assert calls in ([], [CallFuture, Future])


def test_it_is_kept_once() -> None:
    for future in (CallFuture(), CallFuture()):
        future.set_result(1)
        with pytest.raises(InvalidStateError):
            future.set_result(2)
        with pytest.raises(InvalidStateError):
            future.set_exception(KeyError())
        assert future.result() == 1
    future = CallFuture()
    future.cancel()
    with pytest.raises(InvalidStateError):
        future.set_result(2)
    with pytest.raises(CancelledError):
        future.result()


def test_who_waits_may_be_of_use_meanwhile() -> None:
    future = CallFuture()
    asked: list[Callable[[], bool]] = []

    def on_wait(is_over: Callable[[], bool]) -> None:
        asked.append(is_over)
        assert not is_over()
        future.set_result(5)
        assert is_over()

    future.on_wait = on_wait
    assert future.result() == 5
    assert len(asked) == 1


def raced(look: Callable[[CallFuture], Any]) -> list[Any]:
    """What *look* gave in another thread, each time while the future was ending."""
    seen: list[Any] = []
    futures = [CallFuture() for _ in range(ROUNDS)]
    start = threading.Barrier(2, timeout=SOON_S)

    def others() -> None:
        start.wait()
        seen.extend(look(future) for future in futures)

    thread = threading.Thread(target=others, daemon=True)
    thread.start()
    start.wait()
    for number, future in enumerate(futures):
        try:
            future.set_result(number)
        except InvalidStateError:
            assert future.cancelled()
    thread.join(SOON_S)
    assert not thread.is_alive(), "a waiter was not woken"
    return seen


def test_whoever_waits_at_that_moment_is_woken() -> None:
    assert raced(lambda future: future.result(timeout=SOON_S)) == list(range(ROUNDS))


def first_of(futures: list[Future[Any]]) -> Any:
    return next(as_completed(futures, timeout=SOON_S)).result()


def test_whoever_waits_for_several_at_that_moment_is_woken() -> None:
    assert all(not left for _, left in raced(lambda future: wait([future], timeout=SOON_S)))
    assert raced(lambda future: first_of([future])) == list(range(ROUNDS))


def test_a_callback_that_is_left_at_that_moment_is_called_once() -> None:
    calls: list[int] = []

    def look(future: CallFuture) -> int:
        future.add_done_callback(lambda done: calls.append(done.result()))
        return 0

    raced(look)
    assert sorted(calls) == list(range(ROUNDS))


def test_it_is_either_cancelled_or_kept() -> None:
    told: list[str] = []

    def look(future: CallFuture) -> tuple[bool, CallFuture]:
        future.on_cancel = told.append
        return future.cancel(), future

    ends = raced(look)
    assert all(future.cancelled() is is_cancelled and future.done() for is_cancelled, future in ends)
    assert len(told) == sum(is_cancelled for is_cancelled, _ in ends)


def test_asyncio_takes_it() -> None:
    async def ask() -> Any:
        future = CallFuture()
        threading.Timer(0.0, partial(future.set_result, 7)).start()
        return await asyncio.wait_for(asyncio.wrap_future(future), SOON_S)

    assert asyncio.run(ask()) == 7


# Python 3.12 warns of every fork while threads run; here one has to.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_while_another_thread_keeps_one_harms_no_child() -> None:
    from servicebus.client import future as module

    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with module._end_lock:
            is_held.set()
            may_go.wait(SOON_S)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(SOON_S)
    child = os.fork()
    if child == 0:
        future = CallFuture()
        future.set_result(1)
        os._exit(0 if future.result() == 1 else 1)
    may_go.set()
    thread.join(SOON_S)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_callback_has_nothing_of_what_the_thread_was_doing_that_ended_it() -> None:
    """That may be a service's, which runs the loop while it waits for an answer of its own."""
    future, found = CallFuture(), list[object]()
    future.add_done_callback(lambda _: found.append(current_request()))
    _serving.set(Request(Event("i-1", "c", "s", "t", None, "2"), None, lambda: None))
    try:
        future.set_result(1)
    finally:
        _serving.set(None)
    assert found == [None]
