"""Calls that are not run, and what their Senders are told so that they ask again."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest.mock import Mock

import pytest
from envelopes import held_protocol, node_protocol, signed

from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.job import Disposition, Job
from servicebus.runtime.journal import IdStatus, Lookup, MemoryJournal
from servicebus.runtime.not_run import full, not_now
from servicebus.runtime.registration import Service
from servicebus.transport.interface import Delivery
from servicebus.transport.loop import EventLoop
from servicebus.wire.envelope import CALL, MESSAGE, Kind
from servicebus.wire.xmlcodec import decode_reply

NEW, DIED = Lookup(IdStatus.NEW, None, 2, 0), Lookup(IdStatus.NEW, None, 2, 1)


def job(kind: Kind = CALL, *, is_patient: bool = False) -> Any:
    return Mock(incoming=Mock(kind=kind, is_patient=is_patient))


@pytest.mark.parametrize(
    ("asked", "known", "is_stopping", "fault"),
    [
        (job(), NEW, False, "busy"),
        (job(), NEW, True, "stopping"),
        (job(), DIED, False, None),
        (job(), DIED, True, "stopping"),
        (job(is_patient=True), NEW, False, None),
        (job(MESSAGE), NEW, True, None),
    ],
)
def test_a_call_that_is_delivered_again_is_asked_for_again(
    asked: Any, known: Lookup, is_stopping: bool, fault: str | None
) -> None:
    found = not_now(asked, known, is_stopping)
    assert (None if found is None else found.type) == fault
    assert fault != "busy" or (found is not None and found.retry_after_ms == 50)


@pytest.mark.parametrize(
    ("inbox", "text"),
    [
        (None, "the inbox of test.echo is full"),
        (Mock(problem="", elsewhere="", common_queue=None), "the inbox of test.echo is full"),
        (Mock(problem="setup() failed", elsewhere="", common_queue=None), "setup() failed"),
    ],
)
def test_a_service_that_takes_no_call_says_why(inbox: Any, text: str) -> None:
    call, counters = Mock(incoming=Mock(kind=CALL, is_patient=False, key="test.echo"), service=inbox), Counter[str]()
    call.on_full = None
    disposition = full(call, 0, counters)
    assert disposition is not None and disposition.copy is None and counters == {"busy": 1}
    found = call.protocol.encode_fault.call_args.args[1]
    assert (found.type, found.text) == ("busy", text)
    assert found.retry_after_ms is not None and (found.retry_after_ms > 50) is (text == "setup() failed")


# -- singletons --------------------------------------------------------------------------------------------------------

QUEUE = "NODE-01.rpc.for.test.one"


class Single:
    """The inbox of a singleton, in the worker that runs it or in another one."""

    problem, room = "", 1

    def __init__(self, *, is_held: bool, is_declared: bool = True, is_full: bool = False):
        self.service = Service(CALL, "test", "one", Mock())
        self.common_queue = QUEUE if is_declared else ""
        self.elsewhere = "" if is_held else self.common_queue
        self.takes = is_held and not is_full
        self.jobs: list[Job] = []

    def put(self, job: Job) -> bool:
        if self.takes:
            self.jobs.append(job)
        return self.takes

    def put_again(self, job: Job) -> bool:
        return job in self.jobs


class SingleWorker:
    """Decides about calls of a singleton."""

    def __init__(self, **how: bool):
        self.inbox = Single(**how)
        services: Any = {(CALL, "test.one"): self.inbox}
        self.dispatcher = Dispatcher(EventLoop("test"), services, MemoryJournal(), "mq-a:5672")
        self.given_back = Mock()

    def job(self, body: bytes, *, again: bool, is_held: bool = False) -> Job:
        """The job of a delivery from the node's queue, or of a copy from that of those who hold it."""
        delivery = Delivery(Mock(), 1, body, reply_to="reply", redelivered=again)
        protocol = held_protocol() if is_held else node_protocol()
        on_full = self.given_back if is_held else None
        job = self.dispatcher.validate(delivery, 1, protocol, CALL, on_full)
        assert isinstance(job, Job)
        return job

    def decide(self, body: bytes, *, again: bool, is_held: bool = False) -> Disposition | None:
        dispositions = self.dispatcher.decide([], [self.job(body, again=again, is_held=is_held)])
        return dispositions[0] if dispositions else None


def passed_on(disposition: Disposition | None) -> bool:
    """It is passed on, and its caller is told nothing."""
    if disposition is None or disposition.copy is None or disposition.reply is not None:
        return False
    return disposition.copy.queue == QUEUE


