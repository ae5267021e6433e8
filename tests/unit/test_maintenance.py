"""What a worker does about an operator's mark, step by step; with brokers in memory: ``test_worker_connections.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from servicebus.configuration import Configuration
from servicebus.runtime.maintenance import _TRANSITIONS, Maintenance, MaintenanceState, _Event, _Phase
from servicebus.transport.connection_manager import ConnectionManager

CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "N", "secret_token": "a secret of the test"})


class Rig:
    """A maintenance, and all that it touches; ``done`` is what it has done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.is_idle = True
        self.timers: list[Callable[[], None]] = []
        self.script: Any = None
        self.epoch = 0
        itself: Any = self
        self.maintenance = Maintenance(itself, CONFIG, "mq-a", itself)

    # What is asked of the loop, the connection, the channel and the consumer.

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append(callback)

    def open_channel(self, opened: Callable[[Any], None], _broken: Any, *, on_returned: Any, on_confirmed: Any) -> None:
        self.returned, self.confirmed = on_returned, on_confirmed
        opened(self)

    def publish(self, _exchange: str, _queue: str, _body: bytes, *, mandatory: bool) -> None:
        assert mandatory

    def run(self, script: Any, then: Callable[[], None]) -> None:
        assert self.script is None, "a channel runs one script at a time"
        self.script = script, then

    def transient_queue(self, name: str) -> str:
        return name

    @property
    def connections(self) -> Rig:
        return self

    in_this_epoch = ConnectionManager.in_this_epoch

    def refuse_calls(self, is_leaving: bool) -> None:
        self.done.append("refuses calls" if is_leaving else "takes calls")

    def cancel(self, name: str) -> None:
        self.done.append(f"cancels {name}")

    def bind_again(self) -> Any:
        self.done.append("binds again")
        yield from ()

    def renew(self, _reason: str) -> None:
        self.done.append("renews")

    # What the test does.

    def connect(self) -> None:
        connection: Any = self
        self.script = None
        self.epoch += 1
        self.maintenance.begin(connection, lambda _error: None, lambda: self.done.append("opens subscriptions"))

    def answer(self, *, is_marked: bool) -> None:
        if not is_marked:
            self.returned(None)
        self.confirmed(1, False, True)
        self.maintenance._ask()

    def finish(self, calls: int = 0) -> list[str]:
        """The broker does what the script asks for; which steps that were. *calls* wait at the broker."""
        (script, then), self.script = self.script, None
        steps: list[str] = []
        answer = None
        try:
            while True:
                step = script.send(answer)
                steps.append(type(step).__name__)
                answer = ("queue", calls, 1)
        except StopIteration:
            then()
        return steps

    def open(self, *, is_marked: bool = False) -> None:
        """Connected, and consuming."""
        self.connect()
        self.answer(is_marked=is_marked)
        self.maintenance.subscriptions_open()
        self.done.clear()

    @property
    def state(self) -> str:
        return self.maintenance.state


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_without_a_mark_nothing_is_done_but_to_take_calls(rig: Rig) -> None:
    rig.connect()
    assert (rig.done, rig.state) == ([], "")
    rig.answer(is_marked=False)
    assert rig.done == ["takes calls", "opens subscriptions"]
    rig.maintenance.subscriptions_open()
    rig.answer(is_marked=False)
    assert (len(rig.done), rig.state, rig.script) == (2, "", None)


def test_a_marked_broker_is_left_after_it_was_found_empty_twice(rig: Rig) -> None:
    rig.open()
    rig.answer(is_marked=True)
    assert (rig.done, rig.state) == (["refuses calls"], "leaving")
    rig.finish(calls=3)
    rig.answer(is_marked=True)
    rig.finish()
    rig.answer(is_marked=True)
    rig.is_idle = False
    rig.finish()
    rig.is_idle = True
    rig.answer(is_marked=True)
    rig.finish()
    assert rig.state == "leaving", "what it was given was unfinished in between"
    rig.answer(is_marked=True)
    rig.finish()
    assert (rig.done[1:], rig.state) == (["cancels calls", "cancels control"], "drained")


def test_of_a_marked_broker_that_one_connects_to_only_what_is_stored_is_consumed(rig: Rig) -> None:
    rig.connect()
    rig.answer(is_marked=True)
    assert (rig.done, rig.state, rig.maintenance.is_asked) == (["opens subscriptions"], "leaving", True)
    rig.answer(is_marked=False)
    assert rig.maintenance.is_asked, "there is nothing to come back to yet"
    rig.maintenance.subscriptions_open()
    assert (rig.done[1:], rig.state) == (["refuses calls"], "drained")
    assert rig.finish()


def test_one_that_is_drained_unbinds_again_and_comes_back_over_new_connections(rig: Rig) -> None:
    rig.open(is_marked=True)
    rig.finish()
    rig.answer(is_marked=True)
    assert len(rig.finish()) == 1
    rig.answer(is_marked=False)
    assert (rig.done, rig.state) == (["renews"], "")
    rig.connect()
    rig.answer(is_marked=False)
    assert rig.done[1:] == ["takes calls", "opens subscriptions"]


def test_a_mark_that_is_removed_while_the_broker_answers_a_step_is_followed_by_binding_again(rig: Rig) -> None:
    """The step may unbind what is bound: the other must come after it, and must not be forgotten."""
    rig.open()
    for _ in range(2):
        rig.answer(is_marked=True)
        (leaving, _then) = rig.script
        rig.answer(is_marked=False)
        assert (rig.state, rig.script[0]) == ("", leaving)
        rig.finish()
        rig.finish()
    assert rig.done == ["refuses calls", "takes calls", "binds again"] * 2
    assert "cancels calls" not in rig.done
    assert rig.script is None


def test_a_broker_that_does_not_answer_is_believed_to_be_what_it_was(rig: Rig) -> None:
    rig.connect()
    rig.timers.pop(0)()
    assert (rig.done, rig.state) == (["takes calls", "opens subscriptions"], "")
    rig.maintenance.subscriptions_open()
    rig.answer(is_marked=True)
    rig.maintenance.end()
    rig.timers.clear()
    rig.connect()
    rig.timers.pop(0)()
    assert (rig.done[3:], rig.state) == (["opens subscriptions"], "leaving")


def test_what_a_former_connection_says_changes_nothing(rig: Rig) -> None:
    rig.open()
    confirmed = rig.confirmed
    rig.maintenance.end()
    rig.connect()
    confirmed(1, False, True)
    for timer in rig.timers[:-1]:
        timer()
    assert (rig.done, rig.state) == ([], "")


def test_each_state_has_an_answer_to_each_question_that_may_be_asked_in_it() -> None:
    asked = {(phase, event) for phase, _, event in _TRANSITIONS}
    answers = (_Event.MARKED, _Event.UNMARKED)
    assert {(_Phase.ASKING, event) for event in (*answers, _Event.SILENT)} <= asked
    for state in MaintenanceState:
        for event in answers:
            assert (_Phase.ASKING, state, event) in _TRANSITIONS
    quiet = (_Phase.OPEN, MaintenanceState.NONE, _Event.UNMARKED)
    missing = {(_Phase.OPEN, state, event) for state in MaintenanceState for event in answers} - _TRANSITIONS.keys()
    assert missing == {quiet}
    assert not any(phase is _Phase.OPENING for phase, *_ in _TRANSITIONS)
