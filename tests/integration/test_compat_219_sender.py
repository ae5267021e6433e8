"""Our Sender against agents of the real py-servicebus 2.19 (rows 4 to 8 and 11 of the interoperability matrix)."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from agents import Agent
from envelopes import SECRET
from old219 import OldAgent
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import (
    CallInterrupted,
    CallRefused,
    CallTimeout,
    EnvelopeError,
    NodeUnavailable,
    ServiceBusError,
    UnknownService,
)
from servicebus.sender import Sender
from servicebus.testing import Broker

pytestmark = [pytest.mark.compat, pytest.mark.brokers(count=1)]

MakeSender = Callable[[Configuration], Sender]


def compat(*brokers: Broker, **settings: object) -> Configuration:
    hosts = [f"{broker.host}:{broker.port}" for broker in brokers]
    return Configuration(
        {"hosts": hosts, "node_name": "CALLER", "secret_token": SECRET, "compat": True, "call_timeout": 10, **settings}
    )


@pytest.fixture
def probe(brokers: list[Broker], make_probe: Callable[..., Probe]) -> Probe:
    return make_probe(brokers[0])


@pytest.fixture
def agent(brokers: list[Broker], old_agent: Callable[..., OldAgent], probe: Probe) -> OldAgent:
    return ready(old_agent(brokers[0]), probe)


def ready(agent: OldAgent, probe: Probe) -> OldAgent:
    wait_until(lambda: probe.consumers(agent.node), 15, agent.log)
    return agent


def queues(broker: Broker) -> list[str]:
    return broker.rabbitmqctl("-q", "list_queues", "--no-table-headers", "name").split()


def test_calls_messages_and_pings_reach_an_old_agent(
    agent: OldAgent, brokers: list[Broker], make_sender: MakeSender
) -> None:
    """The result is the text that the old agent gives; the ids stay decimal there."""
    sender = make_sender(compat(brokers[0]))
    assert sender.call("NODE-01.math.add", [1, 2]) == (1, "3")
    assert sender.call("NODE-01.test.fields") == (2, "2 test fields 1")
    assert sender.send("NODE-01.audit.record", {"what": "restart"}) == 3
    assert sender.ping("NODE-01") is True
    assert sender.ping_all("NODE-01") == (1, 1)
    wait_until(lambda: agent.noted("recorded") == ["{'what': 'restart'}"], what=agent.log)


@pytest.mark.parametrize("first", ["send", "ping", "ping_all"])
def test_whatever_comes_first_finds_the_old_agent(
    first: str, agent: OldAgent, brokers: list[Broker], make_sender: MakeSender
) -> None:
    """A Sender tries version 2 first; each kind of request has its own way to learn that it must not."""
    sender = make_sender(compat(brokers[0]))
    if first == "send":
        assert sender.send("NODE-01.audit.record", 1) == 1
    elif first == "ping":
        assert sender.ping("NODE-01") is True
    else:
        assert sender.ping_all("NODE-01") == (1, 1)
    assert sender.call("NODE-01.math.add", [1, 2])[1] == "3"


def test_once_known_an_old_agent_is_called_without_a_detour(
    agent: OldAgent, brokers: list[Broker], make_sender: MakeSender
) -> None:
    """200 calls leave no reply queue on the broker; 2.19 leaves 400.

    One at a time: an agent of 2.19 writes to its connection from several threads, and many calls in flight make it
    stand still for seconds.
    """
    sender = make_sender(compat(brokers[0]))
    for number in range(200):
        assert sender.call("NODE-01.math.add", [number])[1] == str(number)
    assert queues(brokers[0]) == ["NODE-01"]


def test_what_json_can_say_arrives_whole(agent: OldAgent, brokers: list[Broker], make_sender: MakeSender) -> None:
    """Also the end of CDATA, of which a call of 2.19 dies, and control characters."""
    sender = make_sender(compat(brokers[0], compat_result="value"))
    for value in ({"a": [1, None, True, 2.5]}, "a \x00 \x1b", "h\u00e9 \U0001f600", "<&>", [], -1, ["]]>", "]]>]]>"]):
        assert sender.call("NODE-01.test.echo", {"v": value})[1] == {"v": value}
    assert sender.send("NODE-01.audit.record", {"end": "]]>]]>"})
    wait_until(lambda: agent.noted("recorded") == ["{'end': ']]>]]>'}"], what=agent.log)


def test_what_version_1_cannot_say_is_refused_before_it_is_sent(
    agent: OldAgent, brokers: list[Broker], make_sender: MakeSender
) -> None:
    sender = make_sender(compat(brokers[0]))
    with pytest.raises(EnvelopeError, match="unencodable: category"):
        sender.call("NODE-01.ma<th.add", [1, 2])
    with pytest.raises(EnvelopeError, match="unencodable: category"):
        sender.send("NODE-01.a&b.record", 1)
    assert sender.call("NODE-01.math.add", [1, 2])[1] == "3"


def test_the_errors_that_an_old_agent_tells_are_raised(
    agent: OldAgent, brokers: list[Broker], make_sender: MakeSender
) -> None:
    sender = make_sender(compat(brokers[0]))
    with pytest.raises(UnknownService):
        sender.call("NODE-01.test.nobody")
    with pytest.raises(CallRefused, match="secret_token") as refused:
        make_sender(compat(brokers[0], secret_token="another")).call("NODE-01.math.add", [1, 2])
    assert refused.value.reason == "signature"
    text = "Cannot Find RPC Service: math.add"
    assert sender.call("NODE-01.test.echo", text)[1] == text, "it is not the error of the service that was called"
    with pytest.raises(CallRefused):
        sender.call("NODE-01.test.echo", "Token not valid!")
    as_text = make_sender(compat(brokers[0], compat_in_band_errors=False))
    assert as_text.call("NODE-01.test.echo", "Token not valid!")[1] == "Token not valid!"
    assert as_text.call("NODE-01.test.nobody")[1] == "Cannot Find RPC Service: test.nobody"


@pytest.mark.parametrize(
    ("agents_zone", "own_zone"),
    [("Pacific/Kiritimati", "Pacific/Honolulu"), ("Pacific/Honolulu", "Pacific/Kiritimati")],
)
def test_tokens_are_understood_over_a_whole_day_of_difference(
    agents_zone: str,
    own_zone: str,
    brokers: list[Broker],
    old_agent: Callable[..., OldAgent],
    probe: Probe,
    make_sender: MakeSender,
) -> None:
    """These zones are 24 hours apart: at every moment it is another day there."""
    ready(old_agent(brokers[0], TZ=agents_zone), probe)
    sender = make_sender(compat(brokers[0], compat_time_zone=own_zone))
    assert sender.call("NODE-01.math.add", [1, 2])[1] == "3"


def test_a_call_ends_when_its_agent_is_killed_and_is_not_run_later(
    agent: OldAgent,
    brokers: list[Broker],
    old_agent: Callable[..., OldAgent],
    probe: Probe,
    make_sender: MakeSender,
) -> None:
    """The queue of an old agent outlives it, and what waits there is run when it comes back, however late."""
    sender = make_sender(compat(brokers[0], path_wait=1.5))
    under_way = sender.call_async("NODE-01.test.sleep", [60, "under way"], 60)
    wait_until(lambda: agent.noted("started"), what=agent.log)
    agent.close()
    queued = sender.call_async("NODE-01.test.sleep", [0, "queued"], 1)
    with pytest.raises((CallTimeout, CallInterrupted)):
        queued.result(30)
    with pytest.raises(CallInterrupted):  # and no CallTimeout: it did not wait for its limit after its path had died
        under_way.result(30)
    wait_until(lambda: probe.depth("NODE-01") == 0, what="the request expires")
    again = ready(old_agent(brokers[0]), probe)
    wait_until(lambda: sender.ping("NODE-01"))
    assert sender.call("NODE-01.math.add", [1, 2])[1] == "3"
    assert again.noted("started") == []


def test_a_node_that_is_unavailable_is_reported_as_such(
    brokers: list[Broker], probe: Probe, make_sender: MakeSender
) -> None:
    """Its old queue may be there; without a pong nothing is put into it."""
    sender = make_sender(compat(brokers[0], path_wait=1.5))
    with pytest.raises(NodeUnavailable):
        sender.call("NODE-01.math.add", [1, 2])
    with probe.channel() as channel:
        channel.queue_declare("NODE-01", durable=True)
        channel.queue_bind("NODE-01", "py-servicebus", "NODE-01")
    for ask in (lambda: sender.call("NODE-01.math.add", [1, 2]), lambda: sender.send("NODE-01.audit.record", 1)):
        with pytest.raises(NodeUnavailable):
            ask()
    sender.close()
    wait_until(lambda: probe.depth("NODE-01") == 0, what="only pings were put there, and they expire")


def test_a_message_to_a_known_old_agent_waits_for_it_on_the_broker(
    agent: OldAgent, brokers: list[Broker], old_agent: Callable[..., OldAgent], probe: Probe, make_sender: MakeSender
) -> None:
    sender = make_sender(compat(brokers[0]))
    assert sender.ping("NODE-01")
    agent.close()
    wait_until(lambda: not probe.consumers("NODE-01"))
    assert sender.send("NODE-01.audit.record", "patience") == 1
    brokers[0].stop()
    brokers[0].start()
    again = old_agent(brokers[0])
    wait_until(lambda: again.noted("recorded") == ["patience"], 20, again.log)


def test_an_agent_that_was_replaced_by_a_new_one_is_noticed_and_the_way_back_too(
    agent: OldAgent,
    brokers: list[Broker],
    old_agent: Callable[..., OldAgent],
    new_agent: Callable[..., Agent],
    probe: Probe,
    make_sender: MakeSender,
) -> None:
    """Results become values, and texts again, of a node that is named. No call fails but while it is away."""
    sender = make_sender(compat(brokers[0], compat_nodes=["NODE-01"]))
    assert sender.call("NODE-01.math.add", [1, 2])[1] == "3"
    agent.close()
    new = new_agent(brokers[0])

    def result() -> object:
        try:
            return sender.call("NODE-01.math.add", [1, 2])[1]
        except ServiceBusError as error:
            return error

    wait_until(lambda: result() == 3, 15)
    new.stop(signal.SIGTERM)
    ready(old_agent(brokers[0]), probe)
    wait_until(lambda: result() == "3", 15)


def test_beside_an_old_agent_a_new_one_is_preferred(
    agent: OldAgent, brokers: list[Broker], new_agent: Callable[..., Agent], make_sender: MakeSender
) -> None:
    new = new_agent(brokers[0])
    sender = make_sender(compat(brokers[0]))
    assert {sender.call("NODE-01.test.whoami")[1] for _ in range(8)} == set(new.worker_pids())


@pytest.mark.brokers(count=2)
def test_calls_fail_over_between_brokers_of_old_agents(
    brokers: list[Broker], old_agent: Callable[..., OldAgent], make_probe: Callable[..., Probe], make_sender: MakeSender
) -> None:
    for broker in brokers:
        probe = make_probe(broker)
        ready(old_agent(broker), probe)
    sender = make_sender(compat(*brokers))
    assert sender.call("NODE-01.math.add", [1, 2])[1] == "3"
    brokers[0].kill()
    assert sender.call("NODE-01.math.add", [3, 4], timeout=60)[1] == "7"
    assert sender.status()["hosts"][1]["calls"], "over the other broker"


def test_without_the_key_no_old_agent_is_reached(
    agent: OldAgent, brokers: list[Broker], make_sender: MakeSender
) -> None:
    sender = make_sender(compat(brokers[0], compat=False, path_wait=0.3))
    assert sender.ping("NODE-01", timeout=10) is False
    with pytest.raises(NodeUnavailable):  # the connection is there: the call waits for nothing but the node
        sender.call("NODE-01.math.add", [1, 2])
