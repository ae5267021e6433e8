"""What a worker does about the streams of its services: chunks, credits, and what ends one. No broker, no thread."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from envelopes import node_protocol
from virtual_time import VirtualTime, virtual_time

from servicebus._draining import draining, draining_async
from servicebus.errors import EnvelopeError
from servicebus.protocol.interface import Incoming
from servicebus.runtime.around import DrainedService, as_registered, prepared
from servicebus.runtime.async_execution import AsyncExecution, AsyncStreamExecution
from servicebus.runtime.job import Job, JobResult, Outcome
from servicebus.runtime.registration import Service, register
from servicebus.runtime.stream_execution import ClassStreamExecution, StreamRuns, TextStreamExecution
from servicebus.runtime.streams import CALLER_SILENT_S, NodeStreams, StreamOutput, StreamOver
from servicebus.services import Request, Retry, RpcService
from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import CALL
from servicebus.wire.streams import Chunk, Credit, StreamTerms, decode_chunk, items_id
from servicebus.wire.xmlcodec import decode_reply

COUNT = itertools.count(1)
BYTES = 1 << 20


class Rig:
    """A NodeStreams, the publisher that it has now, and what that was given."""

    def __init__(self, time: VirtualTime) -> None:
        self.time, self.loop = time, time.loop("worker")
        self.chunks: list[Chunk] = []
        self.replies: list[Any] = []
        self.acked: list[int] = []
        self.holds: Any = None
        """Asked of each chunk: whether the broker's confirm is waited for."""
        self.held: list[Any] = []
        self.is_ending = False
        publisher: Any = SimpleNamespace(items=self._items, reply=self._reply)
        self.connections: Any = SimpleNamespace(epoch=1, publisher=publisher)
        own = "amq.gen-own"
        self.streams = NodeStreams(self.loop, self.connections, lambda: own, self._asked, "mq-a", 100_000)

    def job(self, items: int = 4, position: int | None = None, limit_s: float | None = None) -> Job:
        id, terms = f"0123456789abcdef-{next(COUNT)}", StreamTerms(items, BYTES, position)
        incoming = Incoming(
            id, CALL, "test", "it", "test.it", "token", "2", b"null", 0, 30.0, 1e12, "reply", id, stream=terms
        )
        channel: Any = SimpleNamespace(ack=self.acked.append)
        deadline = None if limit_s is None else self.time.now + limit_s
        return Job(
            Delivery(channel, 7, b"", reply_to="reply"), 1, "reply", incoming, node_protocol(), deadline=deadline
        )

    def open(self, **how: Any) -> StreamOutput:
        output = self.streams.open(self.job(**how), False)
        self.time.settle()
        return output

    def credit(self, output: StreamOutput, items: int, size: int = BYTES) -> None:
        self.streams.credited(Credit(output.job.incoming.given_id, items, size))
        self.time.settle()

    @property
    def sent(self) -> list[bytes]:
        return [chunk.items for chunk in self.chunks if chunk.count]

    @property
    def faults(self) -> list[str]:
        replies = [decode_reply(body, 10_000) for body in self.replies]
        return [reply.fault.type for reply in replies if reply.fault is not None]

    def _items(self, job: Job, id: str, body: bytes, on_answered: Any) -> bool:
        assert id == items_id(job.incoming.given_id)
        self.chunks.append(decode_chunk(body, 10**7))
        if self.holds is not None and self.holds(self.chunks[-1]):
            self.held.append(on_answered)
            return True
        return False

    def _asked(self) -> bool:
        return self.is_ending

    def _reply(self, _job: Job, body: bytes, _whose: Any = None) -> None:
        self.replies.append(body)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with virtual_time(monkeypatch) as time:
        yield Rig(time)


# -- NodeStreams -------------------------------------------------------------------------------------------------------


