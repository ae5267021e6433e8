"""Progress: only what stands between a question and its answer counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus.policy.liveness import PingAction, PingClock
from servicebus.runtime.echo_progress import EchoProgress
from servicebus.transport.progress import Progress


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as made:
        yield made


class Connection:
    def __init__(self) -> None:
        self.bytes_received = self.bytes_written = self.bytes_acknowledged = 0


class Link:
    def __init__(self) -> None:
        self.connection = Connection()
        self.asked: list[Callable[[], None]] = []
        self.progress = Progress(self.connection, self.asked.append)


def test_what_was_written_before_the_question_counts_as_it_arrives() -> None:
    link = Link()
    link.connection.bytes_written = 1000
    link.progress.begin()
    assert not link.progress.has_moved()
    for acknowledged in (10, 1000):
        link.connection.bytes_acknowledged = acknowledged
        assert link.progress.has_moved()
        assert not link.progress.has_moved()


def test_what_is_written_after_the_question_proves_nothing() -> None:
    """The kernel of a frozen broker takes it."""
    link = Link()
    link.connection.bytes_written = link.connection.bytes_acknowledged = 1000
    link.progress.begin()
    link.connection.bytes_written = link.connection.bytes_acknowledged = 5000
    assert not link.progress.has_moved()


def test_what_comes_before_the_answer_counts_and_nothing_after_it() -> None:
    link = Link()
    link.progress.begin()
    link.connection.bytes_received = 1
    assert link.progress.has_moved()
    link.asked.pop()()
    link.connection.bytes_received = 2
    assert not link.progress.has_moved()


def test_a_second_question_waits_for_the_answer_to_the_first() -> None:
    link = Link()
    link.progress.begin()
    link.connection.bytes_written = 500
    link.progress.begin()
    link.connection.bytes_acknowledged = 400
    assert len(link.asked) == 1
    assert link.progress.has_moved()
    link.asked.pop()()
    assert len(link.asked) == 1, "asked again, for what was written since"
    link.connection.bytes_received = 1
    assert link.progress.has_moved()
    link.asked.pop()()
    assert not link.asked


@pytest.mark.parametrize(("rate", "is_slow"), [(500_000, True), (100_000, True), (20_000, False)])
def test_only_a_link_that_is_full_may_keep_the_answer_for_long(clock: VirtualTime, rate: int, is_slow: bool) -> None:
    """A trickle leaves room for it: what we write is swallowed, and the broker still has a few deliveries for us."""
    link = Link()
    link.progress.begin()
    moved: list[bool] = []
    for _ in range(20):
        clock.advance(0.25)
        link.connection.bytes_received += rate // 4
        link.connection.bytes_written += 1000
        link.connection.bytes_acknowledged += 1000
        moved.append(link.progress.has_moved())
        link.progress.begin()
    assert all(moved[:7]), "it may be far away"
    assert all(moved[8:]) if is_slow else not any(moved[8:])


def test_a_full_link_that_stands_still_has_not_moved(clock: VirtualTime) -> None:
    link = Link()
    link.progress.begin()
    link.connection.bytes_received += 1_000_000
    assert link.progress.has_moved()
    clock.advance(0.25)
    assert not link.progress.has_moved()


def test_the_time_to_answer_runs_from_the_last_byte_that_moved() -> None:
    clock = PingClock(0.5, 1.5, 0.0)
    clock.moved(0.2)
    assert clock.action(0.6, 0.0) is PingAction.PING, "nothing is asked yet: nothing is put off"
    clock.pinged(0.6)
    clock.moved(2.0)
    assert clock.action(3.4, 0.0) is PingAction.QUIET
    assert clock.action(3.5, 0.0) is PingAction.DEAD


class Broker(Connection):
    """Answers at once, or owes the answer; its bytes move at each question, as on a busy connection."""

    def __init__(self, answers: bool) -> None:
        super().__init__()
        self._answers = answers

    def open_channel(self, on_open: Callable[[Any], None], on_closed: Callable[[Any], None]) -> None:
        self.bytes_received += 100
        if self._answers:
            on_open(SimpleNamespace(close=lambda: on_closed(None)))


@pytest.mark.parametrize("answers", [True, False])
def test_an_echo_that_is_stuck_in_the_broker_is_late_whatever_comes_in_beside_it(answers: bool) -> None:
    """Its channel may wait for a queue that has crashed, for a minute. Behind a slow link all answers are late."""
    later: list[Callable[[], None]] = []
    loop: Any = SimpleNamespace(call_later=lambda _delay_s, callback: later.append(callback))
    control: Any = SimpleNamespace(echoed_at=0.0)
    brokers: Any = [Broker(answers), Broker(answers)]
    progress = EchoProgress(loop, control, brokers)
    progress.begin(1.0)
    for _ in range(5):
        later.pop()()
        brokers[1].bytes_received += 1
    assert (progress.moved_at > 0) is not answers
