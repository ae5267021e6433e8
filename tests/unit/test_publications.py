"""What becomes of an operator's publishes: stored, returned or refused, each told on its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from servicebus.errors import ConnectionLost, TransportError
from servicebus.operations.publications import Publication, Publications, Waits
from servicebus.operations.session_channel import SessionChannel
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
    with pytest.raises(TransportError, match=r"refused to store it .*is the queue full.*; nothing was lost"):
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


def test_a_nack_says_what_may_be_the_matter_and_tells_nobody_that_it_is_stored() -> None:
    channel = Channel()
    first, second = (channel.publish(body) for body in "ab")
    channel.publications.confirmed(2, True, False)
    for publication in (first, second):
        error = publication.stored.exception()
        assert isinstance(error, TransportError)
        assert "nack" in str(error)
        assert "the original is where it was" in str(error)
    assert channel.done == ["a has ended", "b has ended"]


def test_what_raises_after_one_confirm_costs_none_of_the_others() -> None:
    def broken() -> None:
        raise OverflowError("one too many")

    channel = Channel()
    first, second, third = (channel.publish(body) for body in "abc")
    second.then = broken
    channel.publications.confirmed(3, True, True)
    assert first.stored.exception() is None
    assert third.stored.exception() is None
    assert "OverflowError" in str(second.stored.exception())


@pytest.mark.parametrize("is_open", [True, False])
def test_a_publish_that_cannot_be_made_fails_at_once(is_open: bool) -> None:
    """What a stranger's message came with may not be encodable again: the operator is told, and goes on."""

    class Broken:
        frame_max = 131072

        def __init__(self) -> None:
            self.is_open = is_open

        def publish(self, *_: Any, **__: Any) -> int:
            raise OverflowError("int too large to convert")

    session: Any = SimpleNamespace(post=lambda callback: callback())
    channel = SessionChannel.__new__(SessionChannel)
    channel.session, channel._channel = session, Broken()  # type: ignore[assignment]
    channel._waits = Waits(lambda: GONE)
    channel._publications = Publications("mq-a", channel._waits)
    error = channel.publish("", "q", b"body").exception(0)
    assert ("OverflowError" in str(error)) is is_open
    assert isinstance(error, TransportError)