def test_a_stream_that_begins_says_so_and_its_delivery_is_done_with(rig: Rig) -> None:
    output = rig.open()
    (chunk,) = rig.chunks
    assert (chunk.first, chunk.count, chunk.queue, chunk.is_resumable) == (0, 0, "amq.gen-own", False)
    assert rig.acked == [7] and output.job.is_answered and output.job.pending() == []


def test_items_go_together_in_order_and_the_reply_behind_them(rig: Rig) -> None:
    output = rig.open(items=40)
    rig.time.advance(1)
    for number in range(25):
        assert output.put_now(b"%d" % number)
    output.end(b"the reply")
    rig.time.settle()
    numbers = list(range(25))
    expected = [str(numbers[start : start + 10]).replace(" ", "").encode() for start in (0, 10, 20)]
    assert rig.sent == expected, "a fourth of the credit in each"
    assert [chunk.first for chunk in rig.chunks[1:]] == [0, 10, 20]
    assert rig.replies == [b"the reply"] and len(rig.streams) == 0


def test_an_item_alone_does_not_wait_and_those_behind_it_do_for_a_moment(rig: Rig) -> None:
    output = rig.open(items=100)
    rig.time.advance(1)
    output.put_now(b"0")
    rig.time.settle()
    assert rig.sent == [b"[0]"]
    output.put_now(b"1")
    rig.time.settle()
    output.put_now(b"2")
    rig.time.settle()
    assert rig.sent == [b"[0]"]
    rig.time.advance(0.01)
    assert rig.sent == [b"[0]", b"[1,2]"]


def test_chunks_are_small(rig: Rig) -> None:
    output = rig.open(items=1000)
    rig.time.advance(1)
    for _ in range(5):
        output.put_now(b"9" * 20_000)
    rig.time.advance(1)
    assert [chunk.count for chunk in rig.chunks[1:]] == [1] * 5


def test_the_numbers_of_one_that_goes_on_begin_where_it_was(rig: Rig) -> None:
    output = rig.open(position=100)
    rig.time.advance(1)
    output.put_now(b"1")
    rig.time.settle()
    assert [chunk.first for chunk in rig.chunks] == [100, 100]
    assert output.first + output.count == 101


def test_what_puts_waits_for_credit(rig: Rig) -> None:
    output = rig.open(items=2)
    assert output.put_now(b"1") and not output.put_now(b"2")
    done = threading.Event()

    def put() -> None:
        output.put(b"3")
        done.set()

    thread = threading.Thread(target=put)
    thread.start()
    assert not done.wait(0.05)
    rig.credit(output, 2)
    assert not done.wait(0.05), "nothing new"
    rig.credit(output, 4)
    assert done.wait(10)
    thread.join()
    assert output.count == 3


def test_bytes_are_counted_too(rig: Rig) -> None:
    output = rig.open(items=100)
    output.limit_bytes = 10
    assert output.put_now(b"12345") and not output.put_now(b"1234")
    rig.credit(output, 100, 20)
    assert not output.is_exhausted


def test_credits_never_take_back(rig: Rig) -> None:
    output = rig.open(items=4)
    rig.credit(output, 9)
    rig.credit(output, 5)
    assert output.limit_items == 9
    rig.streams.credited(Credit("0123456789abcdef-0", 5, 5))  # of another worker's


def test_a_credit_is_answered_by_an_empty_chunk(rig: Rig) -> None:
    output = rig.open()
    rig.time.advance(2)
    rig.credit(output, 4)
    rig.credit(output, 4)
    assert [chunk.count for chunk in rig.chunks] == [0, 0]


