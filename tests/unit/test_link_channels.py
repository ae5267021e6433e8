"""LinkChannels on channels that the test opens and closes: what happens to messages after the broker refused one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from servicebus.client.channels import LinkChannels
from servicebus.client.request import PendingRequest
from servicebus.errors import ConnectionLost
from servicebus.protocol.interface import Exchange, OutgoingPublish
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind


class Channel:
    """One channel, and what was done on it."""

    def __init__(self, on_open: Callable[[Any], None], on_closed: Callable[[Any], None], told: dict[str, Any]):
        self._on_open, self._on_closed = on_open, on_closed
        self.confirm: Callable[[int, bool, bool], None] | None = told.get("on_confirmed")
        self.is_open = self.is_asked_to_close = False
        self.published: list[str] = []
        self.scripts = 0

    def let_open(self) -> None:
        self.is_open = True
        self._on_open(self)

    def close(self) -> None:
        self.is_open, self.is_asked_to_close = False, True

    def let_close(self) -> None:
        self._on_closed(ConnectionLost("mq-a", "200 Normal shutdown", sent=True))

    def publish(self, _exchange: str, _key: str, _body: bytes, **about: Any) -> int:
        self.published.append(about["message_id"])
        return len(self.published)

    def run(self, _script: Any, on_done: Callable[[], None] | None = None) -> None:
        self.scripts += 1


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open, self.blocked = True, None
        self.opened: list[Channel] = []
        self.confirms: dict[str, bool] = {}
        self.lost: list[list[str]] = []
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        connection: Any = self
        self.channels = LinkChannels(
            connection, "mq-a", [Exchange("bus", is_durable=True)], connection, may_declare=True
        )
        self.calls, self.sends = self.opened
        self.calls.is_open = True
        calls: Any = self.calls
        self.channels.calls = calls  # its topology is the broker's to answer
        self.sends.let_open()

    def open_channel(self, on_open: Callable[[Any], None], on_closed: Callable[[Any], None], **told: Any) -> None:
        self.opened.append(Channel(on_open, on_closed, told))

    def channels_ready(self) -> None: ...

    def channels_broken(self, _error: Exception) -> None:
        self.lost.append([request.id for request in self.channels.take_unconfirmed()])

    def returned(self, _returned: Any) -> None: ...

    def confirmed(self, request: PendingRequest, is_ack: bool) -> None:
        self.confirms[request.id] = is_ack

    def send(self, name: str) -> None:
        request = PendingRequest(1, name, Address("NODE", "a", "b"), Kind.MESSAGE, b"", timeout_s=9.0)
        request.published_at = self.now
        self.channels.publish_message(OutgoingPublish("bus", "NODE.messages", b""), request)

    def answer(self, channel: Channel, number: int, *, is_ack: bool) -> None:
        assert channel.confirm is not None
        channel.confirm(number, False, is_ack)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_after_a_nack_messages_wait_for_the_others_confirms_and_go_over_a_new_channel(rig: Rig) -> None:
    rig.now += 5
    rig.send("refused")
    rig.send("beside it")
    rig.answer(rig.sends, 1, is_ack=False)
    rig.send("first")
    rig.send("second")
    assert rig.sends.published == ["refused", "beside it"]
    rig.answer(rig.sends, 2, is_ack=True)
    assert rig.sends.is_asked_to_close
    assert rig.channels.is_renewed and rig.calls.is_open, "calls go on, and messages are taken"
    rig.send("third")
    oldest = rig.channels.oldest_unconfirmed()
    assert oldest is not None and oldest.id == "first", "a broker that never answers is found by it"
    rig.channels.ask_broker(lambda: None)
    assert rig.calls.scripts == 1
    assert len(rig.opened) == 2, "a channel_max of 2 has no room for a third"
    rig.sends.let_close()
    rig.opened[2].let_open()
    assert rig.opened[2].published == ["first", "second", "third"]
    for number in (1, 2, 3):
        rig.answer(rig.opened[2], number, is_ack=True)
    assert rig.confirms == {"refused": False, "beside it": True, "first": True, "second": True, "third": True}
    assert rig.channels.unconfirmed == 0
    rig.send("over the same")
    assert len(rig.opened) == 3 and rig.opened[2].published[-1] == "over the same"


def test_a_channel_is_not_renewed_again_and_again(rig: Rig) -> None:
    for number in range(1, 4):
        rig.send(f"refused {number}")
        rig.answer(rig.sends, number, is_ack=False)
        rig.now += 0.25
    assert rig.sends.published == ["refused 1", "refused 2", "refused 3"]
    rig.now += 0.25
    rig.send("due")
    assert rig.sends.is_asked_to_close


def test_what_is_held_comes_back_when_the_connection_ends_meanwhile(rig: Rig) -> None:
    rig.now += 5
    rig.send("refused")
    rig.answer(rig.sends, 1, is_ack=False)
    rig.send("held")
    assert rig.sends.is_asked_to_close
    assert [request.id for request in rig.channels.take_unconfirmed()] == ["held"]
    rig.is_open = False
    rig.sends.let_close()
    assert len(rig.opened) == 2, "nothing is opened on a connection that is gone"


def test_a_new_channel_that_the_broker_does_not_give_ends_the_link(rig: Rig) -> None:
    rig.now += 5
    rig.send("refused")
    rig.answer(rig.sends, 1, is_ack=False)
    rig.send("held")
    rig.sends.let_close()
    rig.opened[2].let_close()
    assert rig.lost == [["held"]]
