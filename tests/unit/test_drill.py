"""A drill on a broker in memory, with a node that obeys the mark as workers do: how it begins, goes on, and ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from drilled import CONFIG, MARK, ObedientNode, answered, sessions_with
from waiting import wait_until

from servicebus.errors import ConnectFailed
from servicebus.operations import drill as drills
from servicebus.operations.drill import Drill, DrillRefused
from servicebus.operations.load import LoadGenerator
from servicebus.operations.maintenance import DrainMark
from servicebus.operations.session import Session
from servicebus.transport.memory import MemoryBroker


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def opened(broker: MemoryBroker) -> Iterator[Callable[..., Session]]:
    """Sessions of the test and of the drill are with the broker in memory."""
    with sessions_with(broker) as opened:
        yield opened


@pytest.fixture
def node(broker: MemoryBroker, opened: Callable[..., Session]) -> Iterator[ObedientNode]:
    found = ObedientNode(broker, opened)
    yield found
    found.close()


def made(begin: Callable[[], Future[Any]] = answered, **how: Any) -> Drill:
    load = LoadGenerator({"N": begin}, in_flight=1, per_s=200.0, limit_s=1.0)
    return Drill(CONFIG, CONFIG.hosts[0], ["N"], load, **{"for_s": 0.3, "around_s": 0.05, **how})


def test_all_leave_and_come_back_and_each_phase_has_its_figures(broker: MemoryBroker, node: ObedientNode) -> None:
    steps: list[str] = []
    drill = made()
    drill.on_step = steps.append
    report = drill.run()
    assert report.is_good and report.problems == []
    assert [each.split(" is ")[-1][:9] for each in steps] == ["requests ", "taken out", "taken bac", "requests "]
    (told,) = report.nodes
    assert told.workers == 1 and told.left_s is not None and told.back_s is not None
    assert report.out_s >= 0.3 and MARK not in broker.queues
    for phase in drills.PHASES:
        assert report.of_phase(phase).requests == report.of(phase, "N").requests > 0
    document = report.to_json()
    assert document["good"] and document["failed"] == 0 and document["requests"] == report.requests
    assert document["phases"]["during"]["N"]["p99_ms"] >= 0 and document["nodes"][0]["name"] == "N"


def test_what_fails_meanwhile_is_told(broker: MemoryBroker, node: ObedientNode) -> None:
    def begin() -> Future[Any]:
        if MARK in broker.queues:
            raise ValueError("of the test")
        return answered()

    report = made(begin).run()
    assert not report.is_good and report.is_back
    assert report.of_phase("during").errors["ValueError"] > 0
    assert "requests failed; all workers are back" in report.outcome()


def test_a_broker_that_is_out_already_and_one_without_workers_are_left_alone(
    broker: MemoryBroker, opened: Callable[..., Session]
) -> None:
    with pytest.raises(DrillRefused, match="no node takes calls on mq-a:5672"):
        made().run()
    with opened(CONFIG.hosts[0], CONFIG) as session:
        assert DrainMark(session, CONFIG).set()
    with pytest.raises(DrillRefused, match="out of service already"):
        made().run()
    assert MARK in broker.queues, "it is the operator's"
    broker.refuse("refused", "connection refused")
    with pytest.raises(ConnectFailed):
        made().run()


def test_a_stop_brings_it_back_at_once(broker: MemoryBroker, node: ObedientNode) -> None:
    drill = made(for_s=600.0)
    running = threading.Thread(target=drill.run)
    running.start()
    wait_until(lambda: MARK in broker.queues)
    drill.stop()
    running.join(30)
    assert not running.is_alive() and MARK not in broker.queues
    assert drill.report.is_stopped and drill.report.is_back and not drill.report.is_good
    assert drill.report.outcome().startswith("stopped early; ")


def test_ctrl_c_brings_it_back(broker: MemoryBroker, node: ObedientNode, monkeypatch: pytest.MonkeyPatch) -> None:
    drill = made(for_s=600.0)

    def interrupted(_seconds: float) -> None:
        if MARK in broker.queues:
            raise KeyboardInterrupt

    monkeypatch.setattr(drill._stop, "wait", interrupted)
    report = drill.run()
    assert report.is_stopped and report.is_back and MARK not in broker.queues


def test_the_mark_is_a_lease_that_the_drill_renews(
    broker: MemoryBroker, node: ObedientNode, opened: Callable[..., Session]
) -> None:
    assert made(for_s=3.0, lease_s=2.0).run().is_good, "it has outlived its lease"
    with opened(CONFIG.hosts[0], CONFIG) as session:
        mark = DrainMark(session, CONFIG)
        assert mark.set(0.2) and not mark.set(0.2)
        wait_until(lambda: MARK not in broker.queues, what="it goes by itself")
        assert mark.set()
        assert not mark.is_leased(0.2) and MARK in broker.queues


def test_a_lease_is_told_from_a_drain(broker: MemoryBroker, opened: Callable[..., Session]) -> None:
    with opened(CONFIG.hosts[0], CONFIG) as session:
        mark = DrainMark(session, CONFIG)
        mark.set(60.0)
        assert mark.is_leased(60.0)
        assert mark.remove() and not mark.remove()


def test_one_that_others_end_is_told(broker: MemoryBroker, node: ObedientNode) -> None:
    drill = made(for_s=600.0, lease_s=0.5)
    running = threading.Thread(target=drill.run)
    running.start()
    wait_until(lambda: MARK in broker.queues)
    broker.forget_queue(MARK)
    running.join(30)
    assert not running.is_alive()
    assert not drill.report.is_good and "came back before its time" in drill.report.outcome()


def test_who_does_not_leave_is_named(broker: MemoryBroker, node: ObedientNode) -> None:
    node.ignores_mark = True
    report = made().run()
    assert report.problems == ["N did not leave the broker"] and report.is_back and not report.is_good


def test_a_worker_that_does_not_come_back_is_told(
    broker: MemoryBroker, node: ObedientNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drills, "_BACK_S", 0.05)
    drill = made(for_s=600.0)
    running = threading.Thread(target=drill.run)
    running.start()
    wait_until(lambda: drill.report.nodes and drill.report.nodes[0].left_s is not None)
    node.close()
    drill.stop()
    running.join(30)
    assert not drill.report.is_back and "NOT ALL WORKERS ARE BACK" in drill.report.outcome()


def test_a_broker_that_is_lost_meanwhile_is_told(broker: MemoryBroker, node: ObedientNode) -> None:
    drill = made(for_s=600.0, lease_s=1.0)
    running = threading.Thread(target=drill.run)
    running.start()
    wait_until(lambda: MARK in broker.queues)
    broker.stop()
    running.join(60)
    assert not running.is_alive() and not drill.report.is_back
    lost, left = drill.report.problems
    assert "the broker was lost meanwhile" in lost and "could not be taken back" in left


def test_a_drain_that_comes_meanwhile_is_left_alone(
    broker: MemoryBroker, node: ObedientNode, opened: Callable[..., Session]
) -> None:
    drill = made(for_s=600.0)
    running = threading.Thread(target=drill.run)
    running.start()
    wait_until(lambda: MARK in broker.queues)
    with opened(CONFIG.hosts[0], CONFIG) as session:
        mark = DrainMark(session, CONFIG)
        mark.remove()
        assert mark.set()
    drill.stop()
    running.join(30)
    assert MARK in broker.queues and drill.report.problems[-1].startswith("it stays out of service")
