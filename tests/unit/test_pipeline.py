"""What raises while one request is handled costs that one: Pipeline, Dispatcher, Publisher and real services."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import Mock

import pytest
from envelopes import SECRET, signed
from loops import turning
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import JournalUnavailable
from servicebus.policy.size_limit import SizeLimit
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.job import Disposition, Outcome, PendingDelivery, later_attempt
from servicebus.runtime.journal import MemoryJournal
from servicebus.runtime.pipeline import Pipeline
from servicebus.runtime.publisher import Publisher
from servicebus.runtime.service_thread import Service, ServiceThread
from servicebus.services import Request, Response, Retry
from servicebus.transport.frames import publish_frames, write_properties
from servicebus.transport.interface import Delivery
from servicebus.transport.sharedloop import SharedLoop
from servicebus.wire import headers
from servicebus.wire.envelope import Kind
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_json, decode_reply

CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": SECRET})
REPLY_TO = "amq.rabbitmq.reply-to.g1h2"
ODD = "odd"
EPOCH = 1


class Echo:
    def on_call(self, request: Request, response: Response) -> None:
        response.send(request.get_params())


class Decline:
    def on_call(self, request: Request, response: Response) -> None:
        raise Retry(after=0.5, reason="not now")


class Note:
    def on_message(self, request: Request) -> None:
        if request.get_params() == "later":
            raise Retry(after=5)
        if request.get_params() == ODD:
            raise ValueError("it is odd")


class Consuming:
    def __init__(self) -> None:
        self.acked: list[int] = []

    def ack(self, tag: int) -> None:
        self.acked.append(tag)


class Publishing:
    """The channel on which everything is published; confirms are said by the test."""

    is_open = True
    frame_max = 131072

    def __init__(self) -> None:
        self.replies: dict[str, bytes] = {}
        self.answered: list[str] = []
        self.copies: list[tuple[str, str | None, dict[str, Any]]] = []

    def publish(self, exchange: str, routing_key: str, body: bytes, *, mandatory: bool = True, **about: Any) -> int:
        properties = write_properties(**about)  # raises what it cannot encode
        publish_frames(1, exchange, routing_key, mandatory, *properties, body, self.frame_max)
        if about.get("persistent"):
            self.copies.append((routing_key, about["message_id"], about["headers"]))
            return len(self.copies)
        self.replies[about["correlation_id"]] = body
        self.answered.append(about["correlation_id"])
        return 0


class Connection:
    def __init__(self, channel: Publishing):
        self._channel = channel

    def open_channel(self, on_open: Callable[[Any], None], *_: Any, **told: Any) -> None:
        if "on_confirmed" in told:
            self.confirmed: Callable[[int, bool, bool], None] = told["on_confirmed"]
        on_open(self._channel)


class Worker:
    """What a worker is without its connections; everything is asked in its loop's thread."""

    def __init__(self, loop: SharedLoop, *, hands_over: bool = False):
        self.loop = loop
        services = [
            Service(Kind.CALL, "test", "echo", Echo()),
            Service(Kind.MESSAGE, "test", "note", Note()),
            Service(Kind.CALL, "test", "declines", Decline()),
        ]
        by_key: dict[Any, ServiceThread] = {}
        self.journal = MemoryJournal()
        self.dispatcher = Dispatcher(loop, by_key, self.journal, "mq-a:5672", (5.0,))
        self.pipeline = Pipeline(loop, self.dispatcher, "mq-a:5672", 64, lambda _error: None)
        self.threads = [
            ServiceThread(
                service,
                64,
                self.pipeline.post,
                lambda: None,
                with_traces=False,
                hand_over=self.pipeline.hand_over if hands_over else None,
                recover=self.pipeline.recover,
            )
            for service in services
        ]
        by_key.update({(thread.service.kind, thread.service.key): thread for thread in self.threads})
        self.protocol = ProtocolV2(CONFIG, Keyring(CONFIG.secrets))
        self.consuming, self.publishing = Consuming(), Publishing()
        counters = self.dispatcher.counters
        self.publisher = Publisher(CONFIG, "mq-a:5672", counters, loop.failures, SizeLimit(), lambda _error: None)
        self.connection = Connection(self.publishing)
        connection: Any = self.connection
        self.publisher.open(connection, lambda: None)
        self.pipeline.begin(EPOCH, self.publisher)
        for thread in self.threads:
            thread.start()

    def call(self, tag: int, body: bytes) -> None:
        channel: Any = self.consuming
        delivery = Delivery(channel, tag, body, str(tag), REPLY_TO, str(tag), None)
        self.loop.post(lambda: self.pipeline.take(delivery, EPOCH, self.protocol, Kind.CALL))

    def batch(self, params: list[Any], kind: Kind, marks: list[dict[str, Any] | None] | None = None) -> None:
        """Deliver so many requests in one turn of the loop; their tags count from 1."""
        channel: Any = self.consuming
        service = "echo" if kind is Kind.CALL else "note"
        deliveries = []
        for tag, value in enumerate(params, 1):
            body = signed(f"NODE-01.test.{service}", value, kind=kind)
            reply_to = REPLY_TO if kind is Kind.CALL else None
            given = marks[tag - 1] if marks is not None else None
            deliveries.append(Delivery(channel, tag, body, str(tag), reply_to, str(tag), given))

        def take() -> None:
            for delivery in deliveries:
                self.pipeline.take(delivery, EPOCH, self.protocol, kind)

        self.loop.post(take)

    def confirm(self) -> None:
        """The broker has stored everything so far."""
        self.loop.post(lambda: self.connection.confirmed(len(self.publishing.copies), True, True))

    def answer(self, tag: int) -> Any:
        """What the call with that tag was answered: its value, or its fault as ``(type, text)``."""
        reply = decode_reply(self.publishing.replies[str(tag)], 10_000_000)
        return decode_json(reply.message) if reply.fault is None else (reply.fault.type, reply.fault.text)

    def stop(self) -> None:
        for thread in self.threads:
            thread.stop()


