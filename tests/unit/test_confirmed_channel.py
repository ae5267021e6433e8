"""What a worker publishes with confirms: stored, nacked, or the one that made the broker close the channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from servicebus.errors import ConnectionLost, MessageTooLarge, TransportError
from servicebus.policy.size_limit import TRACKED_BYTES, SizeLimit
from servicebus.transport.confirmed_channel import UNROUTABLE, ConfirmedChannel, Publish
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.interface import Returned
from servicebus.wire import headers

LIMIT = 1_000
TOO_LARGE = f"it is 2000 bytes, and broker mq-a takes {LIMIT}: raise its max_message_size"


class Broker:
    """A connection whose channels are opened by the test, and what was published on the newest one."""

    def __init__(self) -> None:
        self.frame_max = 4096
        self.opened = 0
        self.is_open = False
        self.published: list[tuple[str, int, dict[str, Any]]] = []

    def open_channel(self, on_open: Callable[[Any], None], on_closed: Callable[[Any], None], **told: Any) -> None:
        self._on_open, self._on_closed = on_open, on_closed
        self.confirm: Callable[[int, bool, bool], None] = told["on_confirmed"]
        self.come_back: Callable[[Returned], None] = told["on_returned"]

    def let_open(self) -> None:
        self.opened += 1
        self.is_open = True
        self.published = []
        self._on_open(self)

    def close(self, error: TransportError | None = None, *, is_connection_open: bool = False) -> None:
        self.is_open = is_connection_open
        self.is_asked_to_close = error is None
        if error is not None:
            self._on_closed(error)

    def let_close(self) -> None:
        self.is_open = True  # the connection
        self._on_closed(ConnectionLost("mq-a", "200 Normal shutdown", sent=True))

    def publish(self, _exchange: str, queue: str, body: bytes, **about: Any) -> int:
        self.published.append((queue, len(body), about))
        return len(self.published)


class Rig:
    def __init__(self, *, has_exchanges: bool = False) -> None:
        self.broker, self.limit = Broker(), SizeLimit()
        self.broken: list[TransportError] = []
        self.answers: dict[str, str] = {}
        self.ready = 0
        connection: Any = self.broker
        failures = FailureLog("test")
        on_returned = None if has_exchanges else lambda _returned: None
        self.channel = ConfirmedChannel(
            connection, "mq-a", self.limit, failures, on_returned, self.broken.append, has_exchanges=has_exchanges
        )
        self.channel.open(self._is_ready)
        self.broker.let_open()

    def _is_ready(self) -> None:
        self.ready += 1

    def publish(self, name: str, size: int = 10, exchange: str = "", **properties: Any) -> None:
        def answered(refused: str) -> None:
            assert name not in self.answers, "answered once"
            self.answers[name] = refused

        self.channel.publish(Publish(name, b"x" * size, answered, properties, exchange))

    def queues(self) -> list[str]:
        return [queue for queue, _, _ in self.broker.published]


def refusal(*, is_understood: bool = True) -> TransportError:
    error: TransportError = (
        MessageTooLarge("mq-a", size=2000, limit=LIMIT)
        if is_understood
        else ConnectionLost("mq-a", "406 PRECONDITION_FAILED - in words of the future", sent=True)
    )
    error.reply_code = 406
    return error


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_each_publish_is_answered_once_with_what_its_confirm_says(rig: Rig) -> None:
    for name in "abcde":
        rig.publish(name)
    rig.broker.confirm(2, True, True)
    rig.broker.confirm(4, True, False)
    assert (rig.answers["a"], rig.answers["b"]) == ("", "")
    assert "nack" in rig.answers["c"]
    assert "nack" in rig.answers["d"]
    assert len(rig.channel) == 1


def test_what_no_queue_takes_is_refused_if_nobody_else_is_told() -> None:
    rig = Rig(has_exchanges=True)
    for name in ("a", "b"):
        rig.publish(name)
    rig.broker.come_back(Returned("", "b", None, None, b"x" * 10, "312 NO_ROUTE"))
    rig.broker.confirm(2, True, True)
    assert rig.answers == {"a": "", "b": UNROUTABLE}


@pytest.mark.parametrize("code", [403, 404])
def test_an_exchange_that_the_broker_denies_costs_that_publish_alone(code: int) -> None:
    rig = Rig(has_exchanges=True)
    rig.publish("a")
    rig.publish("b", exchange="not.there")
    rig.publish("c")
    error = ConnectionLost("mq-a", f"{code} - no exchange 'not.there' in vhost '/'", sent=True)
    error.reply_code = code
    rig.broker.close(error, is_connection_open=True)
    rig.broker.let_open()
    assert list(rig.answers) == ["b"] and "not.there" in rig.answers["b"] and not rig.broken
    assert rig.queues() == ["a", "c"]
    rig.broker.confirm(2, True, True)
    assert rig.answers["a"] == rig.answers["c"] == ""


def test_after_a_nack_the_next_publish_goes_over_a_new_channel_once_all_is_answered(rig: Rig) -> None:
    for name in "abc":
        rig.publish(name)
    rig.broker.confirm(1, False, False)
    rig.publish("again")
    rig.publish("and another")
    assert rig.queues() == ["a", "b", "c"]
    rig.broker.confirm(3, True, True)
    assert rig.broker.is_asked_to_close
    rig.broker.let_close()
    assert rig.queues() == ["a", "b", "c"]
    rig.broker.let_open()
    assert rig.queues() == ["again", "and another"]
    rig.broker.confirm(2, True, True)
    assert (rig.answers["again"], rig.answers["and another"], len(rig.channel)) == ("", "", 0)
    rig.publish("over the same")
    assert rig.queues() == ["again", "and another", "over the same"]
    assert (rig.broken, rig.ready, rig.broker.opened) == ([], 1, 2)


@pytest.mark.parametrize("is_understood", [True, False])
def test_the_publish_that_closed_the_channel_is_refused_and_the_others_go_again(rig: Rig, is_understood: bool) -> None:
    rig.publish("confirmed", 900)
    rig.broker.confirm(1, False, True)
    rig.publish("before", 500)
    rig.publish("culprit", 2000)
    rig.publish("after", 800)
    rig.broker.close(refusal(is_understood=is_understood))
    rig.publish("while it opens", 30)
    assert set(rig.answers) == {"confirmed", "culprit"}
    assert "max_message_size" in rig.answers["culprit"]
    rig.broker.let_open()
    assert rig.queues() == ["before", "after", "while it opens"]
    rig.broker.confirm(3, True, True)
    assert {name for name, refused in rig.answers.items() if not refused} == {
        "confirmed", "before", "after", "while it opens",
    }  # fmt: skip
    assert (rig.broken, rig.ready, len(rig.channel)) == ([], 1, 0)


def test_the_size_that_the_broker_names_tells_more_than_the_largest(rig: Rig) -> None:
    """The one before it was larger, and went by before the limit was lowered."""
    rig.publish("larger", 5000)
    rig.publish("culprit", 2000)
    rig.broker.close(refusal())
    assert rig.answers == {"culprit": TOO_LARGE}


def test_what_is_known_to_be_too_large_is_refused_without_asking(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a loop: the same message would close the channel again and again."""
    now = [1000.0]
    monkeypatch.setattr("servicebus.transport.confirmed_channel.time.monotonic", lambda: now[0])
    rig.publish("first", 2000)
    rig.broker.close(refusal())
    rig.broker.let_open()
    rig.publish("second", 2000)
    rig.publish("largest that goes", LIMIT)
    assert rig.answers["second"] == TOO_LARGE
    assert rig.queues() == ["largest that goes"]
    now[0] += 301  # it may have been raised meanwhile
    rig.publish("third", 2000)
    assert rig.queues() == ["largest that goes", "third"]


