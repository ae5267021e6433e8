"""What a service does to the thread that runs it ends one request at most; a thread that dies is replaced."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from envelopes import node_protocol, signed
from waiting import wait_until

from servicebus.runtime import setup
from servicebus.runtime.job import Job, JobResult, Outcome
from servicebus.runtime.registration import register
from servicebus.runtime.service_thread import ServiceThread
from servicebus.services import MessageService, Reject, Request, Requeue, Retry, RpcService
from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import BUSY, INTERRUPTED, STOPPING, Fault
from servicebus.wire.xmlcodec import decode_json, decode_reply

KINDS = pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE])
LOCKED = pytest.mark.parametrize("lock", [None, "account"])


def job(kind: Kind = Kind.CALL, params: Any = None) -> Job:
    no: Any = None
    delivery = Delivery(no, 1, signed("NODE-01.test.it", params, kind=kind), reply_to="here")
    protocol = node_protocol()
    return Job(delivery, 1, "here", protocol.decode_request(delivery), protocol)


class Does(RpcService, MessageService):
    def __init__(self, action: Callable[[Request], Any]):
        self.action = action

    def handle(self, request: Request) -> Any:
        return self.action(request)


class Bench:
    """One service in its thread, and what becomes of its jobs."""

    def __init__(self, action: Callable[[Request], Any], kind: Kind = Kind.CALL, **options: Any):
        self.outcomes: list[Outcome] = []
        how = {name: options.pop(name) for name in ("recover", "hand_over") if name in options}
        service = register(kind, "test", "it", Does(action), **options)
        self.thread = ServiceThread(service, 8, self.outcomes.append, lambda: None, with_traces=True, **how)
        self.thread.start()

    def outcome(self, request: Job) -> Outcome:
        before = len(self.outcomes)
        assert self.thread.put(request)
        wait_until(lambda: len(self.outcomes) > before)
        wait_until(lambda: self.thread.backlog == 0)
        assert len(self.outcomes) == before + 1
        return self.outcomes[-1]

    def raise_in_thread(self, error: type[BaseException]) -> None:
        (runner,) = self.thread._runners
        ident = ctypes.c_ulong(runner.thread.ident or 0)
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(error)) == 1

    def close(self) -> None:
        self.thread.stop()
        wait_until(lambda: not self.thread.is_running)


def fault_of(outcome: Outcome) -> Fault:
    fault = outcome.fault if outcome.reply is None else decode_reply(outcome.reply, 100_000).fault
    assert fault is not None
    return fault


# -- exceptions from outside -------------------------------------------------------------------------------------------


@LOCKED
@pytest.mark.parametrize("error", [TimeoutError, SystemExit, KeyboardInterrupt])
def test_an_exception_that_comes_too_late_costs_no_request(lock: str | None, error: type[BaseException]) -> None:
    """As stopit and func_timeout raise it, when the request that it was meant for has just ended."""
    bench = Bench(lambda request: request.params["account"], lock=lock)
    for number in range(5):
        outcome = bench.outcome(job(params={"account": number}))
        assert outcome.result is JobResult.DONE
        assert outcome.reply is not None
        assert decode_json(decode_reply(outcome.reply, 10_000).message) == number
        bench.raise_in_thread(error)
    bench.close()
    assert bench.thread.mend() == 0


def test_one_that_comes_between_a_request_and_its_handing_over_costs_that_one_alone() -> None:
    handed: list[Outcome] = []

    def hand_over(outcome: Outcome, _has_job: Callable[[], bool]) -> None:
        handed.append(outcome)
        raise TimeoutError

    bench = Bench(lambda request: request.params, hand_over=hand_over)
    for number in range(3):
        bench.outcome(job(params=number))
    assert handed == bench.outcomes  # the pipeline takes the second of a job for what it is
    bench.close()


@KINDS
def test_what_has_not_begun_does_not_end_with_what_came_before_it(kind: Kind) -> None:
    """An exception may come between any two steps, as one request is let go of and the next one taken."""
    bench = Bench(lambda request: request.params["account"], kind)
    (runner,) = bench.thread._runners
    former, later = job(kind, {"account": 1}), job(kind, {"account": 2})
    ended = bench.outcome(former)
    bench.close()
    runner.held[:] = [later]
    bench.thread._settle(runner)
    assert (runner.held, bench.outcomes) == ([later], [ended])
    runner.begun = later
    bench.thread._settle(runner)
    assert runner.held == []
    assert [outcome.job for outcome in bench.outcomes] == [former, later]
    assert fault_of(bench.outcomes[-1]).type == INTERRUPTED


# -- a thread that dies ------------------------------------------------------------------------------------------------


@KINDS
@LOCKED
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_replaced_and_its_request_ends_as_interrupted(kind: Kind, lock: str | None) -> None:
    bench = Bench(lambda request: request.params["account"], kind, lock=lock)
    (runner,) = bench.thread._runners
    bench.outcome(job(kind, {"account": 1}))
    settle, bench.thread._settle = bench.thread._settle, dies  # type: ignore[method-assign, assignment]
    run, bench.thread._execution.run = bench.thread._execution.run, dies  # type: ignore[method-assign, assignment]
    run_task, bench.thread._execution.run_task = bench.thread._execution.run_task, dies  # type: ignore[method-assign, assignment]
    assert bench.thread.put(job(kind, {"account": 1}))
    wait_until(lambda: not runner.thread.is_alive())
    assert bench.thread.backlog == 1
    bench.thread._settle, bench.thread._execution.run = settle, run  # type: ignore[method-assign]
    bench.thread._execution.run_task = run_task  # type: ignore[method-assign]
    assert bench.thread.mend() == 1
    assert bench.thread.mend() == 0
    wait_until(lambda: bench.thread.backlog == 0)
    assert fault_of(bench.outcomes[-1]).type == INTERRUPTED
    assert bench.outcomes[-1].result is JobResult.FAILED
    assert bench.outcome(job(kind, {"account": 1})).result is JobResult.DONE  # its lock was let go
    bench.close()
    assert bench.thread.mend() == 0


def dies(*_: Any) -> Any:
    raise SystemExit


# -- what it raises and returns ----------------------------------------------------------------------------------------


class _Hostile:
    """Classes that raise where anything is asked of them; in here, so that pytest does not ask."""

    class BadText(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

        __repr__ = __str__

    class BadClass(Exception):
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise KeyboardInterrupt

    class BadNotes(Exception):
        @property
        def __notes__(self) -> Any:
            raise SystemExit(3)

    class Meta(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise SystemExit(3)

    class BadName(Exception, metaclass=Meta):
        pass

    class BadRetry(Retry):
        def __init__(self) -> None:
            """Knows nothing of *after* and *reason*."""

    class BadDel(Exception):
        def __del__(self) -> None:
            threading.stack_size()  # whatever it does, it must not raise here: pytest reports that

    class Deep(Exception):
        def __str__(self) -> str:
            return str(self)

    class BadReduce:
        def __reduce__(self) -> Any:
            raise SystemExit(3)


def deep(depth: int = 0) -> None:
    deep(depth + 1)


def raises(make: Callable[[], BaseException]) -> Callable[[Request], Any]:
    def action(_request: Request) -> Any:
        raise make()

    return action


ACTIONS: dict[str, Callable[[Request], Any]] = {
    "text": raises(_Hostile.BadText),
    "class": raises(_Hostile.BadClass),
    "notes": raises(_Hostile.BadNotes),
    "name": raises(_Hostile.BadName),
    "retry": raises(_Hostile.BadRetry),
    "reject": raises(lambda: Reject(object())),  # type: ignore[arg-type]
    "requeue": raises(lambda: Requeue(_Hostile.BadText())),  # type: ignore[arg-type]
    "del": raises(_Hostile.BadDel),
    "deep text": raises(_Hostile.Deep),
    "deep": lambda _request: deep(),
    "exit": raises(SystemExit),
    "interrupt": raises(KeyboardInterrupt),
    "generator": raises(GeneratorExit),
    "base": raises(BaseException),
}


@KINDS
@LOCKED
@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS.keys())
def test_whatever_it_raises_ends_its_request(action: Callable[[Request], Any], kind: Kind, lock: str | None) -> None:
    bench = Bench(action, kind, lock=lock)
    for _ in range(2):
        outcome = bench.outcome(job(kind, {"account": 1}))
        assert outcome.result is not JobResult.DONE
        assert fault_of(outcome).type
    bench.close()
    assert bench.thread.mend() == 0


@pytest.mark.parametrize(
    "make",
    [
        _Hostile.BadReduce,
        _Hostile.BadText,
        object,
        lambda: float("nan"),
        lambda: {1: _Hostile.BadText()},
    ],
)
def test_a_result_that_cannot_be_said_is_its_callers_error(make: Callable[[], Any]) -> None:
    bench = Bench(lambda _request: make())
    for _ in range(2):
        assert fault_of(bench.outcome(job())).type == "EnvelopeError"
    bench.close()


@LOCKED
@KINDS
def test_when_there_is_no_time_left_nothing_more_is_begun(kind: Kind, lock: str | None) -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    seen = []

    def action(request: Request) -> None:
        seen.append(request.params["account"])
        has_begun.set()
        may_end.wait()

    bench = Bench(action, kind, lock=lock)
    for account in (1, 1, 2):
        assert bench.thread.put(job(kind, {"account": account}))
    assert has_begun.wait(30)
    bench.thread.begin_no_more()
    may_end.set()
    wait_until(lambda: len(bench.outcomes) == 3)
    assert seen == [1]
    done, *rest = bench.outcomes
    assert done.result is JobResult.DONE
    for outcome in rest:
        assert outcome.result is (JobResult.NOT_RUN if kind is Kind.CALL else JobResult.REQUEUE)
        assert fault_of(outcome).type == STOPPING
    bench.close()


# -- params that cannot be read ----------------------------------------------------------------------------------------


@LOCKED
@KINDS
@pytest.mark.parametrize("error", [MemoryError, TimeoutError, SystemExit])
def test_params_whose_reading_raises_end_that_request_by_name_and_the_next_is_served(
    kind: Kind, lock: str | None, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks are looked for, the reader that raised was waited for by all the others, for ever."""
    bench = Bench(lambda request: request.params["account"], kind, lock=lock)
    with monkeypatch.context() as broken:
        broken.setattr(bench.thread._execution, "_read", Mock(side_effect=error("on purpose")))
        outcome = bench.outcome(job(kind, {"account": 1}))
    assert (fault_of(outcome).type, outcome.result) == ("refused", JobResult.NOT_RUN)
    assert (
        fault_of(outcome).text == f"defect: its params could not be read: {error.__name__} (its text may show a value)"
    )
    assert bench.outcome(job(kind, {"account": 2})).result is JobResult.DONE
    bench.close()


