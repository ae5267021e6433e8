"""Outbox: queues whose messages expire while they are on their way to a broker."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus.client.future import Receipt, has_ended
from servicebus.client.outbox import Outbox
from servicebus.client.outbox_file import OutboxFile
from servicebus.client.request import MessageOptions, PendingRequest
from servicebus.client.request_errors import TooLargeForSome
from servicebus.errors import CallError, EnvelopeError, OutboxUnavailable
from servicebus.testing.outbox_writer import SynchronousWriter
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind


class Bench:
    """An outbox whose broker is the test, in virtual time."""

    def __init__(self, path: Path, time: VirtualTime):
        self.time = time
        self.on_way: list[PendingRequest] = []
        self.outbox = Outbox(
            OutboxFile(path, 100, 10_000),
            time.loop("engine"),
            lambda request, now: self.on_way.append(request),
            lambda node, now: True,
            30.0,
            self.encode,
        )

    def encode(self, request: PendingRequest) -> None:
        if request.params == b"9":
            raise EnvelopeError("oversized")
        request.body = b"<x/>"

    def request(self, number: int, lives_s: float) -> PendingRequest:
        expires_ms = int((time.time() + lives_s) * 1000)
        address = Address.parse("N.a.b")
        return PendingRequest(
            number,
            f"x-{number}",
            address,
            Kind.MESSAGE,
            b"%d" % number,
            timeout_s=30.0,
            options=MessageOptions(expires_ms=expires_ms),
        )

    def keep(self, number: int, lives_s: float) -> PendingRequest:
        request = self.request(number, lives_s)
        self.outbox.keep(request)
        self.iterate_until(partial(has_ended, request))
        return request

    def iterate_until(self, condition: Callable[[], Any]) -> None:
        until = self.time.now + 60
        self.time.settle()
        while not condition():
            assert self.time.now < until
            self.outbox.tick(self.time.now)
            self.time.advance(0.02)

    def close(self) -> None:
        closed: list[int] = []
        self.outbox.close(lambda: closed.append(1))
        self.iterate_until(lambda: closed)

    def purge(self) -> None:
        self.outbox._purge_at = 0.0
        self.outbox.tick(self.time.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    monkeypatch.setattr("servicebus.client.outbox.OutboxWriter", SynchronousWriter)
    with virtual_time(monkeypatch) as clock:
        yield clock


@pytest.fixture
def bench(tmp_path: Path, clock: VirtualTime) -> Iterator[Bench]:
    bench = Bench(tmp_path / "outbox", clock)
    yield bench
    bench.close()


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_line_that_expires_in_flight_sends_nothing_twice_and_lets_its_node_go(
    bench: Bench, is_confirmed: bool
) -> None:
    bench.keep(1, lives_s=0.3)
    bench.iterate_until(lambda: len(bench.on_way) == 1)
    bench.time.advance(0.35)
    bench.purge()
    bench.iterate_until(lambda: bench.outbox.status()["expired"] == 1)
    bench.keep(2, lives_s=60)  # while the confirm of the first is to come
    bench.iterate_until(lambda: bench.outbox.status()["stored"] == 2)
    if is_confirmed:
        bench.on_way[0].complete(Receipt(1, "mq-a"))
    else:
        bench.on_way[0].fail(CallError("N.a.b", "no confirm came"))
    bench.iterate_until(lambda: len(bench.on_way) == 2)
    bench.on_way[1].complete(Receipt(2, "mq-a"))
    bench.iterate_until(lambda: not bench.outbox.holds("N"))
    assert [request.id for request in bench.on_way] == ["x-1", "x-2"]
    status = bench.outbox.status()
    assert (status["messages"], status["delivered"], status["expired"]) == (0, 1, 1)


def test_a_line_that_expired_in_flight_and_failed_lets_its_node_go(bench: Bench) -> None:
    bench.keep(1, lives_s=0.3)
    bench.iterate_until(lambda: len(bench.on_way) == 1)
    bench.time.advance(0.35)
    bench.purge()
    bench.iterate_until(lambda: bench.outbox.status()["expired"] == 1)
    bench.on_way[0].fail(CallError("N.a.b", "no confirm came"))
    bench.iterate_until(lambda: not bench.outbox.holds("N"))
    assert len(bench.on_way) == 1


def test_what_no_broker_will_ever_take_goes_to_the_refused_and_holds_up_nothing(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2, 3):
        bench.keep(number, lives_s=600)
    bench.iterate_until(lambda: bench.on_way)
    bench.on_way[0].fail(EnvelopeError("oversized", "2000000 bytes, where mq-a takes 1000000"))
    for number in (2, 3):
        bench.iterate_until(lambda number=number: len(bench.on_way) >= number)  # type: ignore[misc]
        bench.on_way[number - 1].complete(Receipt(number, "mq-a"))
    bench.iterate_until(lambda: not bench.outbox.holds("N"))
    assert [request.id for request in bench.on_way] == ["x-1", "x-2", "x-3"]
    status = bench.outbox.status()
    assert (status["messages"], status["delivered"], status["set_aside"], status["bytes"]) == (0, 2, 1, 0)
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox")) as db:
        found = db.execute("SELECT wire_id, target, body, reason FROM refused").fetchall()
    assert found == [("x-1", "N.a.b", b"<x/>", "oversized: 2000000 bytes, where mq-a takes 1000000")]
    assert "no broker takes message x-1 to N: oversized" in caplog.text


def test_what_some_brokers_do_not_take_stays_until_all_have_said_no_and_holds_up_nothing(bench: Bench) -> None:
    for number in (1, 2):
        bench.keep(number, lives_s=600)
    some = TooLargeForSome("N.a.b", [("mq-a", "takes 1000000 bytes"), ("mq-b", "connection refused")])
    bench.iterate_until(lambda: bench.on_way)
    bench.on_way[0].fail(some)
    bench.iterate_until(lambda: len(bench.on_way) >= 2)
    bench.on_way[1].complete(Receipt(2, "mq-a"))
    bench.iterate_until(lambda: len(bench.on_way) >= 3)
    bench.on_way[2].fail(some)
    bench.iterate_until(lambda: len(bench.on_way) >= 4)
    assert [request.id for request in bench.on_way] == ["x-1", "x-2", "x-1", "x-1"]
    status = bench.outbox.status()
    assert (status["messages"], status["delivered"], status["set_aside"]) == (1, 1, 0)
    bench.on_way[3].complete(Receipt(1, "mq-b"))
    bench.iterate_until(lambda: not bench.outbox.holds("N"))
    assert bench.outbox.status()["delivered"] == 2


def test_tries_of_what_some_brokers_do_not_take_grow_rare(bench: Bench) -> None:
    bench.keep(1, lives_s=600)
    for count in (1, 2, 3):
        bench.iterate_until(lambda count=count: len(bench.on_way) >= count)  # type: ignore[misc]
        bench.on_way[-1].fail(TooLargeForSome("N.a.b", []))
    bench.iterate_until(lambda: bench.outbox._queues["N"].pause_s >= 2.0)
    assert len(bench.on_way) == 3


def test_a_message_without_a_version_is_kept_in_the_newest_or_fails(bench: Bench) -> None:
    """Of a Sender with ``compat``: which version its path speaks is not known while there is none."""
    assert bench.keep(1, 60.0).body == b"<x/>"
    with pytest.raises(EnvelopeError, match="oversized"):
        bench.keep(9, 60.0).wait()
    assert bench.outbox.status()["messages"] == 1


def test_what_is_being_stored_is_stored_once(bench: Bench) -> None:
    request = bench.request(1, 60.0)
    bench.outbox.keep(request)
    bench.outbox.keep(request)
    bench.iterate_until(partial(has_ended, request))
    assert bench.outbox.status()["messages"] == 1


def test_what_expires_behind_others_was_taken_all_the_same(bench: Bench) -> None:
    """No broker has refused it: there is no error that it could end with."""
    assert bench.keep(1, lives_s=-1.0).wait().in_outbox
    bench.iterate_until(lambda: bench.outbox.status()["expired"] == 1)


def test_after_a_failure_the_confirmed_are_removed_and_nothing_is_sent_before_the_pause(bench: Bench) -> None:
    for number in (1, 2, 3):
        bench.keep(number, lives_s=600)
    bench.iterate_until(lambda: bench.on_way)
    bench.on_way[0].complete(Receipt(1, "mq-a"))
    bench.iterate_until(lambda: len(bench.on_way) == 3)
    bench.on_way[1].complete(Receipt(2, "mq-a"))
    bench.on_way[2].fail(CallError("N.a.b", "no confirm came"))
    bench.iterate_until(lambda: bench.outbox.status()["delivered"] == 2)
    assert len(bench.on_way) == 3


def test_nothing_is_sent_after_the_end(tmp_path: Path, clock: VirtualTime) -> None:
    bench = Bench(tmp_path / "outbox", clock)
    request = bench.request(1, 60.0)
    bench.outbox.keep(request)
    bench.outbox.deliver(clock.now)  # its reading comes to an end when the outbox is closed
    bench.close()
    assert has_ended(request) and bench.on_way == []


def test_what_no_broker_takes_is_not_tried_again_on_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def full() -> Iterator[None]:
        raise OutboxUnavailable("outbox", "the disk is full")
        yield

    bench.keep(1, lives_s=600)
    bench.keep(2, lives_s=600)
    bench.iterate_until(lambda: bench.on_way)
    with monkeypatch.context() as broken:
        broken.setattr(bench.outbox._file, "transaction", full)
        bench.on_way[0].fail(EnvelopeError("oversized"))
        bench.iterate_until(lambda: len(bench.on_way) > 1)
        assert [request.id for request in bench.on_way] == ["x-1", "x-2"]
    bench.on_way[1].complete(Receipt(2, "mq-a"))
    bench.iterate_until(lambda: not bench.outbox.holds("N"))


def test_what_has_expired_is_looked_for_every_ten_seconds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.outbox, "_has_way", lambda _node, _now: False)
    bench.keep(1, lives_s=600)
    monkeypatch.setattr(bench.outbox._writer, "ask", Mock())
    began = bench.outbox._purge_at
    for second in range(30):
        bench.outbox.tick(began + second)
    assert bench.outbox._writer.ask.call_count == 3  # type: ignore[attr-defined]
