"""Pipeline: when it ticks, what it decides first, and which connections it gives copies up for; in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.journal import MemoryJournal
from servicebus.runtime.pipeline import Pipeline


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as time:
        yield time


@pytest.fixture
def ticks() -> list[float]:
    return []


@pytest.fixture
def pipeline(time: VirtualTime, ticks: list[float]) -> Pipeline:
    loop = time.loop("worker")
    dispatcher = Dispatcher(loop, {}, MemoryJournal(), "mq-a:5672")
    return Pipeline(loop, dispatcher, "mq-a:5672", 64, lambda _error: None, lambda: ticks.append(time.now))


def test_it_ticks_once_a_second_while_it_is_idle_and_four_times_while_it_is_not(
    time: VirtualTime, pipeline: Pipeline, ticks: list[float]
) -> None:
    pipeline.start()
    time.advance(3.9)
    assert len(ticks) == 4
    held: Any = Mock()
    pipeline._dispatcher.held.append(held)
    time.advance(4)
    assert len(ticks) == 4 + 1 + 15


def test_what_was_held_is_decided_before_what_has_come_since(pipeline: Pipeline) -> None:
    held: Any = Mock()
    came: Any = Mock()
    pipeline._dispatcher.held.append(held)
    pipeline._jobs.append(came)
    pipeline._decide_again()
    assert pipeline._jobs == [held, came]
    assert pipeline._dispatcher.held == []


def test_copies_are_given_up_for_the_newest_connections_alone(
    time: VirtualTime, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are on their way over the newest ones would be given up for the sake of the former."""
    give_up = Mock()
    monkeypatch.setattr(pipeline.copies, "give_up", give_up)
    publisher: Any = Mock()
    pipeline.begin(1, publisher)
    time.advance(1.5)
    pipeline.begin(2, publisher)
    time.advance(1)
    assert give_up.call_args_list == []
    time.advance(1)
    give_up.assert_called_once_with(2)