# -- setup() -----------------------------------------------------------------------------------------------------------


class Opens(Does):
    """Its ``setup()`` waits for the gate, and raises as often as it is told to."""

    def __init__(self, raises: list[BaseException]):
        super().__init__(lambda _request: 7)
        self.raises = raises
        self.gate = threading.Event()
        self.log: list[str] = []

    def setup(self) -> None:
        self.log.append("setup")
        assert self.gate.wait(60)
        if self.raises:
            raise self.raises.pop()

    def teardown(self) -> None:
        self.log.append("teardown")


class SetUp(Bench):
    def __init__(self, service: Any, kind: Kind = Kind.CALL, **options: Any):
        self.outcomes = []
        registered = register(kind, "test", "it", service, **options)
        self.thread = ServiceThread(registered, 8, self.outcomes.append, lambda: None, with_traces=True)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_FIRST_PAUSE_S", 0.0)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause before the next attempt, which may be any from 0 s, ends when the service stops."""
    monkeypatch.setattr(setup.Setup, "wait", lambda self, _seconds: not self._is_stopping.wait())


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("error", [OSError("no database"), SystemExit(3), KeyboardInterrupt()])
def test_a_setup_that_raises_is_tried_again_until_it_succeeds(error: BaseException) -> None:
    service = Opens([error] * 3)
    bench = SetUp(service)
    service.gate.set()
    bench.thread.start()
    wait_until(lambda: len(service.log) == 4 and not bench.thread.problem)
    assert bench.outcome(job()).result is JobResult.DONE
    bench.close()
    assert service.log == ["setup"] * 4 + ["teardown"]


