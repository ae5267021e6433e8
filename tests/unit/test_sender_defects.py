"""A Sender on brokers of the test: what raises while one request is handled ends that request, and no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest
from envelopes import SECRET
from waiting import wait_until

from servicebus.client.request_errors import out_of_time
from servicebus.configuration import Configuration
from servicebus.errors import (
    CallError,
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    SendRefused,
    SendUnconfirmed,
    ServiceBusError,
    TransportError,
)
from servicebus.protocol.v2 import ProtocolV2
from servicebus.sender import Sender
from servicebus.transport.interface import Asked, Delivery, Returned, Script
from servicebus.transport.iothread import client_loop
from servicebus.wire.signing import Keyring

HOSTS = ["mq-a:5672", "mq-b:5672"]
CONFIG = Configuration(
    {"hosts": HOSTS, "node_name": "NODE-01", "secret_token": SECRET, "path_ping_after": 60, "path_ping_timeout": 60}
)


class Channel:
    """Remembers what is published, and answers when the test says so."""

    frame_max = 131072
    asked: Asked | None = None

    def __init__(self, broker: Broker, told: dict[str, Any]):
        self.broker = broker
        self.returned: Callable[[Returned], None] | None = told.get("on_returned")
        self.confirm: Callable[[int, bool, bool], None] | None = told.get("on_confirmed")
        self.count = 0

    @property
    def is_open(self) -> bool:
        return self.broker.is_open

    def run(self, script: Script, on_done: Callable[[], None] | None = None) -> None:
        for step in script:
            step(self, lambda _answer: None)  # type: ignore[arg-type]
        if on_done is not None:
            on_done()

    def declare_exchange(self, *_: Any, **__: Any) -> None: ...
    def set_prefetch(self, *_: Any) -> None: ...
    def consume(self, _queue: str, on_delivery: Callable[[Delivery], None], *_: Any, **__: Any) -> None:
        self.broker.replied = on_delivery

    def publish(self, _exchange: str, queue: str, body: bytes, **about: Any) -> int:
        self.broker.check(body)
        self.count += 1
        if queue.startswith("servicebus.unroutable.") and self.returned is not None:
            self.returned(Returned(_exchange, queue, None, None, body, "NO_ROUTE"))
        elif queue == "NODE-01.rpc":
            self.broker.calls[about["correlation_id"]] = body
        elif queue == "NODE-01.messages":
            self.broker.messages[self.count] = self
        return self.count


class Broker:
    """What the Sender takes for a connection."""

    made: dict[str, Broker]
    count_made: Counter[str]

    def __init__(self, loop: Any, host: Any, events: Any, **_: Any):
        self.loop, self.host, self.events = loop, host, events
        self.is_open = True
        self.blocked = None
        self.bytes_received = 0
        self.calls: dict[str, bytes] = {}
        self.messages: dict[int, Channel] = {}
        self.replied: Callable[[Delivery], None] = lambda _delivery: None
        self.check: Callable[[bytes], None] = lambda _body: None
        self.close_messages: Callable[[TransportError], None]
        self.count_made[host.name] += 1
        self.made[host.name] = self
        loop.post(lambda: events.connection_opened(self))

    def open_channel(self, on_open: Callable[[Any], None], on_closed: Any, **told: Any) -> None:
        if "on_confirmed" in told:
            self.close_messages = on_closed
        self.loop.post(lambda: on_open(Channel(self, told)))

    def abort(self, _reason: str) -> None:
        self.is_open = False

    def close(self) -> None:
        self.lose("closed")

    def lose(self, reason: str = "reset") -> None:
        """The connection is gone, and its owner hears of it."""
        self.is_open = False
        self.loop.post(lambda: self.events.connection_lost(self, ConnectionLost(self.host.name, reason, sent=True)))

    def reply(self, ids: list[str]) -> None:
        """Answer these calls with their own params, all in one turn of the loop."""
        protocol = ProtocolV2(CONFIG, Keyring(CONFIG.secrets))
        channel: Any = None

        def deliver(delivery: Delivery) -> None:
            self.replied(delivery)

        for id in ids:
            request = Delivery(channel, 1, self.calls[id], id, "amq.rabbitmq.reply-to.g1h2")
            incoming = protocol.decode_request(request)
            body = protocol.encode_result(incoming, incoming.raw_params.decode())
            self.loop.post(lambda body=body, id=id: deliver(Delivery(channel, 1, body, id)))


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Broker]:
    monkeypatch.setattr(Broker, "made", {}, raising=False)
    monkeypatch.setattr(Broker, "count_made", Counter(), raising=False)
    return Broker.made


@pytest.fixture
def sender(brokers: dict[str, Broker]) -> Iterator[Sender]:
    with Sender(CONFIG) as sender:
        sender._connect = Broker  # type: ignore[assignment]
        yield sender


def engine(sender: Sender) -> Any:
    sender._current()
    assert sender._session is not None
    return sender._session.engine


def raises_for(original: Callable[..., Any], is_odd: Callable[..., bool]) -> Callable[..., Any]:
    def wrapped(*args: Any, **named: Any) -> Any:
        if is_odd(*args, **named):
            raise OverflowError("int too large to convert")
        return original(*args, **named)

    return wrapped


def call(sender: Sender, brokers: dict[str, Broker], count: int = 3, timeout: float = 30) -> list[Future[Any]]:
    """So many calls, on their way to the first broker."""
    futures = [sender.call_async("NODE-01.t.echo", f"p{number}", timeout=timeout) for number in range(count)]
    wait_until(lambda: HOSTS[0] in brokers and len(brokers[HOSTS[0]].calls) == count)
    return futures


def ends(futures: list[Future[Any]]) -> list[Any]:
    """What each ended with: its value, or the error."""
    return [future.exception(20) or future.result()[1] for future in futures]


def defects() -> int:
    return client_loop().failures.count


def test_a_reply_that_makes_our_code_raise_ends_its_call_alone(
    sender: Sender, brokers: dict[str, Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    futures, before = call(sender, brokers), defects()
    version = engine(sender).links[0].newest
    monkeypatch.setattr(version, "decode_result", raises_for(version.decode_result, lambda message: b"p1" in message))
    brokers[HOSTS[0]].reply(list(brokers[HOSTS[0]].calls))
    first, odd, third = ends(futures)
    assert (first, third) == ('"p0"', '"p2"')
    assert isinstance(odd, CallError)
    assert "OverflowError: int too large to convert" in str(odd)
    assert defects() == before + 1


def test_a_reply_that_is_nobodys_and_makes_our_code_raise_ends_nothing(
    sender: Sender, brokers: dict[str, Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anyone may send one: it must not end the call that waits for another."""
    futures, before = call(sender, brokers), defects()
    ids = list(brokers[HOSTS[0]].calls)
    version = engine(sender).links[0].newest
    monkeypatch.setattr(
        version, "decode_reply", raises_for(version.decode_reply, lambda _request, body: body == b"bogus")
    )
    broker, channel = brokers[HOSTS[0]], None
    client_loop().post(lambda: broker.replied(Delivery(channel, 1, b"bogus", ids[1])))  # type: ignore[arg-type]
    wait_until(lambda: defects() == before + 1)
    broker.reply(ids)
    assert ends(futures) == ['"p0"', '"p1"', '"p2"']


