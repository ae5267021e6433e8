"""Copies of messages: acked only when stored, and what becomes of those that the broker refuses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.protocol.interface import Incoming
from servicebus.runtime.copy_store import CopyStore
from servicebus.runtime.job import Copy, Disposition, Job, PendingDelivery, dead_letter, later_attempt
from servicebus.runtime.journal import Release
from servicebus.transport.confirmed_channel import NACK
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import Kind
from servicebus.wire.stamps import Stamps, WaitStamp

FULL = NACK
TOO_LARGE = "it is 2000 bytes, and broker mq-a takes 1000: raise its max_message_size"
QUEUES = {
    "dead": dead_letter("ValueError", "boom"),
    "delay": later_attempt(5.0, 1),
    "delay-deferred": later_attempt(1.0, 0, is_deferred=True),
}


@dataclass
class Loop:
    timers: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    failures: FailureLog = field(default_factory=lambda: FailureLog("test"))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((delay_s, callback))

    def fire(self) -> None:
        timers, self.timers = self.timers, []
        for _, callback in timers:
            callback()


@dataclass
class Channel:
    acked: list[int] = field(default_factory=list)

    def ack(self, tag: int) -> None:
        self.acked.append(tag)


@dataclass
class Publisher:
    """Remembers what was published; ``answer`` is the broker's word."""

    published: list[tuple[int, Callable[[str], None]]] = field(default_factory=list)

    def address_copy(self, _original: PendingDelivery, copy: Copy) -> tuple[str, dict[str, Any]]:
        return next(name for name, what in QUEUES.items() if what == copy), {}

    def store(self, original: PendingDelivery, _queue: str, _headers: Any, on_answered: Callable[[str], None]) -> None:
        self.published.append((original.delivery.tag, on_answered))

    def answer(self, refused: str = "", count: int = 1_000) -> list[int]:
        """Answer the first *count* of those that wait for it; gives their tags."""
        answered, self.published = self.published[:count], self.published[count:]
        for _, on_answered in answered:
            on_answered(refused)
        return [tag for tag, _ in answered]


class Rig:
    def __init__(self) -> None:
        self.loop, self.channel, self.publisher = Loop(), Channel(), Publisher()
        self.counters: Counter[str] = Counter()
        self.stored: list[int] = []
        self.releases: list[Release | None] = []
        loop: Any = self.loop
        notes: Any = self
        self.store = CopyStore(loop, "mq-a:5672", self.counters, notes)
        self.begin(1)

    def add(self, id: str, why: Release | None) -> None:
        """A note for the journal."""
        self.releases.append(why)
        assert int(id) not in self.channel.acked, "the journal is told first"
        self.stored.append(int(id))

    def tell(self) -> None: ...

    def begin(self, epoch: int) -> None:
        publisher: Any = self.publisher
        self.epoch = epoch
        self.store.begin(epoch, publisher)

    def settle(self, tag: int, queue: str = "dead", again: int | None = None, release: Release | None = None) -> None:
        """Keep the message that is delivered with *tag*; *again*: the message that came with that tag before."""
        no: Any = None
        channel: Any = self.channel
        id = str(tag if again is None else again)
        incoming = Incoming(id, Kind.MESSAGE, "test", "it", "test.it", "", "2", b"", 0, None, 0.0, "")
        job = Job(Delivery(channel, tag, b"body"), self.epoch, "", incoming, no)
        if again is None:
            self.store.store(self.store.keep(Disposition([job], None, QUEUES[queue], release=release), job))
        else:
            self.store.store(self.store.join(job))


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize(("queue", "counter"), [("dead", "dead"), ("delay", "delayed"), ("delay-deferred", "aside")])
def test_the_original_is_acked_once_the_copy_is_confirmed_and_counted_then(rig: Rig, queue: str, counter: str) -> None:
    rig.settle(1, queue)
    assert (rig.channel.acked, rig.counters) == ([], {})
    rig.publisher.answer()
    assert (rig.stored, rig.channel.acked, rig.counters) == ([1], [1], {counter: 1})


