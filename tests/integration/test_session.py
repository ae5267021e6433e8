"""The operator's session with one real broker: every wait ends, and every error says where."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from envelopes import SECRET
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import ConnectFailed, ConnectionLost, TransportError
from servicebus.operations.session import Session, open_session
from servicebus.testing import Broker

if TYPE_CHECKING:
    from probe import Probe

pytestmark = pytest.mark.brokers(count=1)


def configuration(broker: Broker, **more: object) -> Configuration:
    return Configuration({"hosts": [f"{broker.host}:{broker.port}"], "secret_token": SECRET, "node_name": "N", **more})


@pytest.fixture(params=[True, False], ids=["fast", "slow"])
def session(brokers: list[Broker], request: pytest.FixtureRequest) -> Iterator[Session]:
    config = configuration(brokers[0], fast_path=request.param)
    with open_session(config.hosts[0], config) as session:
        yield session


def test_what_is_published_is_got_consumed_and_acked(
    session: Session, brokers: list[Broker], make_probe: Callable[..., Probe]
) -> None:
    assert session.facts("q") is None
    with session.channel(confirms=True) as channel:
        channel.declare("q", durable=True)
        channel.publish_confirmed("", "q", b"1", headers={"a": 1}, message_id="m")
        channel.publish_confirmed("", "q", b"2")
        channel.publish_confirmed("", "q", b"3")
        first = channel.get("q")
        assert first is not None
        assert (first.body, first.message_id, first.headers) == (b"1", "m", {"a": 1})
        channel.ack(first)
        found = channel.consume("q", prefetch=1)
        second = found.next(5)
        assert second is not None
        assert second.body == b"2"
        assert found.next(0.1) is None, "the window is one message wide"
        found.cancel()
        third = channel.get("q")
        assert third is not None
        assert third.body == b"3"
        assert channel.get("q") is None
        assert channel.get("q") is None
        channel.ack(third)
    wait_until(lambda: session.facts("q") == ("q", 1, 0), what="what was not acked is back")
    assert make_probe(brokers[0]).take_all("q") == [(b"2", {})]


def test_a_message_that_no_queue_takes_is_told_from_its_neighbours(session: Session) -> None:
    done = threading.Event()
    with session.channel(confirms=True) as channel:
        channel.declare("q", durable=True)
        good = channel.publish("", "q", b"good", then=done.set)
        bad = channel.publish("", "nowhere", b"bad")
        again = channel.publish("", "q", b"good")
        channel.wait_stored(good)
        assert done.is_set()
        with pytest.raises(TransportError, match=rf"{session.host.name}: .*nowhere.*312 NO_ROUTE"):
            channel.wait_stored(bad)
        channel.wait_stored(again)


def test_a_channel_that_the_broker_closes_takes_no_other_down(session: Session) -> None:
    with session.channel() as good:
        bad = session.channel()
        with pytest.raises(TransportError, match=f"{session.host.name}.*404"):
            bad.declare("nowhere", passive=True)
        with pytest.raises(TransportError, match="404"):
            bad.declare("q")
        good.declare("q", exclusive=True)


def test_a_lost_connection_ends_every_wait(
    session: Session, brokers: list[Broker], make_probe: Callable[..., Probe]
) -> None:
    channel = session.channel()
    channel.declare("q")
    found = channel.consume("q", prefetch=1)
    make_probe(brokers[0]).delete("q")
    with pytest.raises(ConnectionLost, match="cancelled"):
        found.next(10)
    with pytest.raises(ConnectionLost, match="cancelled"):
        found.cancel()  # pika would not answer: the consumer is gone
    other = session.channel()
    session.abort("for the test")
    with pytest.raises(ConnectionLost, match="for the test"):
        other.get("q")
    with pytest.raises(ConnectionLost, match=session.host.name):
        session.channel()


def test_a_broker_that_falls_silent_is_given_up(brokers: list[Broker]) -> None:
    config = configuration(brokers[0], heartbeat_interval=60)
    with open_session(config.hosts[0], config) as session:
        channel = session.channel()
        brokers[0].freeze()
        with pytest.raises(ConnectionLost, match=r"no answer to everything before within 0\.2 s"):
            channel.run(lambda _channel, _on_done: None, "everything before", timeout_s=0.2)
    brokers[0].thaw()


def test_a_broker_that_is_down_or_refuses_is_named(brokers: list[Broker]) -> None:
    config = configuration(brokers[0], password="wrong")
    with pytest.raises(ConnectFailed, match=config.hosts[0].name) as refused:
        open_session(config.hosts[0], config)
    assert refused.value.kind == "credentials"
    config = Configuration({"hosts": ["127.0.0.1:1"], "secret_token": SECRET, "node_name": "N"})
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1.*refused"):
        open_session(config.hosts[0], config)
