"""Outbox and its writer: what no broker takes is kept, and delivered in order when one does; in virtual time."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from virtual_bus import NODE, VirtualBus, virtual_bus

from servicebus.errors import OutboxFull, SendUnconfirmed

TARGET = f"{NODE}.test.order"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
def open_bus(monkeypatch: pytest.MonkeyPatch, path: Path) -> Iterator[Callable[..., VirtualBus]]:
    """Make a bus whose Sender has the outbox; brokers refuse to begin with."""
    with ExitStack() as stack:

        def make(**settings: Any) -> VirtualBus:
            bus = stack.enter_context(virtual_bus(monkeypatch, outbox=path, **settings))
            for broker in bus.brokers:
                broker.refuse()
            return bus

        yield make


def box(bus: VirtualBus) -> dict[str, Any]:
    status: dict[str, Any] = bus.engine.status()["outbox"]
    return status


def keep(bus: VirtualBus, *params: str) -> None:
    """Send, with no broker there; done when all are in the outbox."""
    futures = [bus.send(each) for each in params]
    bus.time.until(lambda: all(future.done() for future in futures))
    assert all(future.result().in_outbox for future in futures)


def come_back(bus: VirtualBus, *brokers: int) -> None:
    for number in brokers or range(len(bus.brokers)):
        bus.brokers[number].accept()


def test_what_a_broker_takes_never_comes_near_the_disk(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    come_back(bus)
    node = bus.node()
    future = bus.send("order")
    bus.time.until(future.done)
    assert not future.result().in_outbox and future.result().confirmed_by == "mq-a:5672"
    assert box(bus)["stored"] == 0 and node.messages == ['"order"']


def test_without_a_broker_a_message_is_kept_after_the_wait_limit(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    began = bus.time.now
    future = bus.send("order")
    bus.time.advance(bus.config.path_wait - 0.1)
    assert not future.done()
    bus.time.until(future.done)
    assert future.result().in_outbox and future.result() == 1
    assert bus.time.now - began < bus.config.path_wait + 0.2
    assert (box(bus)["messages"], box(bus)["stored"]) == (1, 1)


def test_what_follows_stands_in_line_at_once(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    keep(bus, "first")
    future = bus.send("second")
    assert future.done() and future.result().in_outbox


def test_what_waits_for_the_same_node_is_kept_with_the_first(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    first = bus.send("first")
    bus.time.advance(1)
    second = bus.send("second")
    bus.time.until(first.done)
    assert second.done(), "or it would overtake the first"


def test_everything_is_delivered_in_order_when_a_broker_is_back(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    keep(bus, *[f"m{number}" for number in range(20)])
    come_back(bus, 1)
    node = bus.node(bus.brokers[1])
    bus.time.until(lambda: box(bus)["messages"] == 0)
    assert node.messages == [f'"m{number}"' for number in range(20)]
    assert box(bus)["delivered"] == 20
    future = bus.send("next")
    bus.time.until(future.done)
    assert not future.result().in_outbox, "nobody stands in line any more"


def test_the_first_after_a_failure_is_one_and_then_ever_more_up_to_a_limit(
    open_bus: Callable[..., VirtualBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servicebus.client.outbox._LARGEST_BATCH", 4)
    bus = open_bus()
    keep(bus, *[f"m{number}" for number in range(17)])
    taken: list[int] = []
    oldest = bus.engine._outbox._file.oldest  # type: ignore[union-attr]

    def count(node: str, limit: int, *more: Any) -> Any:
        found = oldest(node, limit, *more)
        taken.append(len(found))
        return found

    monkeypatch.setattr(bus.engine._outbox._file, "oldest", count)  # type: ignore[union-attr]
    come_back(bus)
    bus.node()
    bus.time.until(lambda: box(bus)["messages"] == 0)
    assert [count for count in taken if count] == [1, 2, 4, 4, 4, 2]


def test_a_line_that_fails_pauses_ever_longer_and_begins_with_one(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    keep(bus, "a", "b", "c")
    come_back(bus, 0)
    bus.node(bus.brokers[0])
    bus.brokers[0].nacks.add(f"{NODE}.messages")
    tries: list[float] = []
    publish = bus.links[0].publish

    def note(request: Any, now: float, **how: Any) -> None:
        tries.append(now)
        publish(request, now, **how)

    bus.links[0].publish = note  # type: ignore[method-assign]
    bus.time.advance(60)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert 8 <= len(tries) <= 40, "not by the hundred"
    assert max(pauses) <= 6.0 and pauses[-1] > 4.0
    assert box(bus)["messages"] == 3
    bus.brokers[0].nacks.clear()
    bus.time.until(lambda: box(bus)["messages"] == 0)


def test_lines_of_other_nodes_go_on(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    futures = [bus.sender.send_async(f"NODE-{number:02}.test.order", "x", timeout=30) for number in (1, 2)]
    bus.time.until(lambda: all(future.done() for future in futures))
    come_back(bus)
    node = bus.node()
    bus.time.until(lambda: box(bus)["messages"] == 1)
    assert node.messages == ['"x"'], "there is no queue for the other one"
    bus.time.advance(60)
    assert box(bus)["messages"] == 1


def test_what_was_left_by_an_earlier_process_is_delivered_by_itself(
    open_bus: Callable[..., VirtualBus], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    former = open_bus()
    keep(former, "left")
    former.close()
    former.time.settle()
    bus = open_bus()
    come_back(bus)
    node = bus.node()
    assert box(bus)["messages"] == 1
    bus.time.until(lambda: node.messages)
    bus.time.until(lambda: box(bus)["messages"] == 0)
    assert node.messages == ['"left"']


def test_the_end_keeps_what_no_broker_has_confirmed(open_bus: Callable[..., VirtualBus], path: Path) -> None:
    bus = open_bus()
    come_back(bus)
    bus.node()
    bus.brokers[0].holds_confirms = True
    future = bus.send("unconfirmed")
    assert not future.done()
    bus.close()
    bus.time.advance(2)
    assert future.result().in_outbox
    again = open_bus()
    assert box(again)["messages"] == 1


def test_what_was_asked_before_the_end_is_kept(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    engine = bus.engine
    bus.time.settle()
    future = bus.sender.send_async(TARGET, "last", timeout=30.0)
    engine._close(lambda: None)  # before the loop has taken the message
    bus.sender._session = None
    bus.time.advance(2)
    assert future.result().in_outbox


def test_what_has_expired_is_not_delivered_but_counted(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    future = bus.send("short", expires=10.0)
    keep(bus, "long")
    assert future.done()
    bus.time.advance(30)
    assert (box(bus)["expired"], box(bus)["messages"]) == (1, 1)
    come_back(bus)
    node = bus.node()
    bus.time.until(lambda: box(bus)["messages"] == 0)
    assert node.messages == ['"long"']


def test_what_has_expired_before_it_could_be_kept_fails(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    error = bus.error(bus.send("short", expires=1.0))
    assert error is not None
    assert (box(bus)["expired"], box(bus)["stored"]) == (1, 0)


def test_a_full_outbox_says_that_nothing_was_sent(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus(outbox_max_messages=1)
    keep(bus, "first")
    error = bus.error(bus.send("second"))
    assert isinstance(error, OutboxFull)
    assert (box(bus)["refused"], box(bus)["messages"]) == (1, 1)


def test_a_full_outbox_does_not_hide_that_a_message_may_have_been_stored(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus(outbox_max_messages=1)
    come_back(bus)
    bus.node()
    for broker in bus.brokers:
        broker.holds_confirms = True
    first, second = bus.send("a", timeout=3.0), bus.send("b", timeout=3.0)
    bus.time.until(lambda: first.done() and second.done())
    assert first.result().in_outbox
    error = second.exception()
    assert isinstance(error, SendUnconfirmed)
    assert isinstance(error.__cause__, OutboxFull)


def test_a_sender_that_owes_messages_knocks_although_nobody_waits(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    keep(bus, "owed")
    bus.time.advance(200)
    before = [broker.connects for broker in bus.brokers]
    bus.time.advance(60)
    assert all(now - then >= 10 for now, then in zip([b.connects for b in bus.brokers], before, strict=True))
    come_back(bus)
    node = bus.node()
    bus.time.until(lambda: box(bus)["messages"] == 0)
    assert node.messages == ['"owed"']


def test_a_dropped_sender_delivers_what_it_owes_and_lets_go_of_the_file(open_bus: Callable[..., VirtualBus]) -> None:
    bus = open_bus()
    keep(bus, "owed")
    links = bus.links
    del bus.sender
    gc.collect()
    bus.time.advance(60)
    come_back(bus)
    node = bus.node()
    bus.time.until(lambda: node.messages == ['"owed"'])
    bus.time.until(lambda: all(link.connections.is_gone for link in links))
    again = open_bus()
    keep(again, "by another")
    assert box(again)["messages"] == 1
