"""Subscriptions: a queue for which the broker does not answer is out of reach, and the others are served."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest

from servicebus.errors import QueueConflict, QueueStranded, TransportError
from servicebus.runtime.subscriptions import ANSWER_S, WAITING_AGAIN_S, Subscription, Subscriptions
from servicebus.transport.interface import Asked, BrokerChannel, Script, Step

LONG_S = 10 * ANSWER_S


class Loop:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self._now = 0.0
        self._later: list[tuple[float, int, Callable[[], None]]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self._now + delay_s, len(self._later), callback))

    def pass_time(self, seconds: float) -> None:
        until = self._now + seconds
        while self._later and self._later[0][0] <= until:
            self._now, _, callback = heapq.heappop(self._later)
            callback()
        self._now = until


class Channel:
    """A channel of a broker that answers for each queue at once, unless it is *mute* for it."""

    def __init__(self, broker: Broker, on_closed: Callable[[TransportError], None]):
        self.broker = broker
        self.on_closed = on_closed
        self.is_open = True
        self.asked: Asked | None = None
        self._script: Script | None = None
        self._on_done: Callable[[], None] | None = None

    def run(self, script: Script, on_done: Callable[[], None] | None = None) -> None:
        self._script, self._on_done = script, on_done
        self.go_on(None)

    def go_on(self, answer: Any) -> None:
        assert self._script is not None
        try:
            step = self._script.send(answer)
        except StopIteration:
            if self._on_done is not None:
                self._on_done()
            return
        step(self, self.go_on)  # type: ignore[arg-type]

    def declare_queue(self, name: str, on_done: Callable[[Any], None], *, passive: bool, **_: Any) -> None:
        def answered(answer: Any) -> None:
            self.asked = None
            on_done(answer)

        self.asked = Asked(name, not passive)
        name = name or "generated"
        if self.broker.is_mute_for(name):
            self.broker.unanswered[name] = (self, answered)
        else:
            answered((name, 0, 0))

    def delete_queue(self, _name: str, on_done: Callable[[int], None], **_: Any) -> None:
        on_done(0)

    def close(self) -> None:
        self.is_open = False


class Broker:
    """A connection to it, too."""

    def __init__(self, *mute: str):
        self.mute = set(mute)
        self.unanswered: dict[str, tuple[Channel, Callable[[Any], None]]] = {}

    def is_mute_for(self, queue: str) -> bool:
        return queue in self.mute or "*" in self.mute

    def open_channel(self, on_open: Callable[[Channel], None], on_closed: Callable[[TransportError], None]) -> None:
        on_open(Channel(self, on_closed))

    def answer(self, queue: str) -> None:
        _, callback = self.unanswered.pop(queue)
        callback((queue, 0, 0))

    def refuse(self, queue: str, error: TransportError) -> None:
        channel, _ = self.unanswered.pop(queue)
        channel.is_open = False
        channel.on_closed(error)


class Consumer:
    """Owns the subscriptions, and notes what it is told."""

    def __init__(self, broker: Broker):
        self.loop = Loop()
        self.opened: list[str] = []
        self.broken: list[TransportError] = []
        self.problems: list[str] = []
        self.worth_another_try: list[str] = []
        self.queues: dict[str, str] = {}
        self.is_done = False
        loop: Any = self.loop
        connection: Any = broker
        self.subscriptions = Subscriptions(loop, "mq", connection, self._plan, self)

    def _plan(self) -> list[Subscription]:
        return [Subscription(name, self._script(name)) for name in ("echo", "control", "calls", "messages", "delays")]

    def _script(self, name: str) -> Callable[[Any], Script]:
        def script(_keep: Any) -> Script:
            yield not_about_a_queue
            yield declare(self.queues.get(name, f"N.{name}"))
            self.opened.append(name)

        return script

    def open(self) -> None:
        self.subscriptions.open(self._done)

    def _done(self) -> None:
        assert not self.is_done
        self.is_done = True

    def is_worth_another_try(self, refused: str) -> bool:
        is_worth = refused in self.worth_another_try
        if is_worth:
            self.worth_another_try.remove(refused)
        return is_worth

    def subscription_waits(self, reason: str) -> None:
        self.problems.append(reason)

    def subscription_broken(self, error: TransportError) -> None:
        self.broken.append(error)
        self.subscriptions.end()


def not_about_a_queue(channel: BrokerChannel, on_done: Callable[[Any], None]) -> None:
    on_done(None)


def declare(queue: str) -> Step:
    from servicebus.transport.steps import declare_queue

    return declare_queue(queue, durable=True)


@pytest.mark.parametrize("name", ["control", "calls"])
def test_a_queue_for_callers_that_is_not_answered_for_is_out_of_reach(name: str) -> None:
    consumer = Consumer(Broker(f"N.{name}"))
    consumer.open()
    consumer.loop.pass_time(ANSWER_S / 2)
    assert not consumer.broken
    consumer.loop.pass_time(LONG_S)
    (error,) = consumer.broken
    assert isinstance(error, QueueStranded)
    assert error.queue == f"N.{name}"


def test_a_queue_of_messages_that_is_not_answered_for_waits_and_is_open_when_it_is() -> None:
    broker = Broker("N.messages")
    consumer = Consumer(broker)
    consumer.open()
    consumer.loop.pass_time(LONG_S)
    assert not consumer.broken
    assert consumer.is_done, "calls are served"
    assert consumer.opened == ["echo", "control", "calls"]
    assert "N.messages is out of reach: its member of the cluster is away" in consumer.subscriptions.problem
    broker.mute.clear()
    broker.answer("N.messages")
    consumer.loop.pass_time(2 * WAITING_AGAIN_S)
    assert consumer.opened == ["echo", "control", "calls", "messages", "delays"]
    assert consumer.subscriptions.problem == ""


def test_one_that_is_refused_after_a_long_silence_is_asked_for_again() -> None:
    broker = Broker("N.messages")
    consumer = Consumer(broker)
    consumer.open()
    for _ in range(3):
        consumer.loop.pass_time(LONG_S)
        assert list(broker.unanswered) == ["N.messages"], "it is asked for once at a time"
        broker.refuse("N.messages", QueueStranded("mq", "it timed out", queue="N.messages"))
        assert not consumer.broken
        assert consumer.subscriptions.problem
    broker.mute.clear()
    consumer.loop.pass_time(2 * WAITING_AGAIN_S)
    assert consumer.opened[-2:] == ["messages", "delays"]
    assert consumer.subscriptions.problem == ""


def test_a_broker_that_answers_nothing_at_all_is_not_taken_for_a_queue_out_of_reach() -> None:
    broker = Broker("*")
    consumer = Consumer(broker)
    consumer.open()
    consumer.loop.pass_time(LONG_S)
    assert not consumer.broken
    assert not consumer.problems
    assert not consumer.is_done


def test_a_slow_answer_that_comes_before_the_proof_counts() -> None:
    broker = Broker("N.control", "generated")
    consumer = Consumer(broker)
    consumer.open()
    consumer.loop.pass_time(LONG_S)
    broker.answer("N.control")
    broker.answer("generated")
    assert not consumer.broken
    assert consumer.is_done


@pytest.mark.parametrize("silent_s", [0.0, LONG_S])
@pytest.mark.parametrize("tries", [1, 2])
@pytest.mark.parametrize("name", ["messages", "delays"])
def test_a_queue_that_can_be_declared_in_another_form_is_declared_at_once(
    name: str, tries: int, silent_s: float
) -> None:
    queue = f"N.{name}" if name == "messages" else "N.messages.delay.5"
    broker = Broker(queue)
    consumer = Consumer(broker)
    consumer.queues["delays"] = "N.messages.delay.5"
    consumer.worth_another_try = [queue] * tries
    consumer.open()
    consumer.loop.pass_time(silent_s)
    for _ in range(tries):
        assert name not in consumer.opened
        broker.refuse(queue, QueueConflict("mq", "refused", queue=queue))
    broker.answer(queue)
    assert name in consumer.opened
    consumer.loop.pass_time(2 * WAITING_AGAIN_S)
    assert consumer.is_done
    assert not consumer.subscriptions.problem
    assert not consumer.broken


def test_a_queue_of_another_type_waits() -> None:
    broker = Broker("N.messages")
    consumer = Consumer(broker)
    consumer.worth_another_try = ["N.messages"]
    consumer.open()
    for _ in range(2):
        broker.refuse("N.messages", QueueConflict("mq", "refused", queue="N.messages"))
    assert consumer.is_done
    assert consumer.subscriptions.problem
    broker.mute.clear()
    consumer.loop.pass_time(2 * WAITING_AGAIN_S)
    assert not consumer.subscriptions.problem
    assert {"messages", "delays"} <= set(consumer.opened)


def test_what_is_asked_for_again_is_a_problem_until_it_is_there() -> None:
    broker = Broker("N.messages")
    consumer = Consumer(broker)
    consumer.open()
    consumer.loop.pass_time(LONG_S)
    broker.refuse("N.messages", QueueConflict("mq", "one queue too many", queue="N.messages"))
    consumer.loop.pass_time(WAITING_AGAIN_S + 0.1)
    assert list(broker.unanswered) == ["N.messages"], "it is asked for, and has not answered yet"
    assert consumer.subscriptions.problem, "else the monitor would declare the queue, and lose the connection by that"
    broker.mute.clear()
    broker.answer("N.messages")
    consumer.loop.pass_time(WAITING_AGAIN_S)
    assert consumer.subscriptions.problem == ""
