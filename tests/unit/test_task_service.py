"""``async def`` services on the asyncio loop of a worker: many at a time, cancelled, given back, and never silent."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any
from unittest.mock import Mock

import pytest
from envelopes import node_protocol, signed
from pydantic import AfterValidator
from waiting import wait_until

from servicebus.errors import ConfigurationError
from servicebus.middleware import Middleware
from servicebus.runtime import setup, task_service
from servicebus.runtime.around import with_middleware
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.job import Job, JobResult, Outcome
from servicebus.runtime.registration import register
from servicebus.runtime.service_loop import ServiceLoop
from servicebus.runtime.task_service import TaskService
from servicebus.services import Request, current_request
from servicebus.transport.interface import Delivery
from servicebus.typed import Depends, Services
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import BUSY, REFUSED, STOPPING
from servicebus.wire.xmlcodec import decode_json, decode_reply


def job(params: Any = None, kind: Kind = Kind.CALL, deadline: float | None = None) -> Job:
    no: Any = None
    delivery = Delivery(no, 1, signed("NODE-01.test.it", params, kind=kind), reply_to="here")
    protocol = node_protocol()
    return Job(delivery, 1, "here", protocol.decode_request(delivery), protocol, deadline=deadline)


class Bench:
    """One ``async def`` service on a loop of its own, and what becomes of its jobs."""

    def __init__(
        self,
        function: Callable[..., Any],
        kind: Kind = Kind.CALL,
        inbox: int = 8,
        middleware: Sequence[Middleware] = (),
        **how: Any,
    ):
        self.outcomes: list[Outcome] = []
        group = Services("test")
        (group.rpc if kind is Kind.CALL else group.message)(name="it", **how)(function)
        (each,) = group
        service = register(each.kind, each.category, each.name, each.make(), **each.options)
        service = with_middleware(service, middleware)
        self.handed: list[tuple[Outcome, int | None]] = []
        self.loop = ServiceLoop("asyncio-test", self._hand_over)
        self.service = TaskService(self.loop, service, inbox, self.outcomes.append, lambda: None, with_traces=False)
        self.service.start()

    def _hand_over(self, outcome: Outcome, is_over: Callable[[], object], fd: int | None) -> None:
        assert (fd is None) == bool(is_over()), "without a descriptor there is something to do"
        self.outcomes.append(outcome)
        self.handed.append((outcome, fd))

    def outcome(self, request: Job) -> Outcome:
        assert self.service.put(request)
        return self.outcome_of(request)

    def outcome_of(self, request: Job) -> Outcome:
        wait_until(lambda: any(each.job is request for each in self.outcomes))
        (found,) = [each for each in self.outcomes if each.job is request]
        return found

    def result(self, params: Any = None) -> Any:
        reply = self.outcome(job(params)).reply
        assert reply is not None
        return decode_json(decode_reply(reply, 100_000).message)

    def stop(self) -> None:
        self.service.stop()
        wait_until(lambda: not self.service.is_running)
        self.loop.thread.join(20)
        assert not self.loop.thread.is_alive() and self.service.backlog == 0


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*arguments: Any, **how: Any) -> Bench:
        made.append(Bench(*arguments, **how))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def test_many_run_at_a_time_and_no_more_than_tasks(bench: Callable[..., Bench]) -> None:
    running: list[int] = []
    most: list[int] = []
    gate = asyncio.Event()

    async def it(n: int) -> int:
        running.append(n)
        most.append(len(running))
        await gate.wait()
        running.remove(n)
        return n

    here = bench(it, tasks=3)
    jobs = [job([n]) for n in range(8)]
    assert all(here.service.put(each) for each in jobs)
    assert not here.service.put(job([9])), "the inbox is full"
    wait_until(lambda: len(running) == 3)
    here.loop.call(gate.set)
    assert [here.outcome_of(each).result for each in jobs] == [JobResult.DONE] * 8
    assert max(most) == 3


def test_a_task_knows_its_request_and_so_does_what_it_gives_to_threads(bench: Callable[..., Bench]) -> None:
    async def it(request: Request, n: int) -> list[bool]:
        await asyncio.sleep(0)
        return [current_request() is request, await asyncio.to_thread(current_request) is request]

    assert bench(it).result([1]) == [True, True]
    assert current_request() is None


served_while_bound: list[Request | None] = []


def _note_served(n: int) -> int:
    served_while_bound.append(current_request())
    return n


Checked = Annotated[int, AfterValidator(_note_served)]


def test_what_begins_behind_a_task_has_nothing_of_its_contextvars(bench: Callable[..., Bench]) -> None:
    """The task that ends starts it, and it would run with the tenant, say, of another caller."""
    tenant: ContextVar[str] = ContextVar("tenant", default="none")
    served_while_bound.clear()

    async def it(n: Checked) -> str:
        found = tenant.get()
        tenant.set(f"of {n}")
        await asyncio.sleep(0)
        return found

    here = bench(it, tasks=1)
    jobs = [job([n]) for n in range(4)]
    assert all(here.service.put(each) for each in jobs)
    replies = [here.outcome_of(each).reply or b"" for each in jobs]
    assert [decode_json(decode_reply(each, 100_000).message) for each in replies] == ["none"] * 4
    assert served_while_bound == [None] * 4


def test_what_a_thread_serves_is_not_that_of_a_task_that_it_starts(bench: Callable[..., Bench]) -> None:
    """A service's thread may run the I/O loop while it waits, and so hand other requests to their services."""
    tenant: ContextVar[str] = ContextVar("tenant", default="none")

    async def it() -> str:
        return tenant.get()

    here = bench(it)
    assert here.result() == "none", "it is open"
    tenant.set("of the thread")
    assert here.result() == "none"


