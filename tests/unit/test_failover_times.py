"""What a fault costs the next call, in virtual time: the seconds that docs/failover.rst promises.

That the same faults are survived with real brokers is tested in tests/integration, where no time is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from virtual_bus import VirtualBus, silence
from virtual_worker import VirtualWorker

from servicebus.errors import CallInterrupted, CallTimeout, NoBrokerAvailable, NodeUnavailable, ServiceBusy
from servicebus.transport.memory import MemoryBroker
from servicebus.wire.fault import Fault

DEAD_BROKER_S = 0.5
SILENT_BROKER_S = 3.0
BAD_FIRST_HOST_S = 0.5
AGENT_BACK_S = 3.0
TICK_S = 0.06
"""How often the Sender looks at its clock while something is unfinished, and a little."""

Fail = Callable[[MemoryBroker], None]


@contextmanager
def within(bus: VirtualBus, seconds: float) -> Iterator[None]:
    """What is done in the block takes no longer."""
    began = bus.time.now
    yield
    assert bus.time.now - began < seconds


def ended_after(bus: VirtualBus, future: Future[Any]) -> float:
    """How many seconds from now *future* ends."""
    began = bus.time.now
    bus.time.until(future.done)
    return bus.time.now - began


# -- a broker that dies ------------------------------------------------------------------------------------------------


def test_a_killed_broker_costs_calls_less_than_half_a_second(bus: VirtualBus) -> None:
    """Those that are under way, and the next one; then the same again, with the brokers' roles exchanged."""
    node = bus.node()
    for dies in bus.brokers:
        node.answer = silence
        under_way = [bus.call(number) for number in range(8)]
        node.answer = lambda incoming: incoming.raw_params.decode()
        dies.stop()
        with within(bus, DEAD_BROKER_S):
            assert bus.result(bus.call("next")) == '"next"'
            assert [bus.result(future) for future in under_way] == list(map(str, range(8)))
        dies.accept()
        bus.time.advance(AGENT_BACK_S)
        node.start(dies)


def test_a_call_that_must_not_run_twice_ends_at_once_with_its_broker(bus: VirtualBus) -> None:
    bus.node().answer = silence
    future = bus.call(resend=False)
    bus.brokers[0].stop()
    assert ended_after(bus, future) < TICK_S
    assert isinstance(future.exception(), CallInterrupted)


def test_a_broker_that_died_in_a_silence_costs_the_next_call_nothing(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call())
    bus.brokers[0].stop()
    bus.time.advance(30)
    with within(bus, TICK_S):
        bus.result(bus.call())


def test_a_broker_that_has_just_returned_is_used_at_once_when_the_other_one_dies(bus: VirtualBus) -> None:
    """The Sender pauses between its attempts to reach the dead one; a call that has nothing else cuts that short."""
    nodes = [bus.node(broker) for broker in bus.brokers]
    down, up = 0, 1
    bus.brokers[down].stop()
    for _ in range(4):
        for _ in range(150):  # so that its pauses grow
            bus.result(bus.call())
            bus.time.advance(0.01)
        bus.brokers[down].accept()
        nodes[down].start(bus.brokers[down])
        bus.brokers[up].stop()
        down, up = up, down
        with within(bus, DEAD_BROKER_S):
            bus.result(bus.call())


def test_a_broker_under_an_alarm_is_left_at_once(bus: VirtualBus) -> None:
    node = bus.node()
    bus.result(bus.call())
    bus.brokers[0].block("low on memory")
    with within(bus, 1.0):
        bus.result(bus.call())
        bus.time.until(bus.send().done)
    assert [name for name, *_ in node.calls][1:] == ["mq-b:5672"]


# -- a broker that falls silent ----------------------------------------------------------------------------------------


def test_a_silent_broker_costs_calls_less_than_three_seconds(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    under_way = [bus.call(number) for number in range(8)]
    node.answer = lambda incoming: incoming.raw_params.decode()
    bus.brokers[0].freeze()
    with within(bus, SILENT_BROKER_S):
        assert bus.result(bus.call("next")) == '"next"'
        assert [bus.result(future) for future in under_way] == list(map(str, range(8)))


def test_calls_with_short_limits_leave_a_silent_broker_as_soon_as_others(bus: VirtualBus) -> None:
    """None of them is waited for as long as ``path_ping_after``; together they are."""
    bus.node()
    bus.result(bus.call())
    bus.brokers[0].freeze()
    with within(bus, SILENT_BROKER_S):
        while bus.error(bus.call(timeout=0.2)) is not None:
            pass


def test_no_call_outlives_its_limit_while_the_broker_is_silent(bus: VirtualBus) -> None:
    """The first call comes after a pause, when the Sender looks at its clock less often."""
    bus.node()
    bus.result(bus.call())
    bus.brokers[0].freeze()
    bus.brokers[1].freeze()
    bus.time.advance(0.6)
    began, limits_s = bus.time.now, (0.05, 0.1, 0.4, 1.0, 1.8, 2.5)
    futures = [bus.call(timeout=limit_s) for limit_s in limits_s]
    for limit_s, future in zip(limits_s, futures, strict=True):
        assert isinstance(bus.error(future), CallTimeout | CallInterrupted)
        assert bus.time.now - began == pytest.approx(limit_s, abs=TICK_S)


# -- a first host that was never well ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fail", [MemoryBroker.freeze, MemoryBroker.refuse, MemoryBroker.stop])
def test_a_bad_first_host_delays_a_new_sender_by_less_than_half_a_second(bus: VirtualBus, fail: Fail) -> None:
    bus.node()
    fail(bus.brokers[0])
    with within(bus, BAD_FIRST_HOST_S):
        bus.result(bus.call())


# -- no node there -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail", [MemoryBroker.freeze, MemoryBroker.refuse])
def test_without_any_broker_a_call_ends_after_the_wait_limit(bus: VirtualBus, fail: Fail) -> None:
    for broker in bus.brokers:
        fail(broker)
    future = bus.call()
    assert ended_after(bus, future) == pytest.approx(bus.config.path_wait, abs=TICK_S)
    assert isinstance(future.exception(), NoBrokerAvailable)


def test_without_an_agent_a_call_ends_after_the_wait_limit(bus: VirtualBus) -> None:
    future = bus.call()
    assert ended_after(bus, future) == pytest.approx(bus.config.path_wait, abs=TICK_S)
    assert isinstance(future.exception(), NodeUnavailable)


def test_a_call_of_a_service_that_stays_full_ends_as_busy_at_its_deadline(bus: VirtualBus) -> None:
    bus.node().answer = lambda _incoming: Fault("busy", "its inbox is full")
    future = bus.call(timeout=0.5)
    assert ended_after(bus, future) == pytest.approx(0.5, abs=TICK_S)
    assert isinstance(future.exception(), ServiceBusy)


# -- the agent's own return --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fail", "heal"), [(MemoryBroker.stop, MemoryBroker.accept), (MemoryBroker.freeze, MemoryBroker.thaw)]
)
@pytest.mark.parametrize("down_s", [0.1, 1.0, 20.0, 300.0])
def test_an_agent_serves_again_within_three_seconds_after_its_broker_is_back(
    bus: VirtualBus, fail: Fail, heal: Fail, down_s: float
) -> None:
    worker = VirtualWorker(bus).start()
    fail(worker.broker)
    bus.time.advance(down_s)
    heal(worker.broker)
    with within(bus, AGENT_BACK_S):
        bus.time.advance(0.1)
        bus.time.until(lambda: worker.state == "consuming")
        assert bus.result(bus.call("after")) == "after"