@pytest.mark.parametrize("queue", QUEUES)
def test_a_refused_copy_is_not_stored_and_is_published_again_until_it_is(
    rig: Rig, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig.settle(1, queue)
    for count in range(1, 6):
        assert rig.publisher.answer(FULL) == [1]
        assert (rig.stored, rig.channel.acked, rig.publisher.published) == ([], [], [])
        assert rig.counters == {"not-stored": count}
        rig.loop.fire()
    assert rig.publisher.answer() == [1]
    assert (rig.stored, rig.channel.acked, rig.store.has("1")) == ([1], [1], False)
    assert rig.loop.timers == []


def test_a_full_queue_is_told_once_and_shown_until_it_takes_copies_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for tag in range(3):
        rig.settle(tag)
    rig.publisher.answer(FULL)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    for words in ("mq-a:5672", "queue dead", FULL, "nothing is lost"):
        assert words in record.getMessage()
    assert rig.store.problem == f"queue dead: {FULL}; 3 messages wait unacknowledged"
    rig.loop.fire()
    rig.publisher.answer()
    rig.publisher.answer()
    assert rig.store.problem == ""
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.INFO]


def test_a_queue_that_is_full_again_and_again_does_not_fill_the_log(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for tag in range(50):
        rig.settle(tag)
        rig.publisher.answer(FULL)
        rig.loop.fire()
        rig.publisher.answer()
    assert len(rig.channel.acked) == 50
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.INFO]


def test_a_full_queue_is_asked_with_one_copy_at_a_time_after_pauses_that_grow(rig: Rig) -> None:
    for tag in range(100):
        rig.settle(tag)
    rig.publisher.answer(FULL)
    ceilings = []
    for _ in range(40):
        ((delay_s, _),) = rig.loop.timers
        ceilings.append(delay_s)
        rig.settle(1000 + len(ceilings))  # more that fail meanwhile
        rig.loop.fire()
        assert len(rig.publisher.answer(FULL)) == 1
    assert max(ceilings[:3]) <= 0.8
    assert 1 < max(ceilings) <= 15


def test_all_that_wait_follow_when_the_queue_has_room_again(rig: Rig) -> None:
    for tag in range(100):
        rig.settle(tag)
    rig.publisher.answer(FULL)
    rig.loop.fire()
    rounds = 0
    while rig.publisher.published:
        rig.publisher.answer()
        rounds += 1
    assert sorted(rig.channel.acked) == list(range(100))
    assert rounds < 10


def test_a_queue_that_has_room_for_some_takes_those_and_the_rest_waits(rig: Rig) -> None:
    for tag in range(10):
        rig.settle(tag)
    rig.publisher.answer(FULL)
    rig.loop.fire()
    rig.publisher.answer()
    assert len(rig.publisher.answer(FULL)) == 2, "each copy that it takes lets two follow"
    assert len(rig.channel.acked) == 1
    assert rig.store.problem.endswith("9 messages wait unacknowledged")
    assert len(rig.loop.timers) == 1


def test_the_pauses_are_short_again_after_a_copy_that_the_queue_has_taken(rig: Rig) -> None:
    for tag in range(100):
        rig.settle(tag)
    rig.publisher.answer(FULL)
    pauses = []
    for _ in range(10):  # each is drawn up to its ceiling
        for _ in range(8):
            rig.loop.fire()
            rig.publisher.answer(FULL)
        rig.loop.fire()
        rig.publisher.answer()
        rig.publisher.answer(FULL)
        ((pause_s, _),) = rig.loop.timers
        pauses.append(pause_s)
    assert max(pauses) <= 0.2


def test_a_confirm_that_comes_after_the_nack_of_a_later_copy_does_not_mean_that_there_is_room(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig.settle(1)
    rig.settle(2)
    (first, second), rig.publisher.published = rig.publisher.published, []
    second[1](FULL)
    first[1]("")
    assert rig.publisher.published == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    rig.loop.fire()
    assert rig.publisher.answer() == [2]


def test_one_full_queue_holds_up_no_other(rig: Rig) -> None:
    rig.settle(1, "dead")
    rig.publisher.answer(FULL)
    rig.settle(2, "delay")
    assert rig.publisher.answer() == [2]
    assert rig.channel.acked == [2]


def test_a_message_that_is_too_large_holds_up_no_other_in_the_same_queue(rig: Rig) -> None:
    rig.settle(1, "dead")
    rig.publisher.answer(TOO_LARGE)
    assert "max_message_size; 1 message waits unacknowledged" in rig.store.problem
    rig.settle(2, "dead")
    assert rig.publisher.answer() == [2]
    rig.loop.fire()
    assert rig.publisher.answer(TOO_LARGE) == [1]
    rig.loop.fire()
    assert rig.publisher.answer() == [1]
    assert (rig.channel.acked, rig.store.problem) == ([2, 1], "")


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from(["", FULL, TOO_LARGE, "timers"]), st.integers(1, 4)), max_size=40),
)
def test_whatever_a_broker_answers_all_is_stored_once_in_the_end(count: int, events: list[tuple[str, int]]) -> None:
    rig = Rig()
    for tag in range(count):
        rig.settle(tag)
    for what, many in events:
        if what == "timers":
            rig.loop.fire()
        else:
            rig.publisher.answer(what, many)
        assert len(rig.channel.acked) == len(set(rig.channel.acked))
    for _ in range(4 * count + 4):
        rig.publisher.answer()
        rig.loop.fire()
    assert sorted(rig.channel.acked) == list(range(count))
    assert (rig.store.problem, rig.publisher.published) == ("", [])


