"""What a worker sends of its log, to whom, and how much: on the bus in memory, whose two workers log in one process."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from servicebus._discovering import begin_tail, tail_logs
from servicebus.client.tails import LogTail, Tailed
from servicebus.protocol.tail import TailedRecord
from servicebus.runtime.log_tails import MOST_TAILS, LogTails
from servicebus.services import Request, Response
from servicebus.testing import MemoryBus, bus

LOG = logging.getLogger("shop.orders")
NODE = "NODE-01"
SHOP = {"key": "the key of shop, a long one"}


class Add:
    def on_call(self, request: Request, response: Response) -> None:
        LOG.warning("adds %s", request.get_params())
        response.send(1)


def handed_on(tails: LogTails) -> list[Any]:
    """What a worker writes for the readers of others."""
    written: list[Any] = []

    def write(told: Any) -> bool:
        written.append(told)
        return True

    tails.relayed.send(write)
    return written


@pytest.fixture
def world() -> Iterator[MemoryBus]:
    with bus({"math.add": Add(), "math.mul": Add()}, brokers=2) as world:
        yield world


@contextmanager
def tailing(world: MemoryBus, nodes: str = "*", level: int = 0, **how: str) -> Iterator[LogTail]:
    with tail_logs(world.sender, nodes, level, **how) as tail:
        world.advance(0.5)
        yield tail


def came(world: MemoryBus, tail: LogTail, seconds: float = 0.5) -> list[Tailed]:
    """What came of our own logger, by the worker of the first broker."""
    world.advance(seconds)
    return [each for each in tail.take(0) if each.process == "worker mq-1" and is_ours(each)]


def is_ours(each: Tailed) -> bool:
    return each.record is None or each.record.logger == LOG.name


def texts(found: list[Tailed]) -> list[str]:
    return [each.record.message for each in found if each.record is not None]


def tails_of(world: MemoryBus, number: int = 0) -> LogTails:
    found = world.node._workers[number].control.tails
    assert found is not None
    return found


def test_each_worker_sends_what_is_logged_once_over_its_own_broker(world: MemoryBus) -> None:
    with tailing(world) as tail:
        assert tail.workers == 2 and list(tail.nodes) == [NODE] and not tail.problems
        LOG.warning("no such %s", "sku")
        world.advance(0.5)
        found = [each for each in tail.take(0) if is_ours(each)]
    assert sorted((each.broker, each.process) for each in found) == [("mq-1", "worker mq-1"), ("mq-2", "worker mq-2")]
    assert {each.node for each in found} == {NODE} and set(texts(found)) == {"no such sku"}
    record = found[0].record
    assert record is not None and record[1:6] == (30, "WARNING", "shop.orders", "MainThread", "no such sku")


def test_what_a_service_logs_names_it_and_its_request(world: MemoryBus) -> None:
    with tailing(world) as tail:
        event_id, _ = world.sender.call(f"{NODE}.math.add", [1, 2])
        (found,) = came(world, tail)
    assert found.record is not None and found.record.message == "adds [1, 2]"
    assert found.record.service == "math.add"
    assert found.record.request_id == f"{world.sender.status()['sender']}-{event_id}"


def test_nothing_is_attached_before_and_after(world: MemoryBus) -> None:
    before = list(logging.getLogger().handlers)
    with tailing(world):
        assert len(logging.getLogger().handlers) == len(before) + 2, "one for each worker"
        assert len(tails_of(world)) == 1
        world.advance(60)
        assert len(tails_of(world)) == 0, "nothing was taken: the reader has gone without a word"
    assert logging.getLogger().handlers == before


def test_a_lease_is_renewed_as_long_as_it_is_read_and_ends_then(world: MemoryBus) -> None:
    with tailing(world) as tail:
        for number in range(20):
            LOG.warning("line %d", number)
            assert texts(came(world, tail, 5)) == [f"line {number}"]
        sessions = {key[-1] for key in tail._sources}
        assert len(sessions) == 2, "all the time the same"
    world.advance(10)
    assert len(tails_of(world)) == 1
    world.advance(8)
    assert len(tails_of(world)) == 0


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, ["low", "high of math.add", "adds 1", "adds 2"]),
        ({"level": logging.ERROR}, ["high of math.add"]),
        ({"service": "math.add"}, ["high of math.add", "adds 1"]),
        ({"service": "math.*"}, ["adds 1", "adds 2"]),
        ({"request": "ID-1"}, ["adds 1"]),
        ({"nodes": "OTHER-*"}, []),
        ({"nodes": "NODE-0[1-3]", "level": logging.WARNING, "service": "math.mul"}, ["adds 2"]),
    ],
)
def test_only_what_is_asked_for_is_sent(world: MemoryBus, how: dict[str, Any], expected: list[str]) -> None:
    how = {name: f"{world.sender.status()['sender']}-1" if value == "ID-1" else value for name, value in how.items()}
    with tailing(world, **how) as tail:
        LOG.warning("low")
        LOG.error("high of math.add")
        for number, name in enumerate(("add", "mul"), 1):
            world.sender.call(f"{NODE}.math.{name}", number)
        assert texts(came(world, tail)) == expected


def test_what_is_too_much_is_left_out_and_counted(world: MemoryBus) -> None:
    with tailing(world) as tail:
        for number in range(2600):
            LOG.warning("line %d", number)
        found = came(world, tail, 10)
    got, missing = len(texts(found)), sum(each.left_out for each in found)
    assert got >= 2000 and missing > 0 and got + missing == 2600
    assert texts(found)[:3] == ["line 0", "line 1", "line 2"]


def test_a_reader_that_does_not_ask_is_not_sent_more_than_a_megabyte(world: MemoryBus) -> None:
    with tailing(world, level=logging.WARNING):
        tails = tails_of(world)
        (tail,) = tails._open.values()
        tails._tick = lambda: None  # type: ignore[method-assign]
        for _ in range(40):
            for _ in range(10):
                LOG.warning("x" * 10_000)
            world.advance(0.06)
        assert tail.left_bytes < 100_000
        for _ in range(300):
            tail.put(b"x" * 10_000, 20_000)
        tail.left_bytes = 0
        sent = tail.sent
        tails.send_all()
        assert tail.sent == sent and tail.left_out > 100, "it waits for the next request"


def test_a_ninth_reader_is_told_that_there_are_eight(world: MemoryBus) -> None:
    with ExitStack() as stack:
        tails = [stack.enter_context(tailing(world)) for _ in range(MOST_TAILS)]
        assert all(tail.workers == 2 and not tail.refusals for tail in tails)
        ninth = stack.enter_context(tailing(world))
        assert ninth.workers == 0
        assert any("worker mq-1 of NODE-01 has 8 readers of its log already" in each for each in ninth.refusals)


def test_while_its_broker_is_lost_a_worker_keeps_its_records(world: MemoryBus) -> None:
    first, _ = world.brokers
    with tailing(world, level=logging.WARNING) as tail:
        first.stop()
        world.advance(1)
        assert "mq-1" in tail.problems
        LOG.warning("meanwhile")
        world.advance(5)
        found = [each for each in tail.take(0) if is_ours(each)]
        assert [each.process for each in found] == ["worker mq-2"], "it goes on over the other"
        first.start()
        assert "meanwhile" in texts(came(world, tail, 20))
        assert not tail.problems


def test_a_record_is_kept_for_a_broker_that_is_lost_for_a_minute_at_most(world: MemoryBus) -> None:
    first, _ = world.brokers
    with tailing(world):
        first.stop()
        world.advance(50)
        assert len(tails_of(world)) == 1
        world.advance(30)
        assert len(tails_of(world)) == 0


def test_records_of_other_processes_go_to_the_readers_that_they_are_for(world: MemoryBus) -> None:
    """Of the master, and of workers that have lost their broker."""
    made = TailedRecord(1.5, 40, "ERROR", LOG.name, "MainThread", "of the master", "master", 815)
    with tailing(world, level=logging.WARNING) as tail:
        tails = tails_of(world)
        served = tails.served()
        assert list(served.values()) == [logging.WARNING]
        tails.put_for([*served, "/unknown"], made)
        tails.put_for(["/unknown"], made)
        tails.put_for([*served], made._replace(level=10))
        world.advance(0.5)
        (found,) = [each for each in tail.take(0) if each.process == "master"]
        assert (found.pid, found.record) == (815, made)


def test_a_worker_that_serves_no_reader_hands_its_records_on(world: MemoryBus) -> None:
    tails = tails_of(world)
    tails.served_elsewhere({"/0123456789abcdef": logging.ERROR})
    LOG.warning("below")
    LOG.error("for another")
    handed = handed_on(tails)
    assert [(each["log"]["for"], each["log"]["row"][5]) for each in handed] == [(["/0123456789abcdef"], "for another")]
    tails.served_elsewhere({})
    LOG.error("for no one")
    assert handed_on(tails) == []


def test_a_worker_serves_itself_whom_it_can_and_hands_on_while_it_cannot(world: MemoryBus) -> None:
    first, _ = world.brokers
    with tailing(world, level=logging.WARNING) as tail:
        tails = tails_of(world)
        tails.served_elsewhere(tails.served())  # by the other worker, too
        LOG.warning("itself")
        assert texts(came(world, tail)) == ["itself"]
        first.stop()
        world.advance(1)
        assert tails.served() == {}
        LOG.warning("handed on")
        handed = [each["log"]["row"][5] for each in handed_on(tails)]
        assert "handed on" in handed and "itself" not in handed
        first.start()
        assert "handed on" not in texts(came(world, tail, 20)), "it would come twice"


def test_what_is_logged_while_records_are_sent_is_not_sent(world: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    tails = tails_of(world)
    publish = tails._publish

    def publish_and_log(*what: Any) -> None:
        LOG.error("a chunk goes out")
        publish(*what)

    monkeypatch.setattr(tails, "_publish", publish_and_log)
    with tailing(world, level=logging.ERROR) as tail:
        LOG.error("once")
        counted = Counter(texts(came(world, tail, 10)))
    assert counted == {"once": 1}


def test_a_worker_that_ends_sends_what_waits(world: MemoryBus) -> None:
    with tailing(world, level=logging.WARNING) as tail:
        LOG.warning("the last line")
        world.node.stop()
        world.advance(0.5)
        assert "the last line" in texts(tail.take(0))
    assert [repr(each) for each in logging.getLogger().handlers if "LogTap" in repr(each)] == []


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "may"),
    [
        ({}, False),
        ({"allow": "*"}, False),
        ({"allow": ["*.*.*", "*.*.tail", "NODE-01.s*.tail"]}, False),
        ({"allow": ["NODE-01.servicebus.tail"]}, True),
        ({"allow": ["*.servicebus.*"]}, True),
        ({"allow": ["NODE-02.servicebus.tail"]}, False),
        ({"allow": ["*.servicebus.tail"], "deny": ["NODE-0?.*.*"]}, False),
        ({"allow": ["*.servicebus.tail"], "deny": "*"}, False),
    ],
)
def test_a_caller_sees_log_records_if_its_rules_name_them(rules: dict[str, Any], may: bool) -> None:
    with bus({"math.add": Add()}, brokers=1, callers={"shop": {**SHOP, **rules}}) as world:
        sender = world.make_sender(caller="shop")
        with tail_logs(sender, "*", logging.WARNING) as tail:
            world.advance(0.5)
            LOG.warning("of a user")
            world.advance(0.5)
            assert texts([each for each in tail.take(0) if is_ours(each)]) == ["of a user"] * may
            assert bool(tail.refusals) is not may
            if not may:
                (why,) = tail.refusals
                assert "permission-denied: caller 'shop' may not see the log records of NODE-01" in why
                assert len(tails_of(world)) == 0


def test_a_stranger_gets_nothing(world: MemoryBus) -> None:
    with tail_logs(world.make_sender(secret_token="of a stranger"), "*") as tail:
        world.advance(5)
        LOG.warning("secret")
        world.advance(5)
        assert tail.take(0) == [] and not tail.nodes and len(tails_of(world)) == 0


def test_a_request_that_is_played_again_is_refused(world: MemoryBus) -> None:
    with tailing(world):
        control = world.node._workers[0].control
        (tail,) = tails_of(world)._open.values()
        assert control.hear(tail.pending.delivery) is None
        assert control._dispatcher.counters["refused.replayed"] == 1


def test_on_a_bus_that_encrypts_they_travel_encrypted() -> None:
    keys = {"keys": "a key of this test, long enough"}
    bodies: list[bytes] = []
    with bus({"math.add": Add()}, brokers=1, encryption={**keys, "services": []}) as world:
        worker = world.node._workers[0]
        publisher: Any = worker.pipeline.acknowledger.publisher
        items = publisher.items

        def spy(pending: Any, id: str, body: bytes, on_answered: Any) -> bool:
            bodies.append(body)
            return bool(items(pending, id, body, on_answered))

        publisher.items = spy
        with tail_logs(world.sender, "*") as tail, tail_logs(world.make_sender(encryption=None), "*") as other:
            world.advance(0.5)
            LOG.warning("of a user")
            world.advance(0.5)
            assert texts([each for each in tail.take(0) if is_ours(each)]) == ["of a user"]
            assert other.take(0) == []
            assert list(other.refusals) == [
                "unencodable: log records come encrypted, and there are no keys (encryption.keys)"
            ]
    assert len(bodies) >= 3 and all(b"A256GCM:" in body and b"of a user" not in body for body in bodies)


def test_a_tail_that_is_not_ended_ends_with_its_sender(world: MemoryBus) -> None:
    sender = world.make_sender()
    tail = begin_tail(sender, "*")
    world.advance(0.5)
    sender.close()
    world.advance(0.5)
    assert tail.has_ended and tail.take(5) == []


def test_what_waits_for_a_lost_broker_is_handed_on_when_another_worker_has_the_reader(world: MemoryBus) -> None:
    """Such as the line that says that it is lost, which is logged while the connection still seems to be there."""
    first, _ = world.brokers
    with tailing(world, level=logging.WARNING):
        tails = tails_of(world)
        readers = tails.served()
        first.stop()
        world.advance(1)
        LOG.warning("it waits")
        tails.served_elsewhere(readers)
        world.advance(1.5)
        assert "it waits" in [each["log"]["row"][5] for each in handed_on(tails)]
        assert not any(tail.rows or tail.size for tail in tails._open.values())
