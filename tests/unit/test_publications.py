"""What becomes of an operator's publishes: stored, returned or refused, each told on its own."""

from __future__ import annotations

import pytest

from servicebus.errors import ConnectionLost, TransportError
from servicebus.operations.publications import Publication, Publications
from servicebus.operations.waits import Waits
from servicebus.transport.interface import Returned

GONE = ConnectionLost("mq-a", "the channel is closed", sent=False)


class Channel:
    """Publishes under numbers from 1, as a broker counts."""

    def __init__(self) -> None:
        self.waits = Waits(lambda: GONE)
        self.publications = Publications("mq-a", self.waits)
        self.done: list[str] = []
        self._count = 0

    def publish(self, body: str, routing_key: str = "q") -> Publication:
        publication = Publication(
            self.waits.begin(), "", routing_key, body.encode(), lambda: self.done.append(f"{body} is stored")
        )
        self._count += 1
        self.publications.add(self._count, publication)
        publication.stored.add_done_callback(lambda _: self.done.append(f"{body} has ended"))
        return publication


def returned(body: str, routing_key: str) -> Returned:
    return Returned("", routing_key, None, None, body.encode(), "312 NO_ROUTE")


def test_what_is_stored_is_told_before_its_wait_ends() -> None:
    channel = Channel()
    channel.publish("a")
    channel.publications.confirmed(1, False, True)
    assert channel.done == ["a is stored", "a has ended"]


def test_one_confirm_may_speak_of_several() -> None:
    channel = Channel()
    first, second, third = (channel.publish(body) for body in "abc")
    channel.publications.confirmed(2, True, True)
    assert first.stored.done()
    assert second.stored.done()
    assert not third.stored.done()


def test_of_two_alike_each_return_means_one() -> None:
    """The broker returns in the order of publishing, and says nothing of the number."""
    channel = Channel()
    first, second = channel.publish("a", "nowhere"), channel.publish("a", "nowhere")
    channel.publications.returned(returned("a", "nowhere"))
    channel.publications.confirmed(1, False, True)
    channel.publications.confirmed(2, False, True)
    with pytest.raises(TransportError, match=r"mq-a: a message for nowhere by the default exchange .*312 NO_ROUTE"):
        first.stored.result(0)
    assert second.stored.result(0) is None
    assert "a is stored" in channel.done


def test_what_the_broker_refuses_is_not_stored() -> None:
    channel = Channel()
    refused = channel.publish("a")
    channel.publications.confirmed(1, False, False)
    with pytest.raises(TransportError, match="refused to store it; nothing was lost"):
        refused.stored.result(0)
    assert channel.done == ["a has ended"]


def test_with_the_channel_every_wait_ends() -> None:
    channel = Channel()
    unconfirmed = channel.publish("a")
    channel.publications.clear()
    channel.waits.fail_all()
    with pytest.raises(ConnectionLost, match="the channel is closed"):
        unconfirmed.stored.result(0)
    channel.publications.confirmed(1, False, True)
    assert channel.done == ["a has ended"]