@pytest.fixture
def worker() -> Iterator[Worker]:
    with turning(SharedLoop("test")) as loop:
        worker = Worker(loop)
        yield worker
        worker.stop()


@pytest.fixture
def leading_worker() -> Iterator[Worker]:
    """The threads of its services turn the loop while they have nothing else to do."""
    with turning(SharedLoop("test")) as loop:
        worker = Worker(loop, hands_over=True)
        yield worker
        worker.stop()


def raises_for(original: Callable[..., Any], is_odd: Callable[..., bool]) -> Callable[..., Any]:
    def wrapped(*args: Any, **named: Any) -> Any:
        if is_odd(*args, **named):
            raise OverflowError("int too large to convert")
        return original(*args, **named)

    return wrapped


def break_reading(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = raises_for(worker.protocol.decode_request, lambda delivery: delivery.tag == 3)
    monkeypatch.setattr(worker.protocol, "decode_request", odd)


def break_after_reading(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is known by then."""
    verified = worker.protocol._verified

    def odd(delivery: Delivery) -> Any:
        found = verified(delivery)
        if decode_json(found[0].params) == ODD:
            raise OverflowError("int too large to convert")
        return found

    monkeypatch.setattr(worker.protocol, "_verified", odd)


def break_signature(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = raises_for(Keyring.verify_envelope, lambda _keyring, envelope: decode_json(envelope.params) == ODD)
    monkeypatch.setattr(Keyring, "verify_envelope", odd)


def break_choice(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its service is looked for in vain."""

    class Services(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            raise_if_odd(seen.pop(0))
            return super().get(key, default)

    def read(delivery: Delivery) -> Any:
        incoming = whole(delivery)
        seen.append(incoming)
        return incoming

    raise_if_odd = raises_for(lambda _: None, lambda incoming: decode_json(incoming.raw_params) == ODD)
    whole, seen = worker.protocol.decode_request, list[Any]()
    monkeypatch.setattr(worker.protocol, "decode_request", read)
    validator = worker.dispatcher.validate.__self__  # type: ignore[attr-defined]
    monkeypatch.setattr(validator, "_services", Services(validator._services))


def break_params(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = raises_for(decode_json, lambda raw: raw == b'"odd"')
    for service in worker.threads:
        monkeypatch.setattr(service._execution, "_read", odd)


def break_journal(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot note one of the ids that it is asked for together."""
    ids: list[str] = []

    def is_odd(_ends: Any, starts: Any, _now: float) -> bool:
        if len(starts) == 5:
            ids.append(starts[2].id)
        return any(start.id in ids for start in starts)

    monkeypatch.setattr(worker.journal, "update", raises_for(worker.journal.update, is_odd))


def break_inbox(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    for thread in worker.threads:
        odd = raises_for(thread.put, lambda job: job.delivery.tag == 3)
        monkeypatch.setattr(thread, "put", odd)


def break_end(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = raises_for(Disposition, lambda *fields: len(fields) == 4 and fields[3].delivery.tag == 3)
    monkeypatch.setattr("servicebus.runtime.dispatcher.Disposition", odd)
    odd = raises_for(worker.dispatcher._count, lambda outcome: outcome.job.delivery.tag == 3)
    monkeypatch.setattr(worker.dispatcher, "_count", odd)


def break_reply(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = raises_for(worker.publishing.publish, lambda *_, correlation_id=None, **__: correlation_id == "3")
    monkeypatch.setattr(worker.publishing, "publish", odd)


Break = Callable[[Worker, pytest.MonkeyPatch], None]
DEFECT = ("refused", "defect: OverflowError: int too large to convert")
UNREAD = ("refused", "defect: it could not be read: OverflowError: int too large to convert")
BAD_PARAMS = ("refused", "defect: its params could not be read: OverflowError (its text may show a value)")


@pytest.mark.parametrize(
    ("breaks", "answer"),
    [
        pytest.param(break_reading, UNREAD, id="reading"),
        pytest.param(break_signature, None, id="signature: it is not known who asks"),
        pytest.param(break_after_reading, UNREAD, id="after reading"),
        pytest.param(break_choice, UNREAD, id="choice"),
        pytest.param(break_params, BAD_PARAMS, id="params"),
        pytest.param(break_journal, DEFECT, id="journal"),
        pytest.param(break_inbox, DEFECT, id="inbox"),
        pytest.param(break_end, ODD, id="end"),
        pytest.param(break_reply, None, id="reply"),
    ],
)
def test_what_raises_for_one_call_costs_that_call_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, breaks: Break, answer: Any
) -> None:
    breaks(worker, monkeypatch)
    worker.batch(["a", "b", ODD, "d", "e"], Kind.CALL)
    wait_until(lambda: len(worker.consuming.acked) == 5)
    assert sorted(worker.consuming.acked) == [1, 2, 3, 4, 5]
    assert [worker.answer(tag) for tag in (1, 2, 4, 5)] == ["a", "b", "d", "e"]
    assert (worker.answer(3) if "3" in worker.publishing.replies else None) == answer
    assert worker.loop.failures.count >= 1 or breaks is break_params, "in a thread of its service it is logged there"
    wait_until(lambda: worker.pipeline.is_idle)
    worker.batch(["again"], Kind.CALL)
    wait_until(lambda: len(worker.consuming.acked) == 6)
    assert worker.answer(1) == "again"


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE])
def test_what_a_service_hands_over_is_settled_by_whichever_thread_runs_the_loop(
    leading_worker: Worker, kind: Kind
) -> None:
    worker = leading_worker

    def acked(count: int) -> bool:
        return len(worker.consuming.acked) == count

    for count in range(1, 20):
        worker.batch(["a", "b", "c"] if count % 2 else ["a"], kind)
        tags = sum(3 if each % 2 else 1 for each in range(1, count + 1))
        wait_until(partial(acked, tags))
    assert worker.pipeline.counters[f"executed.{kind.value}"] == len(worker.consuming.acked)
    assert worker.loop._times_led > 0
    assert worker.loop.failures.count == 0
    wait_until(lambda: worker.pipeline.is_idle)


def test_what_raises_in_a_thread_that_leads_is_reported_and_its_call_answered(
    leading_worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = leading_worker
    worker.batch(["a"], Kind.CALL)
    wait_until(lambda: worker.consuming.acked == [1])
    flush, raised = worker.pipeline.flush, list[bool]()

    def broken() -> None:
        flush()
        if not raised:
            raised.append(True)
            raise OverflowError("int too large to convert")

    monkeypatch.setattr(worker.pipeline, "flush", broken)
    worker.batch(["b"], Kind.CALL)
    wait_until(lambda: worker.consuming.acked == [1, 1])
    worker.batch(["c"], Kind.CALL)
    wait_until(lambda: worker.consuming.acked == [1, 1, 1])
    assert worker.loop.failures.count == 1
    assert all(thread.is_running for thread in worker.threads)


def test_an_overflow_buffer_that_raises_costs_calls_nothing(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(worker.pipeline._overflow, "admit", raises_for(worker.pipeline._overflow.admit, lambda *_: True))
        worker.pipeline._has_messages = True
        worker.batch(["a", "b"], Kind.CALL)
        wait_until(lambda: len(worker.consuming.acked) == 2)
    assert [worker.answer(tag) for tag in (1, 2)] == ["a", "b"]
    assert worker.loop.failures.count == 1


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE])
def test_what_could_not_be_read_and_is_in_the_wrong_queue_is_not_answered(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """A signed refusal would tell the caller of a call that runs, and was copied here, that it did not run."""
    break_after_reading(worker, monkeypatch)
    body = signed(f"NODE-01.test.{'echo' if kind is Kind.CALL else 'note'}", ODD, kind=kind)
    channel: Any = worker.consuming
    lane = Kind.MESSAGE if kind is Kind.CALL else Kind.CALL
    delivery = Delivery(channel, 1, body, "1", REPLY_TO, "1", None)
    worker.loop.post(lambda: worker.pipeline.take(delivery, EPOCH, worker.protocol, lane))
    wait_until(lambda: worker.pipeline.counters["refused.defect"] == 1)
    if lane is Kind.MESSAGE:
        wait_until(lambda: worker.publishing.copies)
        worker.confirm()
    wait_until(lambda: worker.consuming.acked == [1])
    assert not worker.publishing.replies


def test_a_copy_whose_reply_raises_is_acked_once_like_those_beside_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ack too many closes the channel: it would cost all the others."""
    break_reply(worker, monkeypatch)
    channel: Any = worker.consuming
    pending = [
        PendingDelivery(Delivery(channel, tag, b"", str(tag), REPLY_TO), EPOCH, REPLY_TO) for tag in (1, 2, 3, 4)
    ]
    worker.loop.post(lambda: worker.pipeline.settle(Disposition(pending, b"reply")))
    wait_until(lambda: len(worker.consuming.acked) >= 4)
    assert worker.consuming.acked == [1, 2, 3, 4]
    assert sorted(worker.publishing.replies) == ["1", "2", "4"]


def break_retries(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    retries = worker.dispatcher._retries
    odd = raises_for(retries.disposition, lambda outcome, _schedule: outcome.job.delivery.tag == 3)
    monkeypatch.setattr(retries, "disposition", odd)


def break_copy(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_odd(original: Any, copy: Any) -> bool:
        return original.delivery.tag == 3 and not copy.reason

    monkeypatch.setattr(worker.publisher, "address_copy", raises_for(worker.publisher.address_copy, is_odd))


@pytest.mark.parametrize(
    ("breaks", "is_run"),
    [
        pytest.param(break_reading, False, id="reading"),
        pytest.param(break_journal, False, id="journal"),
        pytest.param(break_inbox, False, id="inbox"),
        pytest.param(break_end, True, id="end"),
        pytest.param(break_retries, True, id="retries"),
        pytest.param(break_copy, True, id="copy"),
    ],
)
def test_what_raises_for_one_message_costs_that_message_alone_and_it_is_dead_lettered(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, breaks: Break, is_run: bool
) -> None:
    breaks(worker, monkeypatch)
    worker.batch(["a", "later", ODD, "later", "e"], Kind.MESSAGE)
    wait_until(lambda: len(worker.publishing.copies) == 3)
    wait_until(lambda: sorted(worker.consuming.acked) == [1, 5], what="only what is done with is acked")
    worker.confirm()
    wait_until(lambda: sorted(worker.consuming.acked) == [1, 2, 3, 4, 5])
    (letter,) = [marks for queue, _, marks in worker.publishing.copies if queue == "NODE-01.dead"]
    assert letter[headers.REASON] == "defect"
    assert "int too large to convert" in letter[headers.DETAIL]
    _died_at, _first, attempts, *_ = letter[headers.DEAD_LETTER].split(" ")
    assert int(attempts) == int(is_run)
    wait_until(lambda: worker.pipeline.is_idle)


@pytest.mark.parametrize("name", [headers.WAIT, headers.REQUEUED, headers.DEAD_LETTER, "x-servicebus-attempts"])
@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 2**31, 0, -1, True, "7", None, 1e300, b"\xff"])
def test_no_number_in_a_header_that_nobody_signs_costs_anything(worker: Worker, name: str, value: Any) -> None:
    """Forged by a stranger who may publish: what fails with it is stored like any other."""
    worker.batch(["a", ODD, "c"], Kind.MESSAGE, [None, {name: value}, None])
    wait_until(lambda: worker.publishing.copies)
    worker.confirm()
    wait_until(lambda: sorted(worker.consuming.acked) == [1, 2, 3])
    assert worker.loop.failures.count == 0


def test_a_tick_that_raises_is_not_the_last(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[float] = []

    def tick(now: float) -> None:
        ticks.append(now)
        raise OverflowError("date value out of range")

    monkeypatch.setattr("servicebus.runtime.pipeline._IDLE_TICK_S", 0.01)
    monkeypatch.setattr(worker.journal, "tick", tick)
    worker.pipeline.start()
    wait_until(lambda: len(ticks) > 2)


@pytest.mark.parametrize("is_handed_over", [True, False])
def test_an_outcome_that_may_have_been_handed_over_before_is_taken_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, is_handed_over: bool
) -> None:
    """A thread that was interrupted does not know how far it came; it may not even have called for the loop."""
    call_thread = worker.threads[0]

    def interrupted(outcome: Outcome) -> None:
        if is_handed_over:
            worker.pipeline._posted.append(outcome)
        worker.pipeline._is_taking_posted = True
        raise TimeoutError

    monkeypatch.setattr(call_thread, "_post", interrupted)
    monkeypatch.setattr(call_thread, "_recover", worker.pipeline.recover)
    worker.batch(["a", "b", "c"], Kind.CALL)
    wait_until(lambda: len(worker.consuming.acked) == 3)
    assert [worker.answer(tag) for tag in (1, 2, 3)] == ["a", "b", "c"]
    assert worker.pipeline.counters["executed.call"] == 3
    assert worker.loop.failures.count == 0


def test_while_the_journal_cannot_be_told_messages_wait_and_callers_are_told_why(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(ends: Any, starts: Any, now: float) -> Any:
        raise JournalUnavailable("/var/lib/n.journal", "its file system is full: make room there")

    with monkeypatch.context() as full:
        full.setattr(worker.journal, "update", update)
        worker.batch(["call"], Kind.CALL)
        worker.batch(["message"], Kind.MESSAGE)
        wait_until(lambda: worker.consuming.acked == [1], what="only the call is answered")
        assert worker.answer(1) == ("busy", "journal /var/lib/n.journal: its file system is full: make room there")
        assert "make room there" in worker.pipeline.outage.reason
        assert not worker.dispatcher.unfinished
    wait_until(lambda: worker.consuming.acked == [1, 1], what="the message was held, and is run")
    wait_until(lambda: not worker.pipeline.outage.reason)
    worker.batch(["again"], Kind.CALL)
    wait_until(lambda: len(worker.consuming.acked) == 3)
    assert worker.answer(1) == "again"


def break_ends(worker: Worker, full: pytest.MonkeyPatch) -> None:
    """The journal has room for the begin of a request, and none for its end."""
    whole = worker.journal.update

    def update(ends: Any, starts: Any, now: float) -> Any:
        if ends:
            raise JournalUnavailable("/var/lib/n.journal", "its file system is full: make room there")
        return whole(ends, starts, now)

    full.setattr(worker.journal, "update", update)


def break_all(worker: Worker, full: pytest.MonkeyPatch) -> None:
    """The journal has room for the begin of one request, and for nothing after that."""
    whole = worker.journal.update
    asked: list[Any] = []

    def update(ends: Any, starts: Any, now: float) -> Any:
        if asked:
            raise JournalUnavailable("/var/lib/n.journal", "its file system is full: make room there")
        asked.append(starts)
        return whole(ends, starts, now)

    full.setattr(worker.journal, "update", update)


def test_a_reply_that_raises_while_the_journal_cannot_be_asked_costs_that_call_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was to be told that the disk is full."""
    with monkeypatch.context() as full:
        error = JournalUnavailable("/var/lib/n.journal", "its file system is full: make room there")
        full.setattr(worker.journal, "update", Mock(side_effect=error))
        odd = raises_for(worker.protocol.encode_fault, lambda incoming, _fault: incoming.raw_params == b'"odd"')
        full.setattr(worker.protocol, "encode_fault", odd)
        worker.batch(["a", ODD, "c"], Kind.CALL)
        wait_until(lambda: sorted(worker.consuming.acked) == [1, 3])
        assert [worker.answer(tag)[0] for tag in (1, 3)] == ["busy", "busy"]
    worker.batch(["again"], Kind.CALL)
    wait_until(lambda: len(worker.consuming.acked) == 3)
    assert worker.answer(1) == "again"


def test_a_call_whose_end_cannot_be_noted_is_answered_and_so_is_its_copy(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = signed("NODE-01.test.echo", "once")
    with monkeypatch.context() as full:
        break_ends(worker, full)
        worker.call(1, body)
        wait_until(lambda: worker.consuming.acked == [1])
        assert worker.answer(1) == "once"
        worker.call(2, body)
        wait_until(lambda: worker.consuming.acked == [1, 2])
        assert worker.answer(2) == "once"
        assert "make room there" in worker.pipeline.outage.reason
        assert worker.dispatcher.unfinished == 1, "its end is still to be noted"
    wait_until(lambda: worker.pipeline.is_idle)
    worker.call(3, body)
    wait_until(lambda: worker.consuming.acked == [1, 2, 3])
    assert worker.answer(3) == "once", "the journal has the answer"
    assert worker.publishing.answered == ["1", "2", "3"]
    assert worker.pipeline.counters["executed.call"] == 1


def test_what_a_service_declines_while_the_journal_cannot_be_told_is_declined_at_once_and_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = signed("NODE-01.test.declines")
    with monkeypatch.context() as full:
        break_all(worker, full)
        worker.call(1, body)
        wait_until(lambda: worker.consuming.acked == [1])
        assert worker.answer(1) == ("busy", "not now")
    wait_until(lambda: worker.pipeline.is_idle)
    worker.call(2, body)
    wait_until(lambda: worker.consuming.acked == [1, 2])
    assert worker.publishing.answered == ["1", "2"]


def test_a_message_whose_end_cannot_be_noted_is_not_acked_before_it_is(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        break_ends(worker, full)
        worker.batch(["message"], Kind.MESSAGE)
        wait_until(lambda: worker.pipeline.outage.reason)
        worker.batch(["call"], Kind.CALL)
        wait_until(lambda: worker.publishing.answered == ["1"])
        assert worker.pipeline.counters["executed.message"] == 0
    wait_until(lambda: worker.pipeline.is_idle)
    assert worker.consuming.acked == [1, 1]
    assert worker.pipeline.counters["executed.message"] == 1


# -- a late exception, of a time limit that a service has set for its own thread ---------------------------------------


class Interrupted(BaseException):
    """Of no class that our code expects."""


STEPS = ("pipeline", "dispatcher", "interrupted_batch", "copy_store", "retries", "service_thread", "job")


class Interruption:
    """Raises *error* in this thread before the line of ours that is the *number*th from now."""

    def __init__(self, number: int, error: type[BaseException]):
        self.left, self.error = number, error

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if Path(frame.f_code.co_filename).stem not in STEPS:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise self.error
        return self


class Batch:
    """Two calls, two messages and one that is to be tried again have ended; as many have come."""

    def __init__(self) -> None:
        self.loop = SharedLoop("test")
        self.worker = Worker(self.loop)
        self.pipeline = self.worker.pipeline
        loop: Any = self.loop
        loop.flush_later = loop.call_later = lambda *_: None
        self.come(1)
        self.pipeline.flush()
        wait_until(lambda: len(self.pipeline._posted) == 5)
        self.come(6)

    def come(self, first: int) -> None:
        channel: Any = self.worker.consuming
        asked = [("echo", 1), ("echo", 2), ("note", 3), ("note", "later"), ("note", 4)]
        for tag, (service, value) in enumerate(asked, first):
            kind = Kind.CALL if service == "echo" else Kind.MESSAGE
            body = signed(f"NODE-01.test.{service}", value, kind=kind)
            reply_to = REPLY_TO if kind is Kind.CALL else None
            delivery = Delivery(channel, tag, body, str(tag), reply_to, str(tag), None)
            self.pipeline.take(delivery, EPOCH, self.worker.protocol, kind)

    def interrupt(self, number: int, error: type[BaseException]) -> bool:
        """Whether there were so many lines."""
        interruption = Interruption(number, error)
        former = sys.gettrace()
        sys.settrace(interruption)
        try:
            self.pipeline.flush()
        except (Interrupted, TimeoutError):
            pass
        finally:
            sys.settrace(former)
        return interruption.left <= 0

    def go_on(self) -> None:
        def is_done() -> bool:
            self.pipeline._is_flushed_later = False
            self.pipeline.flush()
            return len(set(self.worker.publishing.answered)) == 4 and not self.worker.dispatcher.unfinished

        wait_until(is_done)
        stored = len(self.worker.publishing.copies)
        self.worker.connection.confirmed(stored, True, True)
        self.pipeline.flush()


@pytest.mark.parametrize("error", [Interrupted, TimeoutError])
def test_an_exception_that_comes_late_loses_nothing_of_a_batch_wherever_it_comes(error: type[BaseException]) -> None:
    number, is_over = 0, False
    while not is_over:
        number += 1
        batch = Batch()
        is_over = not batch.interrupt(number, error)
        batch.go_on()
        acked, worker = batch.worker.consuming.acked, batch.worker
        assert set(acked) | {4, 9} == set(range(1, 11)), f"line {number}: {acked}"
        assert {worker.answer(tag) for tag in (1, 6)} == {1}
        assert {worker.answer(tag) for tag in (2, 7)} == {2}
        worker.stop()
        worker.loop.close()
    assert number > 100


@pytest.mark.parametrize("error", [Interrupted, TimeoutError])
def test_a_copy_of_what_was_never_begun_is_stored_once_if_an_exception_comes_late(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing knows it by the id of its message."""
    batch = Batch()
    channel: Any = batch.worker.consuming
    body = signed("NODE-01.test.note", 1, kind=Kind.MESSAGE)
    pending = PendingDelivery(Delivery(channel, 99, body, None, None, "99", None), EPOCH, "")
    batch.pipeline._decided.append(Disposition([pending], None, later_attempt(0.5, 0, is_deferred=True)))
    store = batch.pipeline.copies.store

    def store_and_raise(disposition: Disposition) -> None:
        store(disposition)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(batch.pipeline.acknowledger, "_store", store_and_raise)
        with suppress(Interrupted):
            batch.pipeline.flush()
    batch.go_on()
    assert [id for _, id, _ in batch.worker.publishing.copies].count("99") == 1
    batch.worker.stop()
    batch.loop.close()