def test_what_joins_a_refused_message_is_acked_with_it_and_published_once(rig: Rig) -> None:
    rig.settle(1)
    rig.publisher.answer(FULL)
    rig.settle(2, again=1)
    assert rig.publisher.published == []
    rig.loop.fire()
    rig.settle(3, again=1)
    assert rig.publisher.answer() == [1]
    assert (rig.channel.acked, rig.publisher.published) == ([1, 2, 3], [])


@pytest.mark.parametrize("refused", ["", FULL])
def test_an_answer_of_an_older_connection_settles_nothing(rig: Rig, refused: str) -> None:
    """The channel closed between: whether the copy is stored is unknown, and the broker delivers the original again."""
    rig.settle(1)
    rig.store.end()
    rig.begin(2)
    rig.publisher.answer(refused)
    rig.loop.fire()
    assert (rig.stored, rig.channel.acked, rig.publisher.published) == ([], [], [])
    rig.settle(7, again=1)
    assert rig.publisher.answer() == [7]
    assert rig.channel.acked == [7], "the tag of the older connection is void"


def test_what_waited_for_a_full_queue_comes_again_with_the_next_connection(rig: Rig) -> None:
    rig.settle(1)
    rig.publisher.answer(FULL)
    rig.store.end()
    assert rig.store.problem == ""
    rig.begin(2)
    rig.loop.fire()
    assert rig.publisher.published == []
    rig.settle(8, again=1)
    rig.publisher.answer()
    assert rig.channel.acked == [8]


def test_what_was_not_confirmed_is_released_when_another_connection_is_there_for_a_while(rig: Rig) -> None:
    """Its original stands with another worker, if it has not come again; and its confirm never comes."""
    rig.settle(1)
    rig.store.end()
    rig.begin(2)
    rig.settle(2)
    rig.store.give_up(2)
    assert (rig.stored, rig.store.has("1"), rig.store.has("2")) == ([1], False, True)
    rig.store.give_up(None)
    assert (rig.stored, rig.store.has("2")) == ([1, 2], False)


def test_what_is_kept_without_a_connection_waits_for_the_next_one(rig: Rig) -> None:
    rig.store.end()
    rig.settle(1)
    assert (rig.publisher.published, rig.store.has("1")) == ([], True)
    rig.begin(2)
    rig.settle(5, again=1)
    assert rig.publisher.answer() == [5]
    assert (rig.stored, rig.channel.acked) == ([1], [5])


def test_what_cannot_be_copied_is_a_dead_letter_whose_id_does_not_come_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Copy] = []

    def address_copy(_original: PendingDelivery, copy: Copy) -> tuple[str, dict[str, Any]]:
        copies.append(copy)
        if not copy.reason:
            raise OverflowError("of the test")
        return "dead", {}

    monkeypatch.setattr(rig.publisher, "address_copy", address_copy)
    rig.settle(1, "delay", release=Release.FAILED)
    rig.publisher.answer()
    assert (copies[-1].reason, copies[-1].detail) == (
        "defect",
        "its copy could not be made: OverflowError: of the test",
    )
    assert (rig.stored, rig.releases, rig.channel.acked, rig.counters) == ([1], [None], [1], {"dead": 1})


@pytest.mark.parametrize(
    ("release", "told"), [(Release.NOT_RUN, Release.NOT_RUN), (None, Release.FAILED)], ids=["not run", "failed"]
)
def test_what_is_given_up_is_released_as_it_would_have_been(rig: Rig, release: Release | None, told: Release) -> None:
    rig.settle(1, release=release)
    rig.store.give_up(None)
    assert rig.releases == [told]


def test_a_later_attempt_is_another_message_than_the_one_whose_copy_is_being_stored(rig: Rig) -> None:
    rig.settle(1)
    (first,) = rig.store._by_id["1"].disposition.pending
    assert isinstance(first, Job)
    assert not rig.store.is_another(first)
    later = replace(first.incoming, stamps=Stamps(wait=WaitStamp(7, 1, 7)))
    copy = Job(first.delivery, 1, "", later, first.protocol)
    assert rig.store.is_another(copy)