def test_bad_params_and_what_it_raises_end_as_for_every_service(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    async def it(how: str) -> int:
        await asyncio.sleep(0)
        raise {"exit": SystemExit("3"), "value": ValueError("of the test"), "own": asyncio.CancelledError()}[how]

    here = bench(it)
    fault = here.outcome(job([5])).fault
    assert fault is not None and fault.type == REFUSED and fault.text.startswith("invalid-params: 0: Input")
    for how, type in (("exit", "SystemExit"), ("value", "ValueError"), ("own", "CancelledError")):
        outcome = here.outcome(job([how]))
        assert outcome.fault is not None and (outcome.fault.type, outcome.result) == (type, JobResult.FAILED)
    assert "service test.it failed" in caplog.text


def test_a_caller_that_gives_up_cancels_the_task(bench: Callable[..., Bench]) -> None:
    seen: list[str] = []

    async def it() -> None:
        seen.append("began")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    here = bench(it, tasks=1)
    one, waiting = job(), job()
    assert here.service.put(one) and here.service.put(waiting)
    wait_until(lambda: seen == ["began"])
    dispatcher = Dispatcher.__new__(Dispatcher)
    dispatcher._running = {"waiting": waiting, "one": one}
    dispatcher.counters = type("C", (dict,), {"__missing__": lambda self, key: 0})()
    assert dispatcher.cancel("waiting") and dispatcher.cancel("one")
    outcome = here.outcome_of(one)
    assert seen == ["began", "cancelled"] and outcome.result is JobResult.FAILED
    assert outcome.fault is not None and outcome.fault.type == "CancelledError"
    assert outcome.fault.text == "its caller gave up while it ran, which cancelled it"
    assert here.outcome_of(waiting).result is JobResult.NOT_RUN and seen == ["began", "cancelled"]


def test_a_call_that_is_cancelled_before_it_begins_is_not_run(bench: Callable[..., Bench]) -> None:
    ran: list[bool] = []

    async def it() -> None:
        ran.append(True)

    here, one = bench(it), job()
    here.result()
    one.is_cancelled = True
    assert here.outcome(one).result is JobResult.NOT_RUN and len(ran) == 1


def test_a_task_begins_at_once_and_is_one_for_asyncio(bench: Callable[..., Bench]) -> None:
    seen: list[Any] = []

    async def it(seconds: float) -> bool:
        seen.append(asyncio.current_task())
        await asyncio.wait_for(asyncio.sleep(seconds), 60)  # under some versions it asks for the task that runs
        return asyncio.current_task() is seen[0] and seen[0] in asyncio.all_tasks()

    def begin(request: Job) -> None:
        here.service.put(request)
        here.loop._take_posted()
        seen.append("begun")

    here = bench(it)
    assert here.result([0.0]) is True
    for seconds in (0.0, 0.001):
        seen.clear()
        request = job([seconds])
        here.loop.call(begin, request)
        reply = here.outcome_of(request).reply or b""
        assert decode_json(decode_reply(reply, 100_000).message) is True
        assert isinstance(seen[0], asyncio.Task) and seen[1:] == ["begun"]
        assert seen[0].get_name() == "service test.it"


def test_the_leader_runs_what_waits_for_nothing_and_leaves_for_what_the_program_schedules() -> None:
    """asyncio's loop has its turn then alone."""
    scheduled: list[int] = []
    led: list[int] = []

    async def it(n: int) -> None:
        loop = asyncio.get_running_loop()
        if n == 2:
            loop.call_soon(scheduled.append, n)
        elif n == 3:
            loop.call_later(0.0, scheduled.append, n)

    def hand_over(outcome: Outcome, is_over: Callable[[], object], fd: int | None) -> None:
        here.outcomes.append(outcome)
        led.append(fd is not None)
        if fd is not None:
            assert here.loop.iterations is None, "it waits, as far as the watch is concerned"
        if following:
            assert here.service.put(following.pop(0)) and is_over()

    here = Bench(it)
    here.loop._hand_over = hand_over
    first, *following = requests = [job([n]) for n in range(6)]
    here.outcome(first)
    assert [here.outcome_of(each).result for each in requests] == [JobResult.DONE] * 6
    here.stop()
    assert scheduled == [2, 3]
    assert led == [True, True, False, False, True, True]


def test_a_deadline_cancels_the_task(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Any] = []
    began: list[bool] = []
    now = time.monotonic()

    async def it() -> None:
        began.append(True)
        await asyncio.Event().wait()

    def call_at(*timer: Any, **how: Any) -> Any:
        if how:  # asyncio's own
            return call_at_itself(*timer, **how)
        timers.append(timer)
        return Mock()

    def ends(one: Job, clock: float) -> None:
        monkeypatch.setattr(task_service, "time", SimpleNamespace(monotonic=lambda: clock))
        here.loop.call(timers[-1][1])
        outcome = here.outcome_of(one)
        assert outcome.fault is not None and outcome.result is JobResult.FAILED
        assert "deadline passed" in outcome.fault.text and outcome.reply is None, "its caller raises CallTimeout itself"

    here = bench(it)
    call_at_itself = here.loop.loop.call_at
    monkeypatch.setattr(here.loop.loop, "call_at", call_at)
    late, soon, never, later = [job(deadline=now + wait_s) for wait_s in (3000, 1000, 9000, 4000)]
    for each in (late, soon, never, later):
        here.service.put(each)
    wait_until(lambda: len(began) == 4)
    assert [at for at, _ in timers] == [now + 3000, now + 1000], "one timer, for the next deadline"
    ends(soon, now + 1001)
    wait_until(lambda: len(timers) == 3)
    assert timers[2][0] == now + 3000
    ends(late, now + 4500)
    assert here.outcome_of(later).result is JobResult.FAILED and len(here.outcomes) == 3
    here.service._unfinished.discard(never)


def test_a_task_that_goes_on_after_its_cancellation_answers(bench: Callable[..., Bench]) -> None:
    async def it() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "all the same"
        return ""

    here = bench(it)
    one = job()
    here.service.put(one)
    wait_until(lambda: here.loop.tasks == 1)
    one.is_cancelled = False
    here.loop.call(lambda: here.loop.loop.call_later(0.01, here.service._cancel, one, "the test"))
    assert here.outcome_of(one).result is JobResult.DONE


def test_what_has_not_begun_in_time_goes_elsewhere_and_the_rest_is_cancelled(bench: Callable[..., Bench]) -> None:
    seen: list[str] = []

    async def it() -> None:
        seen.append("began")
        try:
            await asyncio.sleep(3600)
        finally:
            seen.append("put in order")

    here = bench(it, tasks=1)
    one, waiting = job(), job()
    assert here.service.put(one) and here.service.put(waiting)
    wait_until(lambda: seen == ["began"])
    here.service.begin_stop()
    here.service.begin_no_more()
    fault = here.outcome_of(waiting).fault
    assert fault is not None and fault.type == STOPPING
    here.service.stop()
    wait_until(lambda: not here.service.is_running)
    assert seen == ["began", "put in order"] and len(here.outcomes) == 1, "the journal knows that it had begun"
    here.service._unfinished.discard(one)


def test_locks_hold_for_tasks(bench: Callable[..., Bench]) -> None:
    running: list[str] = []
    most: dict[str, int] = {}

    async def it(account: str) -> None:
        running.append(account)
        most[account] = max(most.get(account, 0), running.count(account))
        most["all"] = max(most.get("all", 0), len(running))
        await asyncio.sleep(0.01)
        running.remove(account)

    here = bench(it, lock="account", inbox=20)
    jobs = [job({"account": name}) for name in "aabbab"]
    assert all(here.service.put(each) for each in jobs)
    assert [here.outcome_of(each).result for each in jobs] == [JobResult.DONE] * 6
    assert (most["a"], most["b"], most["all"]) == (1, 1, 2)
    fault = here.outcome(job({"account": 5})).fault
    assert fault is not None and fault.text.startswith("invalid-params: account")


def test_a_message_is_tried_again_by_the_same_rules(bench: Callable[..., Bench]) -> None:
    async def it(text: str) -> None:
        raise ValueError(text)

    outcome = bench(it, kind=Kind.MESSAGE, retry=(1,)).outcome(job(["x"], Kind.MESSAGE))
    assert outcome.result is JobResult.FAILED and outcome.reply is None


ORDER: list[str] = []


async def open_pool() -> AsyncIterator[str]:
    ORDER.append(f"open in {threading.current_thread().name}")
    await asyncio.sleep(0)
    yield "pool"
    ORDER.append("close")


def plain() -> Iterator[int]:
    ORDER.append("plain")
    yield 5
    ORDER.append("plain over")


Pool = Annotated[str, Depends(open_pool, scope="worker")]


async def connection(pool: Pool, five: Annotated[int, Depends(plain)]) -> str:
    await asyncio.sleep(0)
    return f"{pool} {five}"


async def use(n: int, connection: Annotated[str, Depends(connection)], pool: Pool) -> str:
    return f"{n} {connection} {pool}"


def test_dependencies_are_opened_in_the_loop_and_closed_at_the_end() -> None:
    ORDER.clear()
    here = Bench(use)
    assert here.result([1]) == "1 pool 5 pool" and here.result([2]) == "2 pool 5 pool"
    here.stop()
    assert ["open in asyncio-test", *["plain", "plain over"] * 2, "close"] == ORDER


def test_what_blocks_the_loop_is_named_with_its_line(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def blocking() -> None:
        entered.set()
        go_on.wait(60)

    async def it() -> None:
        await asyncio.sleep(0)
        blocking()

    here = bench(it)
    with caplog.at_level(logging.WARNING):
        one = job()
        here.service.put(one)
        assert entered.wait(60)
        wait_until(lambda: "blocked for over 0.1 s" in caplog.text)
        go_on.set()
        here.outcome_of(one)
    assert "by service test.it, " in caplog.text and "threading.py" in caplog.text


def test_a_task_of_a_service_that_ends_the_interpreter_ends_nothing(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    kept: list[Any] = []

    async def it() -> int:
        kept.append(asyncio.create_task(leave()))
        await asyncio.sleep(0.01)
        return 1

    here = bench(it)
    assert [here.result(), here.result()] == [1, 1]
    assert [type(task.exception()) for task in kept] == [SystemExit, SystemExit]
    assert "raised in the loop; it goes on" in caplog.text


def test_options_that_do_not_go_with_the_form_are_refused() -> None:
    group = Services("test")

    @group.rpc
    async def it() -> None: ...

    def refused(problem: str, **how: Any) -> None:
        wrong = Services("test")
        wrong.rpc(**how)(it if "threads" in how else (lambda: None) if how.get("name") else it)
        (each,) = wrong
        with pytest.raises(ConfigurationError, match=problem):
            each.make()

    refused("threads is for def; say tasks", threads=2)
    refused("tasks must be a whole number from 1", tasks=0)
    refused("tasks is for async def; say threads", tasks=2, name="plain")

    plain = Services("test")

    @plain.rpc
    def take(pool: Annotated[int, Depends(it)]) -> None: ...

    (each,) = plain
    with pytest.raises(ConfigurationError, match="is async def, so the service has to be, too"):
        each.make()


def test_a_setup_that_raises_is_tried_again_and_what_came_is_answered_busy(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``Depends`` opens for the worker, a pool of connections for example."""
    opened: list[str] = []
    may_fail, may_go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(setup, "_FIRST_PAUSE_S", 0.01)

    async def pool() -> AsyncIterator[str]:
        opened.append("tried")
        while not may_fail.is_set():
            await asyncio.sleep(0.001)
        if not may_go_on.is_set():
            raise OSError("no database")
        yield "pool"

    async def it(its: Any) -> Any:
        return its

    it.__annotations__["its"] = Annotated[str, Depends(pool, scope="worker")]
    here = bench(it)
    early = job()
    assert here.service.put(early)
    may_fail.set()
    outcome = here.outcome_of(early)
    assert (outcome.result, outcome.fault and outcome.fault.type) == (JobResult.NOT_RUN, BUSY)
    wait_until(lambda: len(opened) > 2)
    assert "OSError: no database" in here.service.problem
    assert not here.service.put(job())
    may_go_on.set()
    wait_until(lambda: not here.service.problem)
    assert here.result() == "pool"


def test_a_job_that_is_put_again_is_run_once(bench: Callable[..., Bench]) -> None:
    ran: list[int] = []

    async def it() -> None:
        ran.append(1)

    here, once = bench(it), job()
    assert here.service.put(once)
    assert here.service.put_again(once)
    here.outcome_of(once)
    assert here.service.put_again(once)
    here.result()
    assert len(ran) == 2


def test_its_thread_is_of_use_elsewhere_after_the_last_request(bench: Callable[..., Bench]) -> None:
    gate, background = asyncio.Event(), list[asyncio.Task[None]]()

    async def it(wait: bool, busy: bool) -> None:
        if wait:
            await gate.wait()
        elif not busy:
            gate.set()
        if busy:
            background.append(asyncio.create_task(asyncio.sleep(0)))

    it_bench = bench(it)
    it_bench.outcome(job([False, True]))
    waiting, following = job([True, False]), job([False, False])
    assert it_bench.service.put(waiting)
    it_bench.outcome(following)
    it_bench.outcome_of(waiting)
    it_bench.outcome(job([False, False]))
    assert [fd is None for _, fd in it_bench.handed] == [True, True, False, False], "busy, another runs, idle, idle"


def test_a_loop_that_has_ended_takes_nothing_and_has_no_files() -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before, done = files(), list[int]()
    loop = ServiceLoop("asyncio-test", Mock())
    loop.add_user()
    for number in range(3):
        loop.call(done.append, number)
    wait_until(lambda: done == [0, 1, 2])
    loop.call(loop.remove_user)
    loop.thread.join(20)
    loop.call(done.append, 3)
    assert loop.loop.is_closed() and done == [0, 1, 2]
    loop._watch.thread.join(20)
    assert files() == before


def test_what_is_called_while_the_loop_wakes_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    read = os.eventfd_read

    def read_late(fd: int) -> int:
        if not done:
            loop.call(done.append, 1)
        return read(fd)

    monkeypatch.setattr("servicebus.runtime.service_loop.os.eventfd_read", read_late)
    loop = ServiceLoop("asyncio-test", Mock())
    loop.add_user()
    loop.call(done.append, 0)
    wait_until(lambda: done == [0, 1])
    loop.call(done.append, 2)
    wait_until(lambda: done == [0, 1, 2])
    loop.call(loop.remove_user)
    loop.thread.join(20)
