"""Acknowledger: the reply before the ack, and what an exception in between costs."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock, call

import pytest

from servicebus.runtime.job import Disposition, PendingDelivery, dead_letter
from servicebus.runtime.publisher import Acknowledger
from servicebus.runtime.recent_ids import RecentIds
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.interface import Delivery

EPOCH = 3


class Rig:
    """Everything that is done, in its order."""

    def __init__(self) -> None:
        self.done = Mock()
        self.failures = FailureLog("test")
        self.refused_calls = RecentIds()
        self.acknowledger = Acknowledger(self.done.copies.store, self.failures, self.refused_calls)
        self.acknowledger.begin(EPOCH, self.done.publisher)
        self.done.reset_mock()

    def pending(self, tag: int, epoch: int = EPOCH) -> PendingDelivery:
        delivery = Delivery(self.done.channel, tag, b"", correlation_id=f"id-{tag}")
        return PendingDelivery(delivery, epoch, "answers")

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.done.mock_calls]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_each_delivery_is_answered_and_then_acked(rig: Rig) -> None:
    first, second = rig.pending(1), rig.pending(2)
    assert rig.acknowledger.settle(Disposition([first, second], b"reply"))
    assert rig.done.mock_calls == [
        call.publisher.reply(first, b"reply", None),
        call.channel.ack(1),
        call.publisher.reply(second, b"reply", None),
        call.channel.ack(2),
    ]


def test_answers_that_the_journal_does_not_know_are_remembered(rig: Rig) -> None:
    """Their callers may have to ask for them again."""
    rig.acknowledger.settle(Disposition([rig.pending(1)], b"busy"))
    rig.acknowledger.settle(Disposition([rig.pending(2)], b"result", None, Mock()))
    rig.acknowledger.settle(Disposition([rig.pending(3)], None))
    assert [id for id in ("id-1", "id-2", "id-3") if id in rig.refused_calls] == ["id-1"]


def test_deliveries_of_former_connections_are_left_to_the_broker(rig: Rig) -> None:
    assert rig.acknowledger.settle(Disposition([rig.pending(1, EPOCH - 1), rig.pending(2)], None))
    assert rig.done.mock_calls == [call.channel.ack(2)]


def test_what_is_to_be_stored_is_not_acked_yet(rig: Rig) -> None:
    disposition = Disposition([rig.pending(1)], None, dead_letter("odd", "it is odd"))
    assert rig.acknowledger.settle(disposition)
    assert rig.done.mock_calls == [call.copies.store(disposition)]


def test_a_reply_that_is_interrupted_is_sent_again(rig: Rig) -> None:
    rig.done.publisher.reply.side_effect = [TimeoutError(), None]
    assert rig.acknowledger.settle(Disposition([rig.pending(1)], b"reply"))
    assert rig.names == ["publisher.reply", "publisher.reply", "channel.ack"]
    assert rig.failures.count == 0


def test_what_cannot_be_answered_is_acked_all_the_same(rig: Rig) -> None:
    rig.done.publisher.reply.side_effect = OverflowError
    assert rig.acknowledger.settle(Disposition([rig.pending(1)], b"reply"))
    assert rig.names == ["publisher.reply", "publisher.reply", "channel.ack"]
    assert rig.failures.count == 1


@pytest.mark.parametrize("copy", [None, dead_letter("odd", "it is odd")])
def test_whatever_else_raises_is_reported(rig: Rig, copy: Any) -> None:
    rig.done.channel.ack.side_effect = rig.done.copies.store.side_effect = OverflowError
    assert not rig.acknowledger.settle(Disposition([rig.pending(1)], None, copy))
    assert rig.failures.count == 1


def test_without_connections_nothing_is_settled(rig: Rig) -> None:
    rig.acknowledger.end()
    assert rig.acknowledger.settle(Disposition([rig.pending(1)], b"reply"))
    assert rig.done.mock_calls == []
    rig.acknowledger.begin(EPOCH + 1, rig.done.publisher)
    assert rig.acknowledger.settle(Disposition([rig.pending(1), rig.pending(2, EPOCH + 1)], None))
    assert rig.done.mock_calls == [call.channel.ack(2)]
