"""What waits for a path: found by its node, woken by events, and free of charge meanwhile."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from test_answers import FakeLink

from servicebus.client.answers import Answers
from servicebus.client.hosts import HostSelector
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.client.request_state import RequestState
from servicebus.client.scheduler import RequestScheduler
from servicebus.errors import NoBrokerAvailable, ServiceBusError
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind

MANY = 10_000
PATH_WAIT_S = 3.0
TICK_S = 0.0625  # and a whole number to begin with: sums are exact


class Bus:
    """A Sender's parts on links of the test; counts the requests that are routed."""

    def __init__(self, links: int = 1):
        self.links: list[Any] = [FakeLink(f"mq-{number}") for number in range(links)]
        nothing: Any = SimpleNamespace(
            connect_more=lambda reverse: None, cancel=lambda request: None, ask=lambda path, now: False
        )
        config: Any = SimpleNamespace(path_wait=PATH_WAIT_S)
        self.pending = PendingRequests()
        self.selector = HostSelector(self.links, 10.0)
        self.scheduler = RequestScheduler(
            nothing, config, self.links, self.pending, self.selector, nothing, nothing, nothing
        )
        self.answers = Answers(self.pending, self.scheduler, nothing, nothing, nothing, nothing)
        self.routed = 0
        route = self.scheduler.route

        def count(request: PendingRequest, now: float) -> None:
            self.routed += 1
            route(request, now)

        self.scheduler.route = count  # type: ignore[method-assign]
        self.now = 1000.0
        self._count = 0

    def begin(
        self, kind: Kind = Kind.MESSAGE, node: str = "N", timeout_s: float = 60.0, size: int = 0
    ) -> PendingRequest:
        self._count += 1
        address = Address(node, "test", "it")
        request = PendingRequest(self._count, f"x-{self._count}", address, kind, b"x" * size, timeout_s=timeout_s)
        self.scheduler.begin(request, self.now)
        return request

    def confirm(self, request: PendingRequest, *, is_ack: bool) -> None:
        assert request.link is not None
        self.answers.confirmed(request.link, request, is_ack)

    def tick(self, seconds: float = TICK_S) -> int:
        """Let time pass and tick once; how many requests were routed."""
        before = self.routed
        self.now += seconds
        for look in (self.scheduler.end_overdue, self.scheduler.probe, self.scheduler.end_waits):
            look(self.now)
        return self.routed - before


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    bus = Bus()
    monkeypatch.setattr(time, "monotonic", lambda: bus.now)
    return bus


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE])
def test_in_an_outage_a_tick_routes_nothing_however_many_wait(bus: Bus, kind: Kind) -> None:
    bus.links[0].is_usable = False
    for number in range(MANY):
        bus.begin(kind, f"N-{number % 100}")
    assert len(bus.pending.waiting) == MANY
    assert [bus.tick() for _ in range(40)] == [0] * 40
    bus.links[0].is_usable = True
    bus.scheduler.retry_waiting(bus.now)
    assert len(bus.links[0].published) == MANY


def test_one_message_per_node_is_tried_every_quarter_of_a_second(bus: Bus) -> None:
    link = bus.links[0]
    link.path("N", bus.now).lacks_queue_until = bus.now + 0.25
    for _ in range(MANY):
        bus.begin()
    bus.begin(Kind.CALL, "OTHER")
    assert len(bus.pending.waiting) == MANY
    for _ in range(4):
        assert sum(bus.tick() for _ in range(4)) == 1
        bus.confirm(link.published[-1], is_ack=False)  # its queue is full still
    assert bus.routed < MANY + 20
    assert len(bus.pending.waiting) == MANY


def test_probes_of_many_nodes_are_spread_over_the_ticks(bus: Bus) -> None:
    for number in range(1000):
        bus.links[0].path(f"N-{number}", bus.now).lacks_queue_until = bus.now + 0.25
        bus.begin(node=f"N-{number}")
    counts = [bus.tick() for _ in range(15)]
    assert max(counts) <= 100
    assert sum(counts) == 1000


def test_a_confirm_lets_more_follow_and_all_arrive_in_order(bus: Bus) -> None:
    link = bus.links[0]
    link.path("N", bus.now).lacks_queue_until = bus.now + 0.25
    sent = [bus.begin() for _ in range(1000)]
    confirmed = rounds = 0
    for _ in range(6):
        bus.tick()
    while confirmed < len(link.published):
        batch = link.published[confirmed:]
        confirmed, rounds = confirmed + len(batch), rounds + 1
        for request in batch:
            bus.confirm(request, is_ack=True)
    assert rounds <= 11
    assert link.published == sent
    assert [request.wait() for request in sent] == [request.event_id for request in sent]


def test_what_is_too_large_for_the_broker_that_is_left_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = Bus(links=2)
    monkeypatch.setattr(time, "monotonic", lambda: bus.now)
    first, second = bus.links
    second.is_usable = False
    first.size_limit.learn(100_000, bus.now)
    first.path("N", bus.now).lacks_queue_until = bus.now + 0.25
    large, small = bus.begin(size=100_001), bus.begin(size=10)
    for _ in range(6):
        bus.tick()
    assert first.published == [small]
    assert list(bus.pending.waiting.values()) == [large]