def told(disposition: Disposition | None, body: bytes) -> str:
    """The type of the fault that the caller is told."""
    assert disposition is not None and disposition.copy is None and disposition.reply is not None
    reply = decode_reply(disposition.reply, 10_000_000)
    assert reply.fault is not None
    return reply.fault.type


@pytest.mark.parametrize("is_stopping", [False, True], ids=["serving", "stopping"])
@pytest.mark.parametrize("is_held", [False, True], ids=["elsewhere", "here"])
def test_a_call_that_may_have_been_passed_on_follows_its_copy(is_held: bool, is_stopping: bool) -> None:
    worker, body = SingleWorker(is_held=is_held), signed("NODE-01.test.one")
    worker.dispatcher.is_stopping = is_stopping
    for _ in range(2):
        assert passed_on(worker.decide(body, again=True)), "not for us to say that it was not run"
    assert not worker.inbox.jobs and not worker.dispatcher.counters
    worker.dispatcher.is_stopping = False
    if is_held:
        assert worker.decide(body, again=False, is_held=True) is None and worker.inbox.jobs, "the journal lets it in"


def test_the_copy_of_a_copy_is_not_run_where_the_first_was_not() -> None:
    worker, body = SingleWorker(is_held=True), signed("NODE-01.test.one")
    assert told(worker.decide(body, again=True, is_held=True), body) == "busy"
    assert not worker.inbox.jobs
    first = signed("NODE-01.test.one")
    assert worker.decide(first, again=False, is_held=True) is None and len(worker.inbox.jobs) == 1
    assert worker.decide(first, again=True, is_held=True) is None, "it has joined the first"
    assert len(worker.inbox.jobs[0].pending()) == 2


def test_a_copy_waits_behind_the_first_one_while_that_is_held() -> None:
    worker, body = SingleWorker(is_held=True), signed("NODE-01.test.one")
    first = worker.job(body, again=False, is_held=True)
    worker.dispatcher.held.append(first)  # as long as the journal says that another worker has it
    assert worker.decide(body, again=True, is_held=True) is None
    held, worker.dispatcher.held = worker.dispatcher.held, []
    assert held[0] is first and len(held) == 2
    assert worker.dispatcher.decide([], held) == [] and worker.inbox.jobs == [first]
    assert first.pending() == held, "it has joined"


def test_what_cannot_be_passed_on_yet_waits_for_that() -> None:
    worker, body = SingleWorker(is_held=False, is_declared=False), signed("NODE-01.test.one")
    assert worker.decide(body, again=True) is None
    (held,) = worker.dispatcher.held
    worker.dispatcher.held.clear()
    assert worker.dispatcher.decide([], [held]) == [] and worker.dispatcher.held == [held]
    worker.dispatcher.held.clear()
    worker.dispatcher.is_stopping = True
    assert worker.dispatcher.decide([], [held]) == [] and not worker.dispatcher.held, "it goes with the connection"
    worker.dispatcher.is_stopping = False
    held.deadline = 0.0
    (over,) = worker.dispatcher.decide([], [held])
    assert (over.pending, over.reply, over.copy) == ([held], None, None)


def test_the_first_delivery_is_told_that_a_worker_stops() -> None:
    worker, body = SingleWorker(is_held=False), signed("NODE-01.test.one")
    worker.dispatcher.is_stopping = True
    assert told(worker.decide(body, again=False), body) == "stopping"


def test_what_was_passed_on_goes_back_where_it_does_not_run_any_more_and_is_told_busy_where_it_does() -> None:
    body = signed("NODE-01.test.one")
    former, full_one = SingleWorker(is_held=False), SingleWorker(is_held=True, is_full=True)
    assert former.decide(body, again=False, is_held=True) is None and former.given_back.called
    assert "busy" not in former.dispatcher.counters
    assert told(full_one.decide(body, again=False, is_held=True), body) == "busy"
    assert not full_one.given_back.called and full_one.dispatcher.counters["busy"] == 1


@pytest.mark.parametrize("kind", [CALL, MESSAGE])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_what_another_worker_runs_is_passed_on_to_it(kind: Kind, is_cancelled: bool) -> None:
    passed = Mock(incoming=Mock(kind=kind), service=Mock(elsewhere=QUEUE), is_cancelled=is_cancelled, on_full=None)
    counters = Counter[str]()
    found = full(passed, 2, counters)
    assert found is not None and found.pending == [passed] and found.reply is None and not counters
    assert (None if found.copy is None else (found.copy.queue, found.copy.attempts)) == (
        None if is_cancelled else (QUEUE, 2)
    )
