"""A bridge between two brokers in memory: by a clock that the test turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus._plain import MessageProperties
from servicebus.configuration import Configuration
from servicebus.operations.bridge import Bridge
from servicebus.transport.memory import MemoryNetwork
from servicebus.transport.memory_queues import Message
from servicebus.transport.properties import read_all, write_all


class Rig:
    def __init__(self, time: VirtualTime, **entry: Any):
        self.time, self.loop = time, time.loop("bridge")
        config = Configuration(
            {
                "connections": [{"name": "a", "host": "a"}, {"name": "b", "host": "b"}],
                "bridges": [
                    {"from": {"host": "a", "queue": "source"}, "to": {"host": "b", "routing_key": "target"}, **entry}
                ],
            }
        )
        self.network = MemoryNetwork(*[host.address for host in config.connections])
        self.source, self.target = (self.network[host.address] for host in config.connections)
        self.bridge = Bridge(self.loop, config, config.bridges[0], self.network.connect)
        self.loop.post(self.bridge.start)
        self.until(lambda: "source" in self.source.queues)

    def until(self, condition: Any) -> None:
        self.time.until(condition)

    def make_target(self) -> None:
        nobody: Any = None
        how = {"durable": True, "exclusive": False, "auto_delete": False, "passive": False}
        with self.target.lock:
            self.target.declare_queue("target", nobody, arguments={}, **how)

    def publish(self, *bodies: bytes, **about: Any) -> None:
        flags, raw = write_all(MessageProperties(**about))
        found = MessageProperties(**about)
        known = found.correlation_id, found.reply_to, found.message_id, found.headers
        with self.source.working_for(self.loop):
            for body in bodies:
                message = Message("", "source", body, known, True, written=(flags, raw))
                self.source.store(message, self.source.route("", "source"))

    def bodies(self, queue: str = "target") -> list[bytes]:
        broker = self.target if queue == "target" else self.source
        return [each.body for each in broker.queues[queue].ready]


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as clock:
        yield clock


def test_what_comes_is_moved_and_then_acknowledged(time: VirtualTime) -> None:
    rig = Rig(time)
    rig.make_target()
    rig.publish(b"one", b"two", content_type="text/plain", type="t")
    rig.until(lambda: len(rig.bodies()) == 2 and not rig.bridge.unsettled)
    assert rig.bodies() == [b"one", b"two"] and rig.bridge.counters["moved"] == 2
    assert read_all(*rig.target.queues["target"].ready[0].written).type == "t"


def test_what_is_lost_with_the_source_is_no_double_if_it_has_an_id(time: VirtualTime) -> None:
    rig = Rig(time)
    rig.make_target()
    rig.source.loses_acks = True
    rig.publish(b"one", message_id="m")
    rig.until(lambda: rig.bridge.counters["moved"] == 1)
    rig.source.loses_acks = False
    rig.source.drop()
    rig.until(lambda: rig.bridge.counters["doubles"] == 1)
    assert rig.bodies() == [b"one"]


def test_what_the_target_refuses_is_tried_again_and_holds_up_nothing(time: VirtualTime) -> None:
    rig = Rig(time, retry=[1, 1])
    rig.publish(b"early")
    rig.until(lambda: rig.bridge.counters["refused"])
    rig.make_target()
    rig.publish(b"late")
    rig.until(lambda: len(rig.bodies()) == 2)
    assert rig.bodies() == [b"late", b"early"]


def test_what_is_refused_for_good_is_a_dead_letter(time: VirtualTime) -> None:
    rig = Rig(time, retry=[1], dead_letters="source.dead")
    rig.publish(b"one", message_id="m", headers={"own": 1})
    rig.until(lambda: rig.bridge.counters["dead"] == 1 and not rig.bridge.unsettled)
    (letter,) = rig.source.queues["source.dead"].ready
    found = read_all(*letter.written)
    assert letter.body == b"one" and found.message_id == "m" and found.headers is not None
    assert found.headers["own"] == 1 and "no queue is bound" in found.headers["x-servicebus-reason"]


def test_nothing_is_lost_with_the_target(time: VirtualTime) -> None:
    rig = Rig(time)
    rig.make_target()
    rig.target.holds_confirms = True
    rig.publish(b"one", b"two")
    rig.until(lambda: len(rig.bodies()) == 2)
    assert rig.bridge.unsettled == 2
    rig.target.holds_confirms = False
    rig.target.drop()
    rig.until(lambda: rig.bridge.counters["moved"] >= 2)
    assert set(rig.bodies()) == {b"one", b"two"}


def test_it_stops_in_order(time: VirtualTime) -> None:
    rig = Rig(time)
    rig.make_target()
    rig.publish(b"one")
    rig.until(lambda: rig.bridge.counters["moved"] == 1)
    rig.loop.post(rig.bridge.stop)
    rig.until(lambda: not rig.bridge.unsettled)
    rig.loop.post(rig.bridge.close)
    rig.until(lambda: rig.bridge.is_gone)
    assert "1 message moved" in rig.bridge.summary()
