"""A Sender that talks to ever new nodes: what it does not use any more is neither looked at nor kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from servicebus.client.compat_path import MOST_HEARD, TrackingProtocolV2
from servicebus.client.link import Link
from servicebus.client.nodes import KEPT_S, RESENDS_FLOOR, SPARE_AFTER_S, Budgets, IdleNodes, Path
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.client.watch import PathWatch, Pinger
from servicebus.configuration import Configuration
from servicebus.policy.connection import ConnectionState
from servicebus.protocol.interface import OutgoingPublish
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind
from servicebus.wire.signing import Keyring

CONFIG = Configuration({"hosts": ["mq-a", "mq-b"], "secret_token": "a secret of 16 bytes"})


class Version:
    """Says everything in no bytes."""

    exchange: Any = SimpleNamespace(name="servicebus")

    def encode_request(self, _request: PendingRequest) -> OutgoingPublish:
        return OutgoingPublish("servicebus", "", b"")

    def encode_ping(self, _node: str, _wire_id: str, _timeout_s: float, _calls: Any) -> tuple[str, OutgoingPublish]:
        return "", OutgoingPublish("servicebus", "ping", b"")


class Connection:
    """One that is up, and its channels, which swallow everything."""

    blocked = None
    is_open, is_renewed = True, False
    bytes_received = 0

    def __init__(self) -> None:
        self.pings = 0
        self.calls = self.sends = self.connection = self

    def publish(self, _exchange: str, routing_key: str, _body: bytes, **_about: object) -> None:
        self.pings += routing_key == "ping"
        self.bytes_received += 1  # the broker lives, whoever is away

    def take_unconfirmed(self) -> list[PendingRequest]:
        return []


class World:
    """The paths of a Sender and what looks after them, by a clock that the test turns."""

    def __init__(self) -> None:
        nobody: Any = self
        newest: Any = Version()
        self.now = 1000.0
        self.links = [Link(nobody, host, CONFIG, [newest], nobody, nobody) for host in CONFIG.hosts]
        self.connections = [Connection() for _ in self.links]
        for link, connection in zip(self.links, self.connections, strict=True):
            anything: Any = connection
            link.connections.state, link.connections.connections = ConnectionState.UP, (anything,)
            link._channels = anything
        self.pending = PendingRequests()
        self.budgets = Budgets(self.links)
        self.idle = IdleNodes(self.links, self.budgets, self.pending.is_awaited)
        self.watch = PathWatch(CONFIG, Pinger(CONFIG), nobody, nobody)

    def replied(self, link: Link, delivery: object) -> None:
        pass

    def prepare(self, path: Path, now: float) -> None:
        pass

    def hedge_all(self, path: Path, now: float) -> None:
        pass

    def path_dead(self, path: Path, why: str) -> None:
        path.health.fail(why)
        path.clock.heard(self.now)

    def request(self, node: str) -> PendingRequest:
        return PendingRequest(1, f"id-{node}", Address(node, "test", "it"), Kind.CALL, b"", timeout_s=9.0)

    def call(self, node: str) -> PendingRequest:
        request = self.request(node)
        self.links[0].publish(request, self.now)
        return request

    def answer(self, request: PendingRequest) -> None:
        self.pending.finish(request)
        assert request.path is not None
        request.path.heard(self.now)

    def pass_s(self, seconds: float, ticks: int = 10) -> None:
        for _ in range(ticks):
            self.now += seconds / ticks
            for link in self.links:
                for path in link.active.values():
                    assert path is link.paths[path.node]
                self.check(link)
            self.idle.look(self.now)

    def check(self, link: Link) -> None:
        self.watch._pinger.forget_overdue(self.now)
        for path in list(link.active.values()):
            if not path.outstanding:  # those would be pinged, and found dead
                self.watch._check(path, self.pending.is_awaited, self.now)

    @property
    def sizes(self) -> list[int]:
        return [
            *(len(sized) for link in self.links for sized in (link.paths, link.active)),
            len(self.budgets._nodes),
            len(self.idle._due),
        ]


def test_twenty_thousand_nodes_are_forgotten_and_their_calls_still_counted() -> None:
    world = World()
    for number in range(20_000):
        world.answer(world.call(f"NODE-{number}"))
    world.links[1].path("NODE-1", world.now)  # looked at by who had to choose
    world.pass_s(2.0)
    assert world.sizes == [20_000, 0, 1, 0, 20_000, 20_000]
    world.pass_s(2 * KEPT_S, ticks=96)
    assert world.sizes == [0, 0, 0, 0, 0, 0]
    assert (world.links[0].calls, world.links[1].calls) == (20_000, 0)


def test_a_tick_forgets_a_few() -> None:
    world = World()
    for number in range(10_000):
        world.answer(world.call(f"NODE-{number}"))
    world.pass_s(2.0)
    world.pass_s(KEPT_S + 1, ticks=1)
    assert 9_000 <= len(world.links[0].paths) < 10_000


def forgotten(world: World) -> bool:
    world.pass_s(2 * KEPT_S + 2)
    return "NODE" not in world.links[0].paths


def test_what_is_outstanding_keeps_its_node() -> None:
    world = World()
    call = world.call("NODE")
    assert not forgotten(world)
    assert world.links[0].take_orphans() == [call]
    assert forgotten(world)


def test_what_waits_keeps_its_node() -> None:
    world = World()
    world.answer(world.call("NODE"))
    waits = world.request("NODE")
    world.pending.wait(waits)
    assert not forgotten(world)
    world.pending.leave(waits)
    assert forgotten(world)


def test_a_node_in_use_is_kept_with_what_is_known_of_its_other_paths() -> None:
    world = World()
    dead = world.links[1].path("NODE", world.now)
    dead.health.fail("no agent of the node consumes there")
    for _ in range(10):
        world.answer(world.call("NODE"))
        world.pass_s(KEPT_S / 2)
    assert world.links[1].paths["NODE"] is dead
    assert not world.links[1].active  # it is not probed any more
    assert forgotten(world)
    assert not world.links[1].paths


def test_a_node_whose_calls_are_held_back_is_kept_with_its_budget() -> None:
    world = World()
    world.answer(world.call("NODE"))
    world.pass_s(KEPT_S - 1)
    for _ in range(RESENDS_FLOOR):
        assert world.budgets.may_resend("NODE", world.now)
    world.pass_s(4)
    assert not world.budgets.may_resend("NODE", world.now)
    assert forgotten(world)


def test_calls_between_two_looks_count_for_the_time_in_which_they_were_made() -> None:
    """A path that is not looked at any more has told the budgets of all its calls before."""
    world = World()
    world.answer(world.call("NODE"))
    world.pass_s(5.0)
    for _ in range(1000):
        world.answer(world.call("NODE"))
    world.pass_s(60.0)
    granted = [world.budgets.may_resend("NODE", world.now) for _ in range(100)]
    assert granted.count(True) == RESENDS_FLOOR


def test_a_dead_path_is_probed_again_when_a_request_waits_for_it() -> None:
    world = World()
    link = world.links[0]
    call = world.call("NODE")
    path: Path = link.paths["NODE"]
    world.pending.finish(call)
    path.health.fail("no agent of the node consumes there")
    world.pass_s(2 * SPARE_AFTER_S, ticks=240)
    assert not link.active
    pings = world.connections[0].pings
    world.pass_s(10.0)
    assert world.connections[0].pings == pings
    world.pending.wait(world.request("NODE"))
    link.watch("NODE")
    world.pass_s(1.0)
    assert world.connections[0].pings > pings


def test_what_was_heard_in_version_2_is_never_forgotten() -> None:
    """Rather is a node that was not heard taken for one that was."""
    newest = TrackingProtocolV2(CONFIG, Keyring(CONFIG.secrets))
    for number in range(MOST_HEARD - 1):
        newest.heard(f"NODE-{number}")
    assert newest.has_heard("NODE-0")
    assert not newest.has_heard("another")
    newest.heard("the last")
    newest.heard("one more")
    assert newest.has_heard("NODE-0")
    assert newest.has_heard("another")
    assert len(newest._heard) == MOST_HEARD