def test_a_confirm_that_makes_our_code_raise_ends_its_message_alone(
    sender: Sender, brokers: dict[str, Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    futures = [sender.send_async("NODE-01.m.note", number) for number in range(3)]
    wait_until(lambda: HOSTS[0] in brokers and len(brokers[HOSTS[0]].messages) == 3)
    answers = engine(sender)._answers
    odd = raises_for(answers.confirmed, lambda _link, request, _is_ack: request.event_id == 2)
    monkeypatch.setattr(answers, "confirmed", odd)
    channel = brokers[HOSTS[0]].messages[1]
    client_loop().post(lambda: channel.confirm and channel.confirm(3, True, True))
    first, second, third = (future.exception(20) for future in futures)
    assert (first, third) == (None, None)
    assert isinstance(second, SendUnconfirmed)
    assert "OverflowError" in str(second)


def test_a_publish_that_raises_ends_its_call_alone(sender: Sender, brokers: dict[str, Broker]) -> None:
    def check(body: bytes) -> None:
        if b"p1" in body:
            raise OverflowError("int too large to convert")

    call(sender, brokers, 1)
    brokers[HOSTS[0]].check = check
    futures = [sender.call_async("NODE-01.t.echo", f"p{number}", timeout=30) for number in range(3)]
    assert isinstance(futures[1].exception(20), CallError)
    wait_until(lambda: len(brokers[HOSTS[0]].calls) == 3)
    brokers[HOSTS[0]].reply(list(brokers[HOSTS[0]].calls)[1:])
    assert [future.result(20)[1] for future in (futures[0], futures[2])] == ['"p0"', '"p2"']


def test_a_call_that_cannot_be_carried_over_costs_none_of_the_others(
    sender: Sender, brokers: dict[str, Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    futures = call(sender, brokers)
    scheduler = engine(sender)._scheduler
    odd = raises_for(scheduler.take_back, lambda request, *_, **__: b"p1" in request.body)
    monkeypatch.setattr(scheduler, "take_back", odd)
    broker = brokers[HOSTS[0]]
    client_loop().post(broker.lose)
    assert isinstance(futures[1].exception(20), CallError)
    wait_until(lambda: sum(len(each.calls) for name, each in brokers.items() if each is not broker) >= 2)
    for each in [each for each in brokers.values() if each is not broker]:
        each.reply(list(each.calls))
    assert [future.result(20)[1] for future in (futures[0], futures[2])] == ['"p0"', '"p2"']


@pytest.mark.parametrize(
    "place",
    ["_watch.check", "_scheduler.probe", "_scheduler.end_waits", "_connector.look_after", "_idle.look"],
)
def test_a_tick_that_raises_somewhere_stops_neither_deadlines_nor_itself(
    sender: Sender, brokers: dict[str, Broker], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    call(sender, brokers, 1)
    ticker = engine(sender)._timer
    owner, _, name = place.partition(".")
    monkeypatch.setattr(getattr(ticker, owner), name, raises_for(lambda *_: None, lambda *_: True))
    for _ in range(2):
        futures = [sender.call_async("NODE-01.t.echo", "late", timeout=0.3) for _ in range(3)]
        assert [type(each) for each in ends(futures)] == [CallTimeout] * 3


def test_a_deadline_whose_end_raises_costs_none_of_the_others(
    sender: Sender, brokers: dict[str, Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    from servicebus.client import scheduler

    odd = raises_for(out_of_time, lambda request, *_: b"p1" in request.body)
    monkeypatch.setattr(scheduler, "out_of_time", odd)
    first, second, third = ends(call(sender, brokers, timeout=0.3))
    assert (type(first), type(third)) == (CallTimeout, CallTimeout)
    assert isinstance(second, ServiceBusError)
    assert "OverflowError" in str(second)


def test_messages_held_for_others_survive_a_channel_that_closes_between(
    sender: Sender, brokers: dict[str, Broker]
) -> None:
    """A publish on a channel that has just closed gets no number: those without one must not replace each other."""
    call(sender, brokers, 1)
    broker = brokers[HOSTS[0]]
    link = engine(sender).links[0]
    publish = Channel.publish
    futures: list[Future[Any]] = []

    def close_between() -> None:
        Channel.publish = lambda *_, **__: 0  # type: ignore[method-assign]
        try:
            futures.extend(sender.send_async("NODE-01.m.note", number) for number in range(5))
            engine(sender)._take_submitted()
        finally:
            Channel.publish = publish  # type: ignore[method-assign]
        assert link.unconfirmed == 5
        broker.lose()

    client_loop().post(close_between)
    wait_until(lambda: sum(len(each.messages) for each in brokers.values()) == 5)
    for each in brokers.values():
        if each.messages:
            confirm = next(iter(each.messages.values())).confirm
            assert confirm is not None
            client_loop().post(partial(confirm, 5, True, True))
    assert [future.exception(20) for future in futures] == [None] * 5


@pytest.mark.parametrize("code", [403, 404])
def test_a_message_that_a_broker_denies_goes_to_the_next_and_costs_each_one_connection(
    sender: Sender, brokers: dict[str, Broker], code: int
) -> None:
    """A publish without the right to closes the channel: tried again at each reconnect, that would go on to the end."""

    def deny(name: str) -> None:
        wait_until(lambda: name in brokers and brokers[name].messages)
        error: TransportError = ConnectFailed(name, f"{code} ACCESS_\x1b[2JREFUSED", kind="topology")
        error.reply_code = code
        client_loop().post(lambda: brokers[name].close_messages(error))

    future = sender.send_async("NODE-01.m.note", 1)
    for name in HOSTS:
        deny(name)
    error = future.exception(20)
    assert isinstance(error, SendRefused)
    told = str(error)
    assert all(f"{name} refuses messages: " in told for name in HOSTS)
    assert f"{code} ACCESS_\\x1b[2JREFUSED" in told
    assert max(Broker.count_made.values()) <= 2
    assert isinstance(sender.send_async("NODE-01.m.note", 2).exception(20), SendRefused)  # without a try
    assert not any(broker.messages for broker in brokers.values() if broker.is_open)
    wait_until(lambda: any(broker.is_open for broker in brokers.values()))
    called = sender.call_async("NODE-01.t.echo", "p", timeout=30)  # calls have a channel of their own
    wait_until(lambda: any(broker.calls for broker in brokers.values()))
    for broker in brokers.values():
        if broker.is_open and broker.calls:
            broker.reply(list(broker.calls))
    assert called.result(20)[1] == '"p"'
