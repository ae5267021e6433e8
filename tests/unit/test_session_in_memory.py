"""The operator's session on a broker in memory: what opens it, what ends it, and what it says then."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import ConnectFailed, ConnectionLost, TransportError
from servicebus.operations import session_channel
from servicebus.operations.session import Session, open_session
from servicebus.transport.memory import MemoryBroker, MemoryNetwork


def configuration(host: Any = "mq-a", **more: object) -> Configuration:
    return Configuration({"hosts": [host], "secret_token": "a secret of the test", "node_name": "N", **more})


def opened(broker: MemoryBroker, **how: Any) -> Session:
    config = configuration()
    return open_session(config.hosts[0], config, connect=broker.connect, **how)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


def test_it_is_open_until_it_is_closed_and_says_goodbye(broker: MemoryBroker) -> None:
    with opened(broker, purpose="a test") as session:
        assert session.is_open and session.server_version == broker.version
        assert [each.connection.label[:18] for each in broker.sessions] == ["servicebus a test "]
        with session.channel(confirms=True) as channel:
            channel.declare("q", durable=True)
            channel.publish_confirmed("", "q", b"1")
        assert session.facts("q") == ("q", 1, 0)
        assert session.facts("nowhere") is None
        began = time.monotonic()
    assert time.monotonic() - began < 1.5, "it does not wait for what is there already"
    assert broker.sessions == [] and not session.is_open


@pytest.mark.parametrize("kind", ["refused", "credentials"])
def test_an_attempt_that_fails_says_why_and_is_the_last(broker: MemoryBroker, kind: str) -> None:
    broker.refuse(kind, "no entry")
    with pytest.raises(ConnectFailed, match="no entry") as caught:
        opened(broker)
    assert caught.value.kind == kind
    time.sleep(0.3)
    assert broker.connects == 1, "a tool asks again by itself"


def test_a_broker_that_does_not_answer_is_given_up_in_time(broker: MemoryBroker) -> None:
    broker.freeze()
    began = time.monotonic()
    with pytest.raises(ConnectFailed):
        opened(broker, timeout_s=0.2)
    assert time.monotonic() - began < 3.5


def test_a_lost_connection_ends_all_waits_and_the_first_reason_stays(broker: MemoryBroker) -> None:
    session = opened(broker)
    channel, other = session.channel(), session.channel()
    channel.declare("q")
    broker.drop("reset by the test")
    wait_until(lambda: not session.is_open)
    for each in (channel, other):
        with pytest.raises(ConnectionLost, match="reset by the test"):
            each.declare("q", passive=True)
    with pytest.raises(TransportError, match="reset by the test"):
        session.channel()
    session.abort("later")
    session.close()
    assert "reset by the test" in str(session.failure)
    assert broker.connects == 1


def test_an_answer_that_does_not_come_cuts_the_connection_and_names_the_alarm(broker: MemoryBroker) -> None:
    session = opened(broker)
    channel = session.channel(confirms=True)
    channel.declare("q")
    broker.block("low on memory")
    with pytest.raises(ConnectionLost, match=r"no answer to a publish within 0.3 s; it is blocked .*low on memory"):
        channel.wait_stored(channel.publish("", "q", b"1"), 0.3)
    assert not session.is_open
    wait_until(lambda: broker.sessions == [])


@pytest.mark.parametrize("is_late", [False, True])
def test_closing_does_not_wait_for_the_end_of_an_alarm(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """A broker reads nothing of a blocked connection, so nothing else would end the wait."""
    monkeypatch.setattr(session_channel, "CONFIRM_S", 3600.0)
    session = opened(broker)
    channel = session.channel(confirms=True)
    channel.declare("q")
    if is_late:  # the channel is being closed already
        broker.freeze()
        closing = threading.Thread(target=channel.close)
        closing.start()
        wait_until(lambda: channel.is_closing)
        session.post(lambda: broker.sessions[0].connection.become_blocked("low on memory"))
        closing.join(60)
        assert not closing.is_alive()
    else:
        broker.block("low on memory")
        channel.publish("", "q", b"1")
        wait_until(lambda: session.blocked)
        channel.close()
    with pytest.raises(ConnectionLost, match=r"blocked by an alarm \(low on memory\)"):
        session.channel()
    assert not session.is_open


def test_a_busy_queue_is_waited_for_while_its_broker_answers(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(broker)
    late: Future[str] = Future()
    threading.Timer(0.2, late.set_result, ["the answer"]).start()
    assert session.ask(late, "a question", 0.01, busy_s=30.0) == "the answer"
    assert session.is_open
    monkeypatch.setattr(session_channel, "ANSWER_S", 0.2)
    broker.freeze()
    with pytest.raises(ConnectionLost, match=r"no answer to the opening of a channel within 0.2 s"):
        session.ask(Future(), "a question", 0.01, busy_s=30.0)
    assert not session.is_open


def test_a_session_that_is_cut_says_so_to_those_who_wait(broker: MemoryBroker) -> None:
    session = opened(broker)
    channel = session.channel()
    session.abort("cut by the test")
    with pytest.raises(ConnectionLost, match="cut by the test"):
        channel.declare("q")
    wait_until(lambda: broker.sessions == [])


def test_of_a_cluster_the_first_member_that_answers_is_used() -> None:
    config = configuration({"name": "mq", "members": ["mq-1", "mq-2", "mq-3"]})
    network = MemoryNetwork("mq-1:5672", "mq-2:5672", "mq-3:5672")
    first, second, third = (network[f"mq-{number}:5672"] for number in (1, 2, 3))
    first.refuse()
    with open_session(config.hosts[0], config, connect=network.connect) as session:
        assert session.host.host == "mq-2"
    assert [each.connects for each in (first, second, third)] == [1, 1, 0]
    for broker in (second, third):
        broker.refuse("refused", f"no, says {broker.name}")
    with pytest.raises(ConnectFailed, match="mq-3"):
        open_session(config.hosts[0], config, connect=network.connect)