def test_a_path_that_lives_again_wakes_what_waits_for_its_node_alone(bus: Bus) -> None:
    for node in ("A", "B"):
        bus.links[0].path(node, bus.now).health.fail("away")
    mine = [bus.begin(Kind.CALL, "A") for _ in range(3)]
    for _ in range(3):
        bus.begin(Kind.CALL, "B")
    bus.links[0].path("A", bus.now).health.recover(bus.now)
    before = bus.routed
    bus.scheduler.retry_waiting(bus.now, "A")
    assert bus.routed - before == 3
    assert bus.links[0].published == mine
    assert (bus.pending.is_awaited("A"), bus.pending.is_awaited("B")) == (False, True)


def test_the_wait_limit_ends_what_waits_once_it_is_over_and_not_before(bus: Bus) -> None:
    bus.links[0].is_usable = False
    first = bus.begin()
    bus.tick(1.0)
    second = bus.begin(Kind.CALL)
    bus.scheduler.retry_waiting(bus.now)  # what waits for the second time has waited since the first
    bus.tick(PATH_WAIT_S - 1.1)
    assert (first.is_done, second.is_done) == (False, False)
    bus.tick(0.2)
    assert (first.is_done, second.is_done) == (True, False)
    bus.tick(1.0)
    with pytest.raises(NoBrokerAvailable):
        second.wait()
    assert not bus.pending.waiting
    assert not bus.pending.is_awaited("N")
    assert len(bus.pending.waits) == 0


@pytest.mark.parametrize(
    ("on_its_way_s", "left_s"),
    [(0.0, 1.0), (2.0, 1.0), (PATH_WAIT_S - 0.1, 1.0), (PATH_WAIT_S + 0.1, PATH_WAIT_S), (40.0, PATH_WAIT_S)],
)
def test_what_a_request_waits_for_paths_counts_and_what_it_is_on_its_way_does_not(
    bus: Bus, on_its_way_s: float, left_s: float
) -> None:
    """A call that runs when its channel is closed has the time to find the worker again, which takes a moment."""
    link = bus.links[0]
    link.is_usable = False
    request = bus.begin(Kind.CALL)
    bus.tick(2.0)
    link.is_usable = True
    bus.scheduler.retry_waiting(bus.now)
    bus.tick(on_its_way_s)
    link.is_usable = False
    bus.scheduler.take_back(request, link, "reset", bus.now, "connection-lost")
    bus.tick(left_s - 0.1)
    assert not request.is_done
    bus.tick(0.2)
    assert request.is_done
    with pytest.raises(ServiceBusError):
        request.wait()


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE, "stream"])
@pytest.mark.parametrize("how", ["taken back", "held back", "another clock", "confirmed late"])
def test_wherever_a_request_was_its_wait_goes_on_where_it_was(bus: Bus, kind: Any, how: str) -> None:
    """None ends before it has waited for as long as it may: 2.2 s of these are spent elsewhere."""
    link = bus.links[0]
    link.is_usable = False
    request = bus.begin(kind) if kind != "stream" else bus.begin(Kind.CALL)
    if kind == "stream":
        request.resend = False
    bus.tick(0.5)
    link.is_usable = True
    bus.scheduler.retry_waiting(bus.now)
    assert request.state is RequestState.IN_FLIGHT
    bus.tick(1.1)
    if how == "confirmed late":
        request.published_late(bus.now)
    bus.tick(1.1)
    link.is_usable = False
    request.not_run()
    if how == "held back":
        bus.pending.finish(request)
        request.lost(link)
        request.held(bus.now - 1.1)
        request.resumed()
        bus.scheduler.route(request, bus.now)
    elif how == "another clock":
        bus.pending.finish(request)
        request.lost(link)
        bus.scheduler.route(request, bus.now)
    else:
        bus.scheduler.take_back(request, link, "reset", bus.now, "connection-lost")
    bus.tick(PATH_WAIT_S - 0.6)
    assert not request.is_done
    bus.tick(0.2)
    assert request.is_done


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE])
@pytest.mark.parametrize("is_usable", [True, False])
def test_a_request_whose_taking_was_interrupted_is_taken_again(
    bus: Bus, kind: Kind, is_usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come between any two steps of the thread that turns the loop."""
    link = bus.links[0]
    link.is_usable = is_usable
    request = PendingRequest(1, "x-1", Address("N", "test", "it"), kind, b"", timeout_s=60.0)
    step: tuple[Any, str] = (link, "publish") if is_usable else (bus.pending, "wait")

    def interrupted(*about: Any) -> None:
        original(*about)
        raise KeyboardInterrupt

    original = getattr(*step)
    with monkeypatch.context() as patched:
        patched.setattr(*step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            bus.scheduler.accept(request, bus.now)
    bus.scheduler.accept(request, bus.now)
    if not is_usable:
        link.is_usable = True
        bus.scheduler.retry_waiting(bus.now)
    assert link.published == [request] * (2 if is_usable else 1)
    assert (list(bus.pending.in_flight), list(bus.pending.waiting)) == (["x-1"], [])
    assert request.state is RequestState.IN_FLIGHT