@pytest.mark.usefixtures("once")
@KINDS
@LOCKED
def test_what_came_before_setup_failed_is_given_back_and_nothing_is_taken_after(kind: Kind, lock: Any) -> None:
    service = Opens([OSError("no database")])
    bench = SetUp(service, kind, lock=lock)
    bench.thread.start()
    assert all(bench.thread.put(job(kind, {"account": number})) for number in range(3))
    service.gate.set()
    wait_until(lambda: len(bench.outcomes) == 3)
    assert bench.thread.problem == "setup() of service test.it failed: OSError: no database"
    wait_until(lambda: (bench.thread.room, bench.thread.backlog) == (0, 0))  # an outcome leaves before its job does
    assert not bench.thread.put(job(kind))
    expected = JobResult.NOT_RUN if kind is Kind.CALL else JobResult.REQUEUE
    for outcome in bench.outcomes:
        assert (outcome.result, outcome.fault and outcome.fault.type) == (expected, BUSY)
    bench.close()
    assert service.log == ["setup"], "it was not set up, so there is nothing to tear down"


@pytest.mark.usefixtures("at_once")
def test_a_service_serves_while_one_of_its_threads_is_ready() -> None:
    class Second(Does):
        def __init__(self) -> None:
            super().__init__(lambda _request: 7)
            self.first = threading.Lock()
            self.failed = threading.Semaphore(0)

        def setup(self) -> None:
            if not self.first.acquire(blocking=False):
                self.failed.release()
                raise OSError("one connection is enough")

    service = Second()
    bench = SetUp(service, threads=2)
    bench.thread.start()
    for _ in range(3):
        assert service.failed.acquire(timeout=60)
    assert bench.thread.problem == ""
    assert bench.outcome(job()).result is JobResult.DONE
    bench.close()


def test_a_method_setup_that_is_none_of_ours_is_left_alone() -> None:
    class Old:
        def setup(self, request: Any) -> None:
            raise AssertionError

        def on_call(self, _request: Any, response: Any) -> None:
            response.send(7)

    bench = SetUp(Old())
    bench.thread.start()
    assert bench.outcome(job()).result is JobResult.DONE
    bench.close()
