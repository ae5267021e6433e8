"""Acks, against a broker that knows which deliveries are open."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servicebus.transport.acks import Acks


class Broker:
    """Settles as RabbitMQ does, which closes the channel over a tag that is not open."""

    def __init__(self, deliveries: int):
        self.open = set(range(1, deliveries + 1))

    def settle(self, tag: int, multiple: bool = False) -> None:
        assert tag in self.open
        self.open -= {each for each in self.open if each <= tag} if multiple else {tag}


def working_on(deliveries: int) -> Acks:
    acks = Acks()
    for tag in range(1, deliveries + 1):
        acks.delivered(tag)
    return acks


@given(st.data(), st.integers(1, 40))
def test_exactly_what_was_acknowledged_is_settled(data: st.DataObject, deliveries: int) -> None:
    broker, acks = Broker(deliveries), working_on(deliveries)
    still_open, acked = set(range(1, deliveries + 1)), []
    for tag in data.draw(st.permutations(range(1, deliveries + 1))):
        what = data.draw(st.sampled_from(["ack", "ack", "ack", "reject", "leave", "ack and send"]))
        if what == "leave":
            continue
        still_open.discard(tag)
        if what == "reject":
            broker.settle(tag)
            acks.settled_otherwise(tag)
            continue
        acked.append(tag)
        if what == "ack and send":
            for frame in acks.frames(acked):
                broker.settle(*frame)
            assert broker.open == still_open
            if data.draw(st.booleans()):  # else they are acknowledged once more
                acked.clear()
    for frame in acks.frames(acked):
        broker.settle(*frame)
    assert broker.open == still_open
    assert acks.frames(acked) == []


def test_a_batch_costs_one_frame() -> None:
    acks = working_on(6)
    assert acks.frames([3, 1, 2, 5]) == [(3, True), (5, False)]
    assert acks.frames([4, 6]) == [(6, True)]


def test_one_that_is_still_at_work_is_passed_over() -> None:
    acks = working_on(4)
    assert acks.frames([2, 3, 4]) == [(2, False), (3, False), (4, False)]
