"""Why a consumer was cancelled: the broker is asked what there is of its queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transport_rigs import MemoryRig, Peer
from virtual_time import VirtualTime, virtual_time

from servicebus.errors import TransportError
from servicebus.transport.cancelled import ask_why_cancelled
from servicebus.transport.steps import declare_queue

QUEUE = "work"


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as time:
        yield time


@pytest.fixture
def rig(time: VirtualTime) -> MemoryRig:
    return MemoryRig(time)


def reasons(rig: MemoryRig, time: VirtualTime, *, is_holding: bool = False) -> list[str]:
    peer, told = Peer(rig).opened(), list[TransportError]()
    peer.channel().ask(declare_queue("other", durable=True))
    ask_why_cancelled(peer.connection, QUEUE, is_holding, told.append)
    time.advance(5)
    return [str(error) for error in told]


def test_a_queue_that_is_not_there_was_deleted(rig: MemoryRig, time: VirtualTime) -> None:
    (reason,) = reasons(rig, time)
    assert "the broker cancelled the consumer of queue work, which was deleted" in reason


@pytest.mark.parametrize("is_holding", [False, True])
def test_of_a_queue_that_is_there_both_causes_are_told(rig: MemoryRig, time: VirtualTime, is_holding: bool) -> None:
    Peer(rig).opened().channel().ask(declare_queue(QUEUE, durable=True))
    (reason,) = reasons(rig, time, is_holding=is_holding)
    assert "which is still there" in reason and ("consumer_timeout" in reason) is is_holding


def test_without_an_answer_the_queue_is_out_of_reach(rig: MemoryRig, time: VirtualTime) -> None:
    rig.broker.mute.add(QUEUE)
    Peer(rig).opened().channel().ask(declare_queue("other", durable=True))
    (reason,) = reasons(rig, time)
    assert "which is out of reach" in reason
