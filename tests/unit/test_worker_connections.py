"""NodeConsumer and what stands around it, on brokers in memory: from the first attempt to the drain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from virtual_bus import NODE, VirtualBus, virtual_bus
from virtual_worker import Echo, VirtualWorker

from servicebus.errors import EnvelopeError, NodeUnavailable, RemoteError, UnknownService
from servicebus.runtime.drain import Drain
from servicebus.runtime.service_thread import Service
from servicebus.runtime.subscriptions import WAITING_AGAIN_S
from servicebus.services import Retry
from servicebus.wire import headers
from servicebus.wire.address import drained_mark
from servicebus.wire.envelope import Kind

MARK_ARGUMENTS = {"x-max-length": 0}


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    with virtual_bus(monkeypatch, hosts=2, call_timeout=60.0) as bus:
        yield bus


@pytest.fixture
def worker(bus: VirtualBus) -> VirtualWorker:
    return VirtualWorker(bus).start()


def note(bus: VirtualBus, params: Any, **how: Any) -> Future[Any]:
    future = bus.sender.send_async(f"{NODE}.test.note", params, **{"timeout": 30.0, **how})
    bus.time.settle()
    return future


def declare(worker: VirtualWorker, name: str, arguments: dict[str, Any] | None = None, durable: bool = True) -> None:
    """As an operator does it."""
    broker: Any = worker.broker
    with broker.working_for(worker.loop):
        broker.declare_queue(
            name, None, durable=durable, exclusive=False, auto_delete=False, passive=False, arguments=arguments or {}
        )


# -- connecting ----------------------------------------------------------------------------------------------------


def test_it_declares_its_queues_and_consumes_them(worker: VirtualWorker) -> None:
    broker = worker.broker
    assert {name: len(queue.consumers) for name, queue in broker.queues.items() if name.startswith(NODE)} == {
        f"{NODE}.rpc": 1,
        f"{NODE}.control": 1,
        f"{NODE}.messages": 1,
        f"{NODE}.dead": 0,
        **{f"{NODE}.messages.delay.{tier}": 1 for tier in (1, 5, 30, 120, 600)},
    }
    assert broker.queues[f"{NODE}.rpc"].auto_delete and not broker.queues[f"{NODE}.messages"].auto_delete
    assert len(broker.sessions) == 2, "one consumes, one publishes"
    assert (worker.state, worker.error, worker.consumer.epoch) == ("consuming", "", 1)
    assert worker.consumer.is_whole and worker.consumer.consuming_since == worker.time.now


def test_calls_are_answered_and_messages_acknowledged(bus: VirtualBus, worker: VirtualWorker) -> None:
    assert bus.result(bus.call("hello")) == "hello"
    error = bus.error(bus.call("raises"))
    assert isinstance(error, RemoteError) and error.type == "ValueError"
    note(bus, "order").result()
    bus.time.advance(0.2)
    assert worker.note.seen == ["order"]
    assert worker.messages("messages") == [] and worker.pipeline.is_idle
    assert all(not channel._unacked for session in worker.broker.sessions for channel in session.channels)


def test_a_broker_that_is_down_is_tried_until_it_is_there_and_reported_once(
    bus: VirtualBus, caplog: pytest.LogCaptureFixture
) -> None:
    worker = VirtualWorker(bus)
    worker.broker.refuse("refused", "connection refused")
    worker.begin()
    assert worker.state == "backoff" and worker.error == "connection refused"
    bus.time.advance(20)
    assert worker.consumer.snapshot()["attempts"] > 10, "such an attempt costs nobody anything"
    assert sum("connection refused" in record.message for record in caplog.records) == 1
    worker.broker.accept()
    bus.time.advance(1.1)
    assert worker.state == "consuming"
    assert worker.consumer.snapshot()["attempts"] == 0


def test_a_lost_pair_is_opened_again_and_what_runs_meanwhile_is_answered_once(
    bus: VirtualBus, worker: VirtualWorker
) -> None:
    service = worker.hold()
    future = bus.call("slow")
    worker.broker.drop()
    bus.time.settle()
    assert worker.state == "backoff" and worker.consumer.consuming_since is None
    bus.time.advance(2)
    assert (worker.state, worker.consumer.epoch) == ("consuming", 3)
    service.let_go()
    assert bus.result(future) == "slow"
    bus.time.advance(1)
    assert worker.echo.seen == ["slow"], "it came again, and joined what ran"
    assert worker.pipeline.is_idle and worker.messages("rpc") == []


def test_when_one_of_the_two_is_lost_the_other_goes_too(worker: VirtualWorker) -> None:
    first, _ = worker.broker.sessions
    with worker.broker.lock:
        first.cut("reset")
    worker.time.settle()
    assert worker.broker.sessions == [] and worker.state == "backoff"
    worker.time.advance(2)
    assert len(worker.broker.sessions) == 2


def test_a_network_that_swallows_everything_is_found_by_the_echo(
    bus: VirtualBus, worker: VirtualWorker, caplog: pytest.LogCaptureFixture
) -> None:
    limit_s = bus.config.watcher_interval + bus.config.watcher_timeout
    bus.time.advance(10)
    worker.broker.freeze()
    bus.time.advance(limit_s - bus.config.watcher_interval)
    assert worker.state == "consuming"
    bus.time.advance(bus.config.watcher_interval + 0.5)
    assert worker.state != "consuming" and "no echo through the broker" in caplog.text
    assert worker.consumers("rpc") == 1, "the broker delivers to the dead connection still"
    worker.broker.thaw()
    bus.time.until(lambda: worker.state == "consuming")
    assert worker.consumers("rpc") == 1, "until it is told, before we consume beside it"
    assert bus.result(bus.call("after")) == "after"


def test_an_idle_worker_is_not_reconnected(worker: VirtualWorker) -> None:
    worker.time.advance(300)
    assert (worker.state, worker.consumer.epoch) == ("consuming", 1)


def test_under_an_alarm_it_waits_without_a_warning_and_goes_on_afterwards(
    bus: VirtualBus, worker: VirtualWorker
) -> None:
    worker.broker.block("low on memory")
    bus.time.advance(60)
    assert worker.consumer.blocked == "low on memory"
    assert worker.consumer.snapshot()["blocked"] == "low on memory"
    assert worker.consumer.epoch == 1
    worker.broker.unblock()
    bus.time.advance(1)
    assert worker.consumer.blocked is None
    bus.time.advance(60)
    assert worker.consumer.epoch == 1
    assert bus.result(bus.call("after")) == "after"


# -- topology ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["messages", "rpc", "control"])
def test_a_queue_that_was_deleted_is_there_again(bus: VirtualBus, worker: VirtualWorker, what: str) -> None:
    worker.broker.forget_queue(f"{NODE}.{what}")
    bus.time.advance(5)
    assert worker.consumers(what) == 1 and worker.state == "consuming"
    assert bus.result(bus.call("after")) == "after"


def test_bindings_that_were_deleted_are_there_again(bus: VirtualBus, worker: VirtualWorker) -> None:
    worker.broker._routes.bindings.clear()
    bus.time.advance(11)
    assert worker.consumer.epoch == 1
    assert bus.result(bus.call("after")) == "after"


def test_a_consumer_that_the_broker_has_forgotten_is_missed(worker: VirtualWorker) -> None:
    worker.broker.queues[f"{NODE}.messages"].consumers.clear()
    worker.time.advance(12)
    assert worker.consumers("messages") == 1 and worker.state == "consuming"


@pytest.mark.parametrize("lost_after_s", [0.1, 1.5, 3.0, 4.5, 5.5, 9.9])
def test_workers_whose_queue_the_cluster_has_lost_agree_on_another_one(bus: VirtualBus, lost_after_s: float) -> None:
    """A queue that is lost lives on; when its last consumer leaves it, the one that has its name is lost as well."""
    first, second = (VirtualWorker(bus, members=3).start() for _ in range(2))
    queues = first.broker.queues
    bus.time.advance(lost_after_s)
    del queues[f"{NODE}.rpc"]
    first.consumer.renew("of the test")
    bus.time.advance(0.1)
    assert (first.consumers("rpc"), first.state, second.state) == (1, "consuming", "consuming")
    began = bus.time.now
    bus.time.until(lambda: f"{NODE}.rpc~2" in queues and first.consumers("rpc~2") == 2)
    assert bus.time.now - began < 7, "two looks 5 and 6 s later, and one when it has consumed again"
    assert bus.result(bus.call("after")) == "after"


def test_a_queue_of_another_form_waits_and_the_others_are_served(
    bus: VirtualBus, caplog: pytest.LogCaptureFixture
) -> None:
    worker = VirtualWorker(bus)
    declare(worker, f"{NODE}.messages", {"x-max-length": 5})
    worker.start()
    assert not worker.consumer.is_whole
    assert "servicebus migrate-queue mq-a:5672" in worker.error
    assert bus.result(bus.call("served")) == "served"
    assert worker.consumers("messages") == 0
    worker.broker.forget_queue(f"{NODE}.messages")
    bus.time.advance(WAITING_AGAIN_S + 0.1)
    assert worker.consumer.is_whole and worker.consumers("messages") == 1
    assert worker.consumers("messages.delay.1") == 1


def test_the_queue_of_calls_is_left_behind_by_a_worker_that_is_gone_and_taken_over(bus: VirtualBus) -> None:
    first, second = VirtualWorker(bus).start(), VirtualWorker(bus).start()
    assert first.consumers("rpc") == 2
    assert first.control.calls_made_at is not None and second.control.calls_made_at is None, "others had made it"
    first.loop.post(lambda: first.consumer.close())
    bus.time.settle()
    assert second.consumers("rpc") == 1
    assert bus.result(bus.call("left")) == "left"


# -- messages that fail --------------------------------------------------------------------------------------------


def test_a_message_that_fails_is_tried_by_the_schedule_and_then_dead_lettered(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus, schedule=(1.0, 5.0)).start()
    worker.note.raises["bad"] = ValueError("it was bad")
    note(bus, "bad").result()
    bus.time.advance(0.9)
    assert len(worker.note.seen) == 1 and len(worker.messages("dead")) == 0
    bus.time.advance(0.7)
    assert len(worker.note.seen) == 2
    bus.time.advance(4)
    assert len(worker.note.seen) == 2
    bus.time.advance(2)
    assert len(worker.note.seen) == 3
    (letter,) = worker.messages("dead")
    marks = letter.properties[3]
    assert (marks[headers.REASON], marks[headers.DETAIL]) == ("ValueError", "it was bad")
    assert worker.messages("messages") == [] and worker.pipeline.is_idle


def test_a_delayed_message_is_run_when_it_is_due(bus: VirtualBus, worker: VirtualWorker) -> None:
    note(bus, "later", delay=7.5).result()
    bus.time.advance(7.4)
    assert worker.note.seen == []
    bus.time.advance(0.3)
    assert worker.note.seen == ["later"]


def test_a_message_that_asks_to_be_retried_comes_again(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus, schedule=(1.0,)).start()
    worker.note.raises["busy"] = Retry(after=2)
    note(bus, "busy").result()
    bus.time.advance(1.5)
    del worker.note.raises["busy"]
    assert worker.note.seen == ["busy"]
    bus.time.advance(1)
    assert worker.note.seen == ["busy", "busy"] and worker.messages("dead") == []


def test_a_copy_that_is_refused_keeps_its_original(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus).start()
    worker.broker.nacks.add(f"{NODE}.dead")
    worker.note.raises["bad"] = ValueError("bad")
    note(bus, "bad").result()
    bus.time.advance(3)
    assert "the broker refuses to store a message there" in worker.error
    assert worker.messages("dead") == [] and worker.messages("messages") == []
    worker.broker.nacks.clear()
    bus.time.advance(60)
    assert len(worker.messages("dead")) == 1
    assert worker.error == "" and worker.pipeline.is_idle


def test_a_dead_letter_is_acknowledged_only_when_it_is_stored(bus: VirtualBus, worker: VirtualWorker) -> None:
    note(bus, "fine").result()
    worker.note.raises["bad"] = ValueError("bad")
    worker.broker.holds_confirms = True
    note(bus, "bad")
    bus.time.advance(1)
    assert worker.note.seen == ["fine", "bad"]
    worker.broker.drop()
    worker.broker.holds_confirms = False
    bus.time.advance(30)
    assert len(worker.messages("dead")) >= 1, "lost is worse than twice"
    assert worker.messages("messages") == [] and worker.pipeline.is_idle


def test_a_reply_that_is_too_large_for_the_broker_is_told_as_such(bus: VirtualBus, worker: VirtualWorker) -> None:
    worker.broker.max_message_size = 200_000
    worker.echo.handle = lambda _request: "x" * 250_000  # type: ignore[method-assign, assignment]
    errors = [bus.error(bus.call(number)) for number in range(3)]
    assert all(isinstance(error, RemoteError) and "max_message_size" in str(error) for error in errors[1:])
    assert isinstance(errors[0], RemoteError | EnvelopeError)
    worker.echo.handle = lambda _request: "small"  # type: ignore[method-assign, assignment]
    assert bus.result(bus.call()) == "small"


# -- maintenance ---------------------------------------------------------------------------------------------------


def mark(worker: VirtualWorker) -> Callable[[], None]:
    name = drained_mark(worker.bus.config.exchange_name)
    declare(worker, name, MARK_ARGUMENTS)
    return lambda: worker.broker.forget_queue(name)


def test_a_marked_broker_is_left_without_losing_a_call(bus: VirtualBus, worker: VirtualWorker) -> None:
    other = VirtualWorker(bus, bus.brokers[1]).start()
    service = worker.hold()
    old = bus.call("old")
    unmark = mark(worker)
    bus.time.advance(2.5)
    assert worker.state == "leaving" and worker.error == ""
    assert bus.result(bus.call("new")) == "new" and other.echo.seen == ["new"]
    assert not old.done()
    bus.time.advance(10)
    assert worker.state == "leaving", "something is unfinished"
    service.let_go()
    assert bus.result(old) == "old"
    bus.time.advance(2)
    assert worker.state == "drained"
    assert f"{NODE}.rpc" not in worker.broker.queues and f"{NODE}.control" not in worker.broker.queues
    assert worker.consumers("messages") == 1, "what is stored there is finished all the same"
    unmark()
    bus.time.advance(3)
    assert worker.state == "consuming" and worker.consumers("rpc") == 1
    assert not worker.control.is_leaving


def test_a_drained_broker_that_goes_down_is_no_outage(
    bus: VirtualBus, worker: VirtualWorker, caplog: pytest.LogCaptureFixture
) -> None:
    mark(worker)
    bus.time.until(lambda: worker.state == "drained")
    caplog.clear()
    worker.broker.stop()
    bus.time.advance(10)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert (worker.state, worker.error) == ("drained", "")
    worker.broker.accept()
    bus.time.advance(3)
    assert worker.state == "drained", "the mark has outlived the restart"
    assert f"{NODE}.rpc" not in worker.broker.queues and worker.consumers("messages") == 1


def test_a_mark_that_is_removed_while_leaving_changes_nothing(bus: VirtualBus, worker: VirtualWorker) -> None:
    service = worker.hold()
    bus.call("old")
    unmark = mark(worker)
    bus.time.until(lambda: worker.state == "leaving")
    unmark()
    bus.time.advance(1)
    assert (worker.state, worker.consumer.epoch) == ("consuming", 1)
    service.let_go()
    bus.time.advance(1)
    assert bus.result(bus.call("again")) == "again"


def test_a_broker_that_does_not_say_whether_it_is_marked_is_consumed(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus)
    worker.broker.block("low on memory")
    worker.begin()
    bus.time.advance(0.9)
    assert worker.state == "connecting"
    bus.time.advance(0.3)
    assert worker.state == "consuming"


# -- the drain -----------------------------------------------------------------------------------------------------


def test_a_drain_finishes_what_was_accepted_and_closes_in_order(bus: VirtualBus, worker: VirtualWorker) -> None:
    service = worker.hold()
    future = bus.call("accepted")
    worker.loop.call_later(1.0, service.let_go)
    began = bus.time.now
    assert worker.drain()
    assert bus.result(future) == "accepted"
    assert 1.0 <= bus.time.now - began < 2.0
    assert worker.broker.sessions == bus_sessions(bus)
    assert worker.state == "closed" and worker.consumer.is_closed
    assert f"{NODE}.rpc" not in worker.broker.queues
    assert all(service.has_ended for service in worker.services)


def test_replies_are_routed_before_the_broker_learns_that_the_node_goes(bus: VirtualBus, worker: VirtualWorker) -> None:
    """The node's queues go with the other connection. A ping that comes back from there must not overtake a reply."""
    service = worker.hold()
    future = bus.call("accepted")
    publishes: Any = worker.consumer.connections.connections[0]
    publishes._up.may_take = lambda _item: False

    def go_on() -> None:
        publishes._up.may_take = lambda _item: True
        publishes._up.schedule()

    worker.loop.call_later(0.5, service.let_go)
    worker.loop.call_later(1.5, go_on)
    assert worker.drain()
    assert bus.result(future) == "accepted"


