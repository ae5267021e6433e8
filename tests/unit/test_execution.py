"""What one execution makes of a job: verdicts, what the service is shown, and what it can say. No broker, no thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from envelopes import node_protocol, signed
from waiting import wait_until

import servicebus
from servicebus.runtime.execution import Execution
from servicebus.runtime.job import Job, JobResult, Outcome
from servicebus.runtime.node_locks import NodeLocks
from servicebus.runtime.registration import Service
from servicebus.runtime.service_thread import ServiceThread
from servicebus.services import MessageService, Reject, Request, Requeue, Retry, RpcService, current_request
from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import Fault
from servicebus.wire.xmlcodec import decode_json, decode_reply

REPLY_TO = "amq.rabbitmq.reply-to.g1h2"


def job(kind: Kind, params: Any = None, ttl_s: float = 30.0) -> Job:
    no: Any = None
    body = signed("NODE-01.test.it", params, kind=kind, ttl_s=ttl_s)
    delivery = Delivery(no, 1, body, reply_to=REPLY_TO if kind is Kind.CALL else None)
    protocol = node_protocol()
    incoming = protocol.decode_request(delivery)
    deadline = None if incoming.remaining_s is None else time.monotonic() + incoming.remaining_s
    return Job(delivery, 1, incoming.reply_to, incoming, protocol, deadline=deadline)


class Does(RpcService, MessageService):
    """Does what the test says, whatever comes."""

    def __init__(self, action: Callable[[Request], Any]):
        self.action = action

    def handle(self, request: Request) -> Any:
        return self.action(request)


def execution(action: Callable[[Request], Any], kind: Kind = Kind.CALL) -> Execution:
    service = Service(kind, "test", "it", Does(action))
    return Execution(service, lambda: None, with_traces=False)


def raising(error: BaseException) -> Callable[[Request], Any]:
    def action(request: Request) -> Any:
        raise error

    return action


def fault_of(outcome: Outcome) -> Fault:
    assert outcome.reply is not None
    fault = decode_reply(outcome.reply, 10_000).fault
    assert fault is not None
    return fault


class TestWhatAServiceSays:
    @pytest.mark.parametrize(
        ("error", "verdict", "kind", "text", "after_s"),
        [
            (Retry(), JobResult.RETRY, "Retry", "", None),
            (Retry(2.5, "the printer is out of paper"), JobResult.RETRY, "Retry", "the printer is out of paper", 2.5),
            (Reject("no such customer"), JobResult.REJECTED, "Reject", "no such customer", None),
            (Requeue("not mine"), JobResult.REQUEUE, "Requeue", "not mine", None),
            (ValueError("boom"), JobResult.FAILED, "ValueError", "boom", None),
        ],
    )
    def test_of_a_message_decides_its_result(
        self, error: Exception, verdict: JobResult, kind: str, text: str, after_s: float | None
    ) -> None:
        outcome = execution(raising(error), Kind.MESSAGE).run(job(Kind.MESSAGE))
        assert outcome.fault is not None
        assert (outcome.result, outcome.fault.type, outcome.fault.text) == (verdict, kind, text)
        assert outcome.retry_after_s == after_s
        assert outcome.reply is None

    @pytest.mark.parametrize(
        ("error", "attempt", "said"),
        [
            (ValueError("boom"), 1, "attempt 1; the next is in 1 s"),
            (ValueError("boom"), 2, "attempt 2; the next is in 30 s"),
            (ValueError("boom"), 3, "attempt 3; it goes to the dead letters"),
            (Retry(2.5), 1, "attempt 1; the next is in 2.5 s"),
            (Retry(2.5), 3, "attempt 3; it goes to the dead letters"),
            (Reject("no"), 1, "attempt 1; it goes to the dead letters"),
            (Requeue("no"), 9, "attempt 9; the next is in 1 s"),
        ],
    )
    def test_is_logged_with_the_attempt_and_when_the_next_one_is(
        self, error: Exception, attempt: int, said: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        service = Service(Kind.MESSAGE, "test", "it", Does(raising(error)))
        failed = job(Kind.MESSAGE)
        failed.attempts = attempt
        Execution(service, lambda: None, with_traces=False, retry_schedule=(1.0, 30.0)).run(failed)
        assert [said in record.getMessage() for record in caplog.records] == [True], caplog.text

    @pytest.mark.parametrize("verdict", [Reject, Requeue])
    def test_is_logged_as_one_printable_line(
        self, verdict: Callable[[str], Exception], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        execution(raising(verdict("no customer \x1b[2J\u202e\nforged")), Kind.MESSAGE).run(job(Kind.MESSAGE))
        (line,) = caplog.messages
        assert line.isprintable()
        assert "no customer \\x1b[2J\\u202e\\nforged" in line

    def test_of_a_message_keeps_what_it_was_raised_from(self) -> None:
        def action(request: Request) -> None:
            try:
                open("/nonexistent/file")  # noqa: PTH123, SIM115
            except OSError as error:
                raise Retry(5) from error

        outcome = execution(action, Kind.MESSAGE).run(job(Kind.MESSAGE))
        assert outcome.fault is not None
        assert "FileNotFoundError" in (outcome.fault.trace or "")

    @pytest.mark.parametrize(("after", "after_ms"), [(None, 1000), (0.25, 250), (0, 0)])
    def test_retry_of_a_call_is_busy_and_no_answer_for_good(self, after: float | None, after_ms: int) -> None:
        outcome = execution(raising(Retry(after, "warming up"))).run(job(Kind.CALL))
        fault = fault_of(outcome)
        assert (fault.type, fault.text, fault.retry_after_ms) == ("busy", "warming up", after_ms)
        assert outcome.result is JobResult.RETRY

    def test_reject_of_a_call_is_its_callers_error(self) -> None:
        outcome = execution(raising(Reject("no such customer"))).run(job(Kind.CALL))
        assert (fault_of(outcome).type, fault_of(outcome).text) == ("Reject", "no such customer")
        assert outcome.result is JobResult.REJECTED

    def test_requeue_of_a_call_is_a_mistake_of_the_service(self) -> None:
        outcome = execution(raising(Requeue())).run(job(Kind.CALL))
        assert (fault_of(outcome).type, outcome.result) == ("Requeue", JobResult.FAILED)

    def test_only_what_it_does_not_say_on_purpose_is_logged_as_a_failure(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            for error in (Retry(), Reject("no"), Requeue()):
                execution(raising(error), Kind.MESSAGE).run(job(Kind.MESSAGE))
            assert not caplog.records
            execution(raising(ValueError("boom")), Kind.MESSAGE).run(job(Kind.MESSAGE))
            assert "boom" in caplog.text

    @pytest.mark.parametrize("after", [-1, float("nan"), float("inf")])
    def test_a_time_that_is_none_is_refused(self, after: float) -> None:
        with pytest.raises(ValueError, match="after must be a number of seconds"):
            Retry(after)

    def test_the_words_can_be_had_from_the_package_itself(self) -> None:
        assert (servicebus.Retry, servicebus.Reject, servicebus.Requeue) == (Retry, Reject, Requeue)


async def _later() -> str:
    return "later"


class _Awaitable:
    def __await__(self) -> Any:
        yield


async def _many_later() -> Any:
    yield "later"


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE])
@pytest.mark.parametrize("make", [_later, _Awaitable, _many_later, lambda: (each for each in [1])])
def test_a_result_whose_code_has_not_run_fails_the_request(kind: Kind, make: Callable[[], Any]) -> None:
    """A function that was registered may still return what another one, ``async def`` or with ``yield``, made."""
    outcome = execution(lambda _request: make(), kind).run(job(kind))
    assert outcome.result is JobResult.FAILED
    assert outcome.fault is not None
    assert outcome.fault.type == "TypeError"
    assert "whose code has not run" in outcome.fault.text


class TestWhatAServiceIsShown:
    def test_it_can_ask_which_request_it_serves_for_as_long_as_it_does(self) -> None:
        found: list[Request | None] = []
        execution(lambda request: found.extend([current_request(), request])).run(job(Kind.CALL))
        assert found[0] is found[1] is not None
        assert current_request() is None
        execution(raising(ValueError())).run(job(Kind.CALL))
        assert current_request() is None

    def test_the_attempt_is_counted_from_one(self) -> None:
        found: list[int] = []
        third = job(Kind.MESSAGE)
        third.attempts = 3
        for each in (job(Kind.MESSAGE), third):
            execution(lambda request: found.append(request.attempts), Kind.MESSAGE).run(each)
        assert found == [1, 3]

    def test_it_sees_that_its_caller_gives_up(self) -> None:
        each = job(Kind.CALL)
        found: list[bool] = []

        def action(request: Request) -> None:
            found.append(request.cancelled)
            each.is_cancelled = True
            found.append(request.cancelled)

        assert execution(action).run(each).result is JobResult.DONE
        assert found == [False, True]

    def test_it_sees_that_its_callers_deadline_has_passed(self) -> None:
        each = job(Kind.CALL)

        def action(request: Request) -> list[bool]:
            before = request.cancelled
            each_request: Any = request
            each_request._deadline = time.monotonic() - 0.001
            return [before, request.cancelled]

        outcome = execution(action).run(each)
        assert outcome.reply is not None
        assert decode_json(decode_reply(outcome.reply, 10_000).message) == [False, True]

    def test_the_journal_is_told_before_the_service_runs_and_not_if_it_does_not(self) -> None:
        order: list[str] = []
        each = job(Kind.CALL)
        each.started = lambda: order.append("started")
        execution(lambda request: order.append("run")).run(each)
        late = job(Kind.CALL)
        late.started = lambda: order.append("late")
        late.deadline = time.monotonic() - 1
        execution(lambda request: order.append("late")).run(late)
        assert order == ["started", "run"]


class TestWhatIsNotRun:
    def test_a_call_that_was_cancelled_before_it_ran_gets_no_answer(self) -> None:
        each = job(Kind.CALL)
        each.is_cancelled = True
        outcome = execution(raising(AssertionError("was run"))).run(each)
        assert (outcome.result, outcome.reply) == (JobResult.NOT_RUN, None)
        assert outcome.fault is not None
        assert outcome.fault.type == "cancelled.not-run"

    def test_a_call_that_has_expired_is_told_so(self) -> None:
        each = job(Kind.CALL)
        each.deadline = time.monotonic() - 0.001
        outcome = execution(raising(AssertionError("was run"))).run(each)
        assert (outcome.result, fault_of(outcome).type) == (JobResult.NOT_RUN, "expired")


class TestLocks:
    """Through a ServiceThread, as the worker uses it."""

    def thread(
        self, instance: Any, kind: Kind = Kind.CALL, locks: NodeLocks | None = None, size: int = 100, **how: Any
    ) -> tuple[ServiceThread, list[Outcome]]:
        outcomes: list[Outcome] = []
        service = Service(kind, "test", "it", instance, **how)
        thread = ServiceThread(service, size, outcomes.append, lambda: None, with_traces=False, locks=locks)
        thread.start()
        return thread, outcomes

    @pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE])
    def test_without_a_key_a_call_is_told_and_a_message_fails_by_its_schedule(self, kind: Kind) -> None:
        thread, outcomes = self.thread(Does(lambda request: None), kind, lock="account")
        assert thread.put(job(kind, {"amount": 1}))
        outcome = wait_until(lambda: outcomes)[0]
        fault = outcome.fault
        assert fault is not None
        assert (outcome.result, fault.type) == (JobResult.FAILED, "LockError")
        assert fault.text == "no lock for service test.it: the params have no 'account'"
        assert (outcome.reply is None) == (kind is Kind.MESSAGE)
        thread.stop()
        assert thread.join(time.monotonic() + 10)

    def test_params_that_are_no_json_are_refused_as_ever(self) -> None:
        thread, outcomes = self.thread(Does(lambda request: None), lock="account")
        broken = job(Kind.CALL)
        object.__setattr__(broken.incoming, "raw_params", b"{")
        assert thread.put(broken)
        assert wait_until(lambda: outcomes)[0].result is JobResult.NOT_RUN
        thread.stop()
        assert thread.join(time.monotonic() + 10)

    def test_the_same_key_runs_one_at_a_time_and_others_beside_it(self) -> None:
        gate = threading.Event()
        running: list[str] = []

        def action(request: Request) -> str:
            running.append(request.params["account"])
            assert gate.wait(10)
            return "done"

        thread, outcomes = self.thread(Does(action), threads=4, lock="account")
        for account in ("A", "A", "B", "A", "C"):
            assert thread.put(job(Kind.CALL, {"account": account}))
        wait_until(lambda: len(running) == 3)
        assert sorted(running) == ["A", "B", "C"]
        assert thread.backlog == 5
        gate.set()
        wait_until(lambda: len(outcomes) == 5)
        assert sorted(running) == ["A", "A", "A", "B", "C"]
        assert thread.backlog == 0
        thread.stop()
        assert thread.join(time.monotonic() + 10)

    def test_those_that_wait_for_a_lock_fill_the_inbox(self, tmp_path: Any) -> None:
        locks, other = NodeLocks(tmp_path / "locks"), NodeLocks(tmp_path / "locks")
        thread, outcomes = self.thread(Does(lambda request: "done"), locks=locks, size=2, concurrency="node")
        lock = taken_by(other)
        assert thread.put(job(Kind.CALL))
        assert thread.put(job(Kind.CALL))
        assert not thread.put(job(Kind.CALL))
        other.release(lock)
        wait_until(lambda: len(outcomes) == 2)
        thread.stop()
        assert thread.join(time.monotonic() + 10)

    @pytest.mark.parametrize(
        ("kind", "verdict", "reply"),
        [(Kind.CALL, JobResult.NOT_RUN, "stopping"), (Kind.MESSAGE, JobResult.REQUEUE, None)],
    )
    def test_a_stop_sends_what_waits_for_another_process_elsewhere(
        self, tmp_path: Any, kind: Kind, verdict: JobResult, reply: str | None
    ) -> None:
        locks, other = NodeLocks(tmp_path / "locks"), NodeLocks(tmp_path / "locks")
        thread, outcomes = self.thread(Does(lambda request: "done"), kind, locks, concurrency="node")
        taken_by(other, kind)
        assert thread.put(job(kind))
        thread.begin_stop()
        outcome = wait_until(lambda: outcomes)[0]
        assert outcome.result is verdict
        if reply is not None:
            assert fault_of(outcome).type == reply
        assert thread.backlog == 0
        thread.stop()
        assert thread.join(time.monotonic() + 10)


def taken_by(locks: NodeLocks, kind: Kind = Kind.CALL) -> int:
    """Another worker of the node has the lock of the service."""
    from servicebus.runtime.lock_keys import lock_finder

    lock = lock_finder(Service(kind, "test", "it", None, concurrency="node"))(None)
    assert lock is not None
    assert locks.take(lock)
    return lock