@pytest.mark.parametrize("what", ["silence", "deadline", "stop", "cancel"])
def test_what_makes_it_over(rig: Rig, what: str) -> None:
    output = rig.open(limit_s=5.0 if what == "deadline" else None)
    if what == "silence":
        for _ in range(int(CALLER_SILENT_S)):
            rig.time.advance(2)
            rig.credit(output, 4)
        assert not output.over
        rig.time.advance(CALLER_SILENT_S + 2)
    elif what == "deadline":
        rig.time.advance(7)
    elif what == "stop":
        rig.streams.interrupt_all("the agent there is stopping")
    else:
        assert output.job.on_cancel is not None
        output.job.on_cancel(output.job)
    with pytest.raises(StreamOver, match=r"heard|deadline|stopping|takes no more"):
        output.put_now(b"1")
    assert rig.faults == ([] if what in ("cancel", "deadline") else ["interrupted"])
    output.end(b"the reply")
    rig.time.settle()
    assert len(rig.streams) == 0
    assert len(rig.replies) == (0 if what == "deadline" else 1), (
        "told once, or not at all: it raises CallTimeout itself"
    )


def test_what_waits_for_credit_is_woken_when_it_is_over(rig: Rig) -> None:
    raised: list[BaseException] = []

    def put() -> None:
        try:
            output.put(b"1")
        except StreamOver as over:
            raised.append(over)

    ends: list[Callable[[], None]] = [partial(rig.streams.interrupt_all, "stopping"), rig.streams.let_go]
    for end in ends:
        output = rig.open(items=1)
        thread = threading.Thread(target=put)
        thread.start()
        end()
        thread.join(10)
    assert len(raised) == 2


def test_lost_connections_end_it_without_a_word(rig: Rig) -> None:
    output = rig.open()
    rig.connections.publisher = rig.connections.epoch = None
    rig.streams.interrupt_all("the connection was lost")
    output.end(b"the reply")
    rig.time.settle()
    assert output.over and rig.replies == []


def test_one_that_begins_on_lost_connections_is_left_to_its_redelivery(rig: Rig) -> None:
    output = rig.streams.open(rig.job(), False)
    rig.connections.epoch = 2
    rig.time.settle()
    assert output.over and rig.acked == [] and not output.job.is_answered
    output.end(b"the reply")
    rig.time.settle()
    assert rig.replies == []


def test_behind_a_large_chunk_all_else_waits_for_the_brokers_word(rig: Rig) -> None:
    output = rig.open()
    rig.time.advance(1)
    rig.holds = lambda chunk: chunk.items == b"[1]"
    for number in (1, 2, 3):
        output.put_now(b"%d" % number)
    output.end(b"the reply")
    rig.time.settle()
    assert rig.sent == [b"[1]"] and rig.replies == []
    rig.held.pop()("")
    assert rig.sent == [b"[1]", b"[2]", b"[3]"] and rig.replies == [b"the reply"]


def test_a_chunk_that_the_broker_refuses_ends_it(rig: Rig) -> None:
    output = rig.open()
    rig.time.advance(1)
    rig.holds = lambda _chunk: True
    output.put_now(b"1")
    rig.time.settle()
    rig.held.pop()("too large")
    assert output.over == "mq-a refused an item: too large" and rig.faults == ["interrupted"]


def test_an_item_has_a_size(rig: Rig) -> None:
    with pytest.raises(EnvelopeError, match="oversized"):
        rig.open().put_now(b"1" * 100_000)


def test_a_task_waits_for_credit_without_its_thread(rig: Rig) -> None:
    output = rig.open(items=1)

    async def put() -> None:
        assert not output.put_now(b"1")
        asyncio.get_running_loop().call_later(0.01, rig.credit, output, 2)
        await output.ready()
        assert not output.put_now(b"2")
        asyncio.get_running_loop().call_later(0.01, rig.streams.interrupt_all, "stopping")
        with pytest.raises(StreamOver):
            await output.ready()

    with ThreadPoolExecutor(1) as pool:  # in this thread the clock stands still
        pool.submit(asyncio.run, put()).result(10)


# -- what runs generators ----------------------------------------------------------------------------------------------