@pytest.mark.parametrize("fault", ["freeze", "stop", "block"])
def test_a_broker_that_routes_nothing_more_does_not_hold_a_drain_up(
    bus: VirtualBus, worker: VirtualWorker, fault: str
) -> None:
    worker.broker.block("memory") if fault == "block" else getattr(worker.broker, fault)()
    bus.time.advance(0.01)
    began = bus.time.now
    worker.drain(within_s=30.0)
    assert bus.time.now - began < 5.0


def bus_sessions(bus: VirtualBus) -> list[Any]:
    """Those of the Sender, on the first broker."""
    return [session for session in bus.brokers[0].sessions if "sender" in session.connection.label]


def test_an_idle_worker_is_drained_at_once(worker: VirtualWorker) -> None:
    began = worker.time.now
    assert worker.drain()
    assert worker.time.now - began < 0.5
    assert worker.broker.sessions == []


def test_a_drain_takes_no_new_message_and_hands_new_calls_on(bus: VirtualBus, worker: VirtualWorker) -> None:
    other = VirtualWorker(bus, bus.brokers[1]).start()
    service = worker.hold()
    old = bus.call("old")
    new: list[Future[Any]] = []

    def meanwhile() -> None:
        new.append(bus.sender.call_async(f"{NODE}.test.echo", "new", timeout=30))
        new.append(bus.sender.send_async(f"{NODE}.test.note", "kept", timeout=30))

    worker.loop.call_later(0.5, meanwhile)
    worker.loop.call_later(1.5, service.let_go)
    assert worker.drain()
    assert bus.result(old) == "old" and bus.result(new[0]) == "new"
    assert other.echo.seen == ["new"]
    assert worker.note.seen == [] and len(worker.messages("messages")) + len(other.note.seen) == 1