def test_a_limit_makes_smaller_messages_worth_watching() -> None:
    limit = SizeLimit()
    assert limit.tracked_bytes == TRACKED_BYTES
    limit.learn(10 * TRACKED_BYTES, 0.0)
    assert limit.tracked_bytes == TRACKED_BYTES
    limit.learn(LIMIT, 0.0)
    assert limit.tracked_bytes == LIMIT
    limit.learn(None, 0.0)
    assert limit.tracked_bytes == 0, "something was refused, and it is not known how large it was"


@pytest.mark.parametrize("code", [0, 403, 404, 541])
def test_a_channel_that_closes_for_another_reason_is_broken_and_answers_nothing(rig: Rig, code: int) -> None:
    rig.publish("a", 2000)
    lost = ConnectionLost("mq-a", "closed", sent=True)
    lost.reply_code = code
    rig.broker.close(lost)
    assert (rig.answers, rig.broken) == ({}, [lost])
    assert len(rig.channel) == 0


def test_one_answer_that_raises_costs_none_of_the_others(rig: Rig) -> None:
    def broken(_refused: str) -> None:
        raise OverflowError("one too many")

    rig.publish("a")
    rig.channel.publish(Publish("b", b"x", broken))
    rig.publish("c")
    rig.broker.confirm(3, True, True)
    assert rig.answers == {"a": "", "c": ""}


def test_headers_are_cut_to_the_frame_that_was_agreed_on(rig: Rig) -> None:
    rig.publish("a", headers={headers.REASON: "ValueError", headers.TRACE: "x" * 20_000}, message_id="1")
    ((_, _, about),) = rig.broker.published
    assert about["headers"][headers.REASON] == "ValueError"
    assert 3_000 < len(about["headers"][headers.TRACE]) < 4_096
    assert about["message_id"] == "1"
