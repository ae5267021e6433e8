"""Heartbeat: what the master hears of a worker, and what asks the worker to stop."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from servicebus.runtime import heartbeat
from servicebus.runtime.heartbeat import Heartbeat

DRAIN_S = 30.0


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _seconds: float) -> None: ...


class Rig:
    """The master's ends of the two pipes, and signals that the test sends."""

    def __init__(self, drain_s: float = DRAIN_S) -> None:
        self.heard, heartbeat_fd = os.pipe()
        parent_death_fd, self.lives = os.pipe()
        self.quiet, self._signal = os.pipe()
        self.fds = {self.heard, heartbeat_fd, parent_death_fd, self.lives, self.quiet, self._signal}
        self.heartbeat_fd = heartbeat_fd
        os.set_blocking(self.heard, False)
        os.set_blocking(heartbeat_fd, False)
        self.state: dict[str, Any] = {"healthy": True}
        self.loop, self.signals = Mock(iterations=0), Mock()
        self.signals.fileno.return_value = self.quiet
        self.signals.take.return_value = []
        self.heartbeat = Heartbeat(
            self.loop, self.signals, heartbeat_fd, parent_death_fd, lambda: self.state, drain_s=drain_s
        )

    def beats(self) -> list[Any]:
        try:
            return [json.loads(line) for line in os.read(self.heard, 100_000).splitlines()]
        except BlockingIOError:
            return []

    def close(self, *fds: int) -> None:
        for fd in fds or tuple(self.fds):
            self.fds.remove(fd)
            os.close(fd)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(heartbeat, "time", clock)
    return clock


@pytest.fixture
def rig(clock: Clock) -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.mark.parametrize(("is_healthy", "pause_s"), [(True, 1.0), (False, 0.2)])
def test_it_is_sent_once_a_second_and_more_often_while_the_worker_does_not_consume(
    rig: Rig, clock: Clock, is_healthy: bool, pause_s: float
) -> None:
    rig.state["healthy"] = is_healthy
    for part, count in ((0.0, 1), (0.9, 0), (0.2, 1)):
        clock.now += part * pause_s
        rig.loop.iterations += 1
        assert rig.heartbeat.wait(0.0) is None
        assert rig.beats() == [rig.state] * count


def test_a_worker_whose_loop_stands_still_sends_none(rig: Rig, clock: Clock) -> None:
    for expected in ([rig.state], [], []):
        assert rig.heartbeat.wait(0.0) is None
        assert rig.beats() == expected
        clock.now += 1.0
    assert rig.loop.post.call_count == 3, "an idle loop is woken, so that it can be told from one that stands still"
    rig.loop.iterations += 1
    rig.heartbeat.wait(0.0)
    assert rig.beats() == [rig.state]


@pytest.mark.parametrize(
    ("signums", "limit_s"),
    [
        ([signal.SIGTERM], DRAIN_S),
        ([signal.SIGINT], 0.0),
        ([signal.SIGQUIT], 0.0),
        ([signal.SIGHUP], None),
        ([signal.SIGTERM, signal.SIGINT], 0.0),
    ],
)
def test_signals_say_how_long_the_drain_may_take(rig: Rig, signums: list[int], limit_s: float | None) -> None:
    rig.signals.take.return_value = signums
    assert rig.heartbeat.wait(0.0) == limit_s


@pytest.mark.parametrize(("drain_s", "limit_s"), [(DRAIN_S, 1.0), (0.5, 0.5)])
def test_without_a_master_it_leaves_soon(clock: Clock, drain_s: float, limit_s: float) -> None:
    rig = Rig(drain_s)
    rig.close(rig.lives)
    assert rig.heartbeat.wait_for_stop() == limit_s
    assert rig.heartbeat.wait(0.0) is None, "told once"
    rig.close()


def test_a_master_that_does_not_read_or_is_gone_costs_nothing(rig: Rig, clock: Clock) -> None:
    filler = b"x" * 65536
    while True:
        try:
            os.write(rig.heartbeat_fd, filler)
        except BlockingIOError:
            break
    assert rig.heartbeat.wait(0.0) is None
    rig.close(rig.heard)
    clock.now += 1.0
    rig.loop.iterations += 1
    assert rig.heartbeat.wait(0.0) is None


def test_what_the_programs_signal_handler_raises_does_not_end_the_worker(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.signals.take.side_effect = KeyboardInterrupt
    assert rig.heartbeat.wait(0.0) is None
    assert "the main thread was interrupted; it goes on" in caplog.text