def test_a_drain_gives_up_at_its_limit(
    bus: VirtualBus, worker: VirtualWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.hold()
    bus.call("never")
    began = bus.time.now
    assert not worker.drain(within_s=3.0)
    assert 3.0 <= bus.time.now - began < 4.5
    assert "gave up waiting for: work finished" in caplog.text
    assert worker.consumer.is_closed


def test_what_was_not_begun_at_the_limit_of_a_drain_is_run_elsewhere(bus: VirtualBus, worker: VirtualWorker) -> None:
    """Begun in the last moment, it was cut off by the end of the process, and ran twice."""
    services = [worker.hold(), worker.hold(Kind.MESSAGE)]
    call = bus.call("called")
    for _ in range(3):
        bus.sender.send_async(f"{NODE}.test.note", "sent", timeout=30)
    bus.time.settle()
    other = VirtualWorker(bus, bus.brokers[1]).start()
    for service in services:
        worker.loop.call_later(3.05, service.let_go)
    assert worker.drain(within_s=3.0)
    assert worker.echo.seen == worker.note.seen == []
    assert bus.result(call) == "called"
    assert other.echo.seen == ["called"]
    assert len(worker.messages("messages.delay.1")) == 3


def test_a_drain_may_be_urged_to_be_quick(bus: VirtualBus, worker: VirtualWorker) -> None:
    worker.hold()
    bus.call("never")
    began = bus.time.now

    def pause(seconds: float) -> float | None:
        bus.time.advance(seconds)
        return 0.5 if bus.time.now - began > 1.0 else None

    assert not Drain(worker.loop, worker.consumer, worker.dispatcher, worker.services, 60.0, pause).run()
    assert bus.time.now - began < 3.0


def test_a_drain_without_a_connection_ends(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus)
    worker.broker.refuse()
    worker.begin()
    assert worker.drain()
    bus.time.settle()
    assert worker.state == "closed"
    before = worker.broker.connects
    bus.time.advance(60)
    assert worker.broker.connects == before


def test_while_another_worker_consumes_the_calls_one_leaves_them_at_once(bus: VirtualBus) -> None:
    first, second = VirtualWorker(bus).start(), VirtualWorker(bus).start()
    service = first.hold(Kind.CALL)
    second_service = second.hold(Kind.CALL)
    calls = [bus.call(number) for number in range(2)]
    first.loop.call_later(1.0, service.let_go)
    first.loop.call_later(0.2, lambda: calls.append(bus.sender.call_async(f"{NODE}.test.echo", 2, timeout=30)))
    assert first.drain()
    second_service.let_go()
    assert sorted(bus.result(call) for call in calls) == [0, 1, 2]
    assert first.dispatcher.counters["stopping"] == 0, "nothing was turned away"


def test_what_is_delivered_after_the_services_were_told_to_end_is_left_to_the_next_worker(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus).start()
    first = note(bus, "first")
    bus.time.until(first.done)
    # The order to deliver no more takes as long to the broker as the message to the worker.
    worker.broker.delay_s = 0.45
    future = note(bus, "late")
    bus.time.advance(0.3)
    assert worker.drain(within_s=0.3)
    assert worker.note.seen == ["first"] and not worker.journal.snapshot()["unfinished"]
    worker.broker.delay_s = 0.0
    bus.time.until(future.done)
    assert len(worker.messages("messages")) == 1


# -- calls that come again -----------------------------------------------------------------------------------------


def killed(worker: VirtualWorker) -> None:
    """What it has not acknowledged goes back, and it does not come again."""
    worker.consumer.close()
    worker.time.settle()


def test_a_call_that_was_said_not_to_run_is_not_run_when_it_comes_again(bus: VirtualBus, worker: VirtualWorker) -> None:
    """The answer was sent, its ack was not: the next worker ran the call whose caller knew that it had not run."""
    new = Echo()
    other = VirtualWorker(bus, more=[Service(Kind.CALL, "test", "new", new)]).start()
    worker.broker.loses_acks = True
    future = bus.sender.call_async(f"{NODE}.test.new", "called", timeout=30)
    assert isinstance(bus.error(future), UnknownService)
    killed(worker)
    bus.time.advance(5)
    assert new.seen == []
    assert other.dispatcher.counters["redelivered"] == 1
    other.broker.loses_acks = False
    assert bus.result(bus.sender.call_async(f"{NODE}.test.new", "another", timeout=30)) == "another"


def test_a_call_that_a_stopping_worker_refused_is_not_run_by_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with virtual_bus(monkeypatch, hosts=1) as bus:
        worker = VirtualWorker(bus).start()
        worker.broker.loses_acks = True
        worker.dispatcher.is_stopping = True
        assert isinstance(bus.error(bus.call("turned away")), NodeUnavailable)
        other = VirtualWorker(bus).start()
        killed(worker)
        bus.time.advance(5)
        assert other.echo.seen == []
        assert other.dispatcher.counters["redelivered"] == 1


def test_calls_that_waited_in_a_worker_that_dies_are_asked_for_again_and_run_once(
    bus: VirtualBus, worker: VirtualWorker
) -> None:
    """Whether their caller was told that they did not run, the next worker cannot know."""
    worker.hold()
    other = VirtualWorker(bus).start()
    calls = [bus.call(number) for number in range(12)]
    assert len(other.echo.seen) == 6, "the others wait"
    killed(worker)
    began = bus.time.now
    assert [bus.result(call) for call in calls] == list(range(12))
    assert bus.time.now - began < 0.2
    assert sorted(other.echo.seen) == list(range(12)) and worker.echo.seen == []
    assert other.dispatcher.counters["redelivered"] == 6


def test_messages_that_waited_in_a_worker_that_dies_are_run_by_the_next_one(
    bus: VirtualBus, worker: VirtualWorker
) -> None:
    worker.hold(Kind.MESSAGE)
    other = VirtualWorker(bus).start()
    for number in range(6):
        note(bus, number).result()
    assert len(other.note.seen) == 3
    killed(worker)
    assert sorted(other.note.seen) == list(range(6))
    assert other.dispatcher.counters["redelivered"] == 0
