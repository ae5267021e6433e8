"""LivenessTimer: often while something is unfinished, seldom while a link is up, and else not at all."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus.client.timer import LivenessTimer


class Rig:
    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.pending, self.scheduler, self.watch = MagicMock(), Mock(outbox=None), Mock(is_waiting=False)
        self.pending.__len__.return_value = 0
        self.link = SimpleNamespace(is_up=False, is_wanted=False)
        links: Any = [self.link]
        self.timer = LivenessTimer(
            time.loop("engine"), links, self.pending, self.scheduler, self.watch, Mock(), Mock(), Mock()
        )

    @property
    def ticks(self) -> int:
        count: int = self.scheduler.end_overdue.call_count
        return count


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with virtual_time(monkeypatch) as time:
        yield Rig(time)


def test_while_something_is_unfinished_it_ticks_twenty_times_a_second(rig: Rig) -> None:
    rig.pending.__len__.return_value = 1
    rig.timer.set()
    rig.time.advance(1.01)
    assert rig.ticks == 20 and rig.timer.is_busy


def test_while_a_link_is_up_it_ticks_twice_a_second_and_has_the_link_watched(rig: Rig) -> None:
    rig.link.is_up = True
    rig.timer.set()
    rig.time.advance(2.1)
    assert rig.ticks == 4 and not rig.timer.is_busy
    assert rig.watch.check.call_count == 4


def test_with_nothing_to_look_after_it_ends(rig: Rig) -> None:
    rig.timer.set()
    rig.time.advance(10)
    assert rig.ticks == 1


def test_a_request_after_a_pause_does_not_wait_for_an_idle_tick(rig: Rig) -> None:
    rig.link.is_up = True
    rig.timer.set()
    rig.time.advance(0.1)
    rig.pending.__len__.return_value = 1
    rig.timer.set()
    rig.time.advance(0.06)
    assert rig.ticks == 1


def test_messages_that_are_owed_keep_it_going(rig: Rig) -> None:
    rig.scheduler.outbox = Mock(is_waiting=True)
    rig.timer.set()
    rig.time.advance(2.1)
    assert rig.ticks == 4 and rig.scheduler.outbox.tick.call_count == 4


def test_after_its_end_it_does_not_tick(rig: Rig) -> None:
    rig.pending.__len__.return_value = 1
    rig.timer.set()
    rig.timer.stop()
    rig.timer.set()
    rig.time.advance(1)
    assert rig.ticks == 0