class Yields(RpcService):
    """Yields 0, 1 and so on, and does what it was told behind the last one."""

    def __init__(self, count: int, error: BaseException | None = None, resumable: bool = False) -> None:
        self.count, self.error, self.resumable = count, error, resumable
        self.closed: list[int] = []

    def handle(self, request: Request) -> Iterator[int]:
        try:
            yield from range(request.position, self.count)
            if self.error is not None:
                raise self.error
        finally:
            self.closed.append(request.position)


def run(rig: Rig, instance: Yields, **how: Any) -> Outcome:
    service = prepared(register(CALL, "test", "it", instance, resumable=None), ())
    assert isinstance(service.instance, DrainedService) and as_registered(service.instance) is instance
    execution = ClassStreamExecution(service, lambda: None, with_traces=False)
    execution.streams = rig.streams
    outcome = execution.run(rig.job(**how))
    rig.time.settle()
    return outcome


def test_a_generator_is_run_to_its_end(rig: Rig) -> None:
    instance = Yields(3)
    outcome = run(rig, instance)
    assert outcome.result is JobResult.DONE and outcome.reply == rig.replies[0]
    assert decode_reply(rig.replies[0], 10_000).message == b'{"items":3}'
    assert b"".join(rig.sent) == b"[0][1][2]" and instance.closed == [0]


def test_its_error_is_behind_its_items(rig: Rig) -> None:
    outcome = run(rig, Yields(2, ValueError("broke")))
    assert outcome.result is JobResult.FAILED and outcome.is_final
    assert rig.sent and rig.faults == ["ValueError"]


@pytest.mark.parametrize("count", [0, 2])
def test_an_attempt_is_only_for_one_that_has_yielded_nothing(rig: Rig, count: int) -> None:
    outcome = run(rig, Yields(count, Retry(1.0, "not now")))
    assert rig.faults == (["Retry"] if count else ["busy"])
    assert outcome.is_final is bool(count)


def test_one_that_cannot_go_on_is_not_run(rig: Rig) -> None:
    instance = Yields(3)
    outcome = run(rig, instance, position=1)
    assert outcome.result is JobResult.NOT_RUN and outcome.fault is not None
    assert outcome.fault.text.startswith("not-resumable: ") and instance.closed == [] and rig.chunks == []
    assert run(rig, Yields(3, resumable=True), position=1).result is JobResult.DONE
    assert rig.sent == [b"[1]", b"[2]"]


def test_one_that_has_not_begun_when_the_worker_stops_is_given_back(rig: Rig) -> None:
    instance = Yields(3)
    rig.is_ending = True
    outcome = run(rig, instance)
    assert outcome.result is JobResult.NOT_RUN and outcome.fault is not None and outcome.fault.type == "stopping"
    assert instance.closed == [] and rig.chunks == []
    assert rig.open().over, "begun a moment before"
    assert rig.faults == ["interrupted"]


def test_one_whose_connections_are_lost_before_it_begins_is_given_back(rig: Rig) -> None:
    instance = Yields(3)
    rig.connections.epoch = 2
    assert run(rig, instance).result is JobResult.NOT_RUN and instance.closed == []


def test_one_whose_caller_has_gone_is_closed(rig: Rig) -> None:
    instance, job = Yields(3), rig.job()
    service = prepared(register(CALL, "test", "it", instance, resumable=None), ())
    execution: StreamRuns = ClassStreamExecution(service, lambda: None, with_traces=False)
    execution.streams = rig.streams
    job.started = lambda: job.on_cancel(job) if job.on_cancel is not None else None
    outcome = execution.run(job)
    assert outcome.fault is not None and outcome.fault.type == "interrupted" and instance.closed == [0]


def test_each_form_has_its_execution() -> None:
    assert issubclass(TextStreamExecution, StreamRuns) and issubclass(AsyncStreamExecution, StreamRuns)
    assert issubclass(AsyncStreamExecution, AsyncExecution)
    assert Service(CALL, "test", "it", Yields(1)).stream_method == ""
    assert callable(draining) and callable(draining_async)
