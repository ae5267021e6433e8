"""How the records of processes that serve no reader come to one that does: between a master and workers, by pipes."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from servicebus.configuration import BrokerHost
from servicebus.protocol.tail import TailedRecord, read_row
from servicebus.runtime.child import Child
from servicebus.runtime.log_relay import LogRelay, WorkerRelay
from servicebus.runtime.relay_queue import MOST_LINE_BYTES, RelayQueue

LOG = logging.getLogger("shop.orders")
READER, OTHER = "/0123456789abcdef", "shop/fedcba9876543210"


def record(text: str, level: int = logging.WARNING) -> TailedRecord:
    return TailedRecord(1.5, level, "WARNING", "shop", "MainThread", text, "worker mq-a", 4711)


class Pipes:
    """A Child, and what a worker does at the other ends of its pipes."""

    def __init__(self, name: str) -> None:
        heartbeat_fd, self.fd = os.pipe()
        self.told_fd, parent_death_fd = os.pipe()
        os.set_blocking(self.told_fd, False)
        self.child = Child(BrokerHost(name, name, 5672), 1)
        self.child.started(4711, heartbeat_fd, parent_death_fd, 0.0)

    def say(self, told: Any, now: float = 1.0) -> None:
        os.write(self.fd, json.dumps(told).encode() + b"\n")
        self.child.read_heartbeats(now)

    def told(self) -> list[Any]:
        try:
            return [json.loads(line) for line in os.read(self.told_fd, 1 << 20).splitlines()]
        except BlockingIOError:
            return []

    def logged(self) -> list[str]:
        return [read_row(each["log"]["row"]).message for each in self.told() if "log" in each]

    def close(self) -> None:
        self.child.close_fds()
        os.close(self.fd)
        os.close(self.told_fd)


@pytest.fixture
def relay() -> Iterator[LogRelay]:
    relay = LogRelay()
    yield relay
    relay.forget()


@pytest.fixture
def first() -> Iterator[Pipes]:
    with closing(Pipes("mq-a")) as found:
        yield found


@pytest.fixture
def second() -> Iterator[Pipes]:
    with closing(Pipes("mq-b")) as found:
        yield found


def serves(relay: LogRelay, pipes: Pipes, tails: dict[str, int], now: float) -> None:
    pipes.say({"tails": tails}, now)
    relay.take(pipes.child, now)


def test_without_readers_nothing_is_said_and_nothing_taken(relay: LogRelay, first: Pipes) -> None:
    relay.tick([first.child], 1.0)
    LOG.error("of the master")
    relay.tick([first.child], 5.0)
    assert first.told() == []


def test_what_the_master_logs_goes_to_one_worker_that_serves_the_reader(
    relay: LogRelay, first: Pipes, second: Pipes
) -> None:
    children = [first.child, second.child]
    for pipes in (first, second):
        serves(relay, pipes, {READER: logging.WARNING}, 1.0)
    relay.tick(children, 1.0)
    assert first.told() == second.told() == [{"tails": {READER: logging.WARNING}}]
    LOG.info("below")
    LOG.warning("of the master")
    relay.tick(children, 1.1)
    (told,), nothing = first.told(), second.told()
    assert nothing == [] and told["log"]["for"] == [READER]
    assert read_row(told["log"]["row"])[5:8] == ("of the master", "master", os.getpid())


def test_what_a_worker_cannot_send_itself_goes_by_another(relay: LogRelay, first: Pipes, second: Pipes) -> None:
    serves(relay, second, {READER: 0, OTHER: 0}, 1.0)
    row = [*record("mq-a is lost")[:6], {"process": "worker mq-a"}]
    first.say({"log": {"for": [READER, OTHER, "/of-nobody"], "row": row}})
    relay.take(first.child, 1.0)
    assert first.told() == [] and second.told() == [{"log": {"for": [READER, OTHER], "row": row}}]
    second.say({"log": {"for": [READER], "row": row}})
    relay.take(second.child, 1.0)
    assert first.told() == second.told() == [], "not back to where it comes from"


def test_readers_are_forgotten_with_the_worker_that_served_them(relay: LogRelay, first: Pipes, second: Pipes) -> None:
    children = [first.child, second.child]
    serves(relay, first, {READER: 10}, 1.0)
    relay.tick(children, 1.0)
    relay.tick(children, 2.5)
    assert len(second.told()) == 2, "said again every second"
    relay.tick(children, 5.0)
    assert second.told() == [{"tails": {}}], "nothing was heard of it"
    LOG.warning("for no reader")
    relay.tick(children, 6.5)
    assert second.told() == [] and first.logged() == []
    serves(relay, first, {READER: 10}, 7.0)
    relay.tick(children, 7.0)
    serves(relay, first, {}, 7.2)
    relay.tick(children, 7.2)
    assert second.told() == [{"tails": {READER: 10}}, {"tails": {}}], "it says so itself"


@pytest.mark.parametrize("told", [{"tails": 1}, {"log": 1}, {"log": {"for": 1, "row": 1}}, {"log": {}}])
def test_what_a_service_writes_into_the_pipe_is_ignored(relay: LogRelay, first: Pipes, told: Any) -> None:
    serves(relay, first, {READER: 10}, 1.0)
    first.say(told)
    relay.take(first.child, 1.0)
    relay.tick([first.child], 1.0)
    assert first.told() == [{"tails": {READER: 10}}]


def test_a_worker_that_does_not_read_stops_nothing(relay: LogRelay, first: Pipes) -> None:
    serves(relay, first, {READER: 10}, 1.0)
    for number in range(300):
        LOG.warning("%d %s", number, "x" * 1000)
        relay.tick([first.child], 1.0)
    lines = first.told()
    assert 10 < len(lines) < 300, "each is whole"


class Written(list[Any]):
    """A pipe that takes every line."""

    def write(self, told: Any) -> bool:
        self.append(told)
        return True


class KnownTails:
    """As a WorkerRelay knows LogTails."""

    def __init__(self) -> None:
        self.serves: dict[str, int] = {}
        self.relayed = RelayQueue()
        self.elsewhere: dict[str, int] = {}
        self.put: list[tuple[list[str], str]] = []

    def served(self) -> dict[str, int]:
        return self.serves

    def served_elsewhere(self, levels: dict[str, int]) -> None:
        self.elsewhere = levels

    def put_for(self, ids: list[str], record: TailedRecord) -> None:
        self.put.append((ids, record.message))


def test_a_worker_says_whom_it_serves_and_once_that_it_serves_no_more() -> None:
    tails, written = KnownTails(), Written()
    relay = WorkerRelay(tails)  # type: ignore[arg-type]
    relay.send(written.write)
    assert written == []
    tails.serves = {READER: 20}
    for _ in range(2):
        relay.send(written.write)
    tails.serves = {}
    relay.send(lambda _told: False)
    for _ in range(2):
        relay.send(written.write)
    assert written == [{"tails": {READER: 20}}] * 2 + [{"tails": {}}]


def test_a_worker_takes_what_the_master_says_and_ignores_the_rest() -> None:
    tails = KnownTails()
    relay = WorkerRelay(tails)  # type: ignore[arg-type]
    row = [*record("of the master")[:6], {"process": "master"}]
    said: tuple[Any, ...] = (
        {"log": {"for": [READER], "row": row}},
        {"tails": {READER: 20, "x": "y"}},
        {"log": {"for": [], "row": []}},
        1,
    )
    for told in said:
        relay.heard(told)
    assert tails.put == [([READER], "of the master")] and tails.elsewhere == {READER: 20}


@pytest.mark.parametrize("char", ["x", "\x00", "ü", "\ud800", "\U0001f600"])
def test_each_line_is_short_enough_to_be_written_whole(char: str) -> None:
    queue, written = RelayQueue(), Written()
    queue.put([READER, OTHER], record(char * 20_000))
    queue.send(written.write)
    (line,) = written
    assert MOST_LINE_BYTES / 4 < len(json.dumps(line)) < MOST_LINE_BYTES


def test_what_the_pipe_does_not_take_waits_and_what_is_too_much_is_counted() -> None:
    queue, written = RelayQueue(), Counter[str]()
    for number in range(600):
        queue.put([READER], record(f"text {number}"))
    queue.send(lambda _told: False)

    def write(told: Any) -> bool:
        written[told["log"]["row"][5]] += 1
        return True

    for _ in range(10):
        queue.send(write)
    assert sum(written.values()) == 500 and max(written.values()) == 1
    assert "(100 log records before this one were left out)\ntext 0" in written
