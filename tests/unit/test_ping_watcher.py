"""PingWatcher: when it sends a ping, when it gives a connection up, and when it looks at the topology."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from virtual_bus import configuration

from servicebus.policy.connection import ConnectionState
from servicebus.runtime.ping_watcher import PingWatcher

CONFIG = configuration("mq-a", watcher_interval=8.0, watcher_timeout=3.0)


class Rig:
    """Steps as the thread does, by a clock of the test's."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.loop, self.control = Mock(), SimpleNamespace(echoed_at=0.0)
        self.consumer: Any = Mock(
            consuming_since=self.now, state=ConnectionState.UP, blocked=None, epoch=1, echo_moved_at=0.0
        )
        control: Any = self.control
        self.watcher = PingWatcher(self.loop, self.consumer, control, CONFIG)

    def step(self) -> list[Any]:
        """What is posted to the I/O thread."""
        self.loop.reset_mock()
        self.pause_s = self.watcher.step(self.now)
        return [call.args[0] for call in self.loop.post.call_args_list]

    def until(self, wanted: Any, limit_s: float) -> float:
        began = self.now
        while wanted not in self.step():
            self.now += self.pause_s
            assert self.now - began <= limit_s
        return self.now - began


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_without_an_echo_it_reconnects_once_the_limit_is_over(rig: Rig) -> None:
    assert rig.until(rig.consumer.send_echo, 9.0) == pytest.approx(8.0, abs=0.1)
    rig.now += 2.9
    rig.step()
    assert not rig.consumer.reconnect.called
    rig.now += 0.2
    rig.step()
    rig.consumer.reconnect.assert_called_once_with("no echo through the broker within 3 s")
    rig.step()
    assert rig.consumer.reconnect.call_count == 1, "not at every step"


def test_an_echo_in_time_begins_the_next_interval(rig: Rig) -> None:
    rig.until(rig.consumer.send_echo, 9.0)
    rig.now += 0.5
    rig.control.echoed_at = rig.now
    rig.step()
    assert rig.until(rig.consumer.send_echo, 9.0) == pytest.approx(8.0, abs=0.1)
    assert not rig.consumer.reconnect.called


def test_bytes_that_move_before_the_echo_give_it_more_time(rig: Rig) -> None:
    rig.until(rig.consumer.send_echo, 9.0)
    rig.now += 2.9
    rig.consumer.echo_moved_at = rig.now
    rig.step()
    rig.now += 2.0
    rig.step()
    assert not rig.consumer.reconnect.called


def test_the_topology_is_looked_at_every_five_seconds(rig: Rig) -> None:
    rig.step()
    assert rig.until(rig.consumer.look_after_topology, 6.0) == pytest.approx(5.0, abs=0.1)
    rig.now += 0.1
    assert rig.until(rig.consumer.look_after_topology, 6.0) == pytest.approx(4.9, abs=0.1)


@pytest.mark.parametrize("what", [{"consuming_since": None}, {"state": ConnectionState.BACKOFF}, {"blocked": "alarm"}])
def test_while_no_echo_can_come_it_waits_and_then_begins_again(rig: Rig, what: dict[str, Any]) -> None:
    usual = {name: getattr(rig.consumer, name) for name in what}
    rig.consumer.configure_mock(**what)
    for _ in range(100):
        assert rig.step() == [] and rig.pause_s == 0.25
        rig.now += rig.pause_s
    rig.consumer.configure_mock(**usual)
    began = rig.now
    rig.until(rig.consumer.send_echo, 9.0)
    assert rig.now - began == pytest.approx(8.0, abs=0.3), "not at once: it has only just come back"
    assert not rig.consumer.reconnect.called


def test_new_connections_have_a_whole_interval(rig: Rig) -> None:
    rig.until(rig.consumer.send_echo, 9.0)
    rig.now += 2.9
    rig.consumer.epoch, rig.consumer.consuming_since = 2, rig.now
    rig.step()
    rig.now += 2.9
    rig.step()
    assert not rig.consumer.reconnect.called
