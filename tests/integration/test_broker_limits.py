"""A broker with small limits: what does not fit costs its own request, and not the node's place on the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable, RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.testing import brokers as private_brokers
from servicebus.wire import headers

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

LIMIT = 200_000
FRAME_MAX = 8192
"""The least that every version of RabbitMQ takes."""


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with private_brokers(count=1, rabbitmq_conf=f"frame_max = {FRAME_MAX}\nmax_message_size = {LIMIT}") as (broker,):
        yield broker


def test_what_is_too_large_for_the_broker_costs_its_own_request(
    broker: Broker, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent([broker]).wait_consuming()
    sender, probe = make_sender(agent.configuration()), Probe(broker)

    # A failed message with more detail and trace than a frame holds.
    sender.send("NODE-01.audit.record", "boom" + "x" * 2 * FRAME_MAX)
    wait_until(lambda: probe.depth("NODE-01.dead"), 20, agent.log)
    ((_, marks),) = probe.take_all("NODE-01.dead")
    assert marks[headers.REASON] == "ValueError"

    # Replies beside each other, of which some are too large.
    largest = LIMIT - 1_000
    sizes = [10, largest, LIMIT + 5_000, 70_000, LIMIT, 20, LIMIT + 1]
    futures = [sender.call_async("NODE-01.test.large", size, timeout=30) for size in sizes]
    for size, future in zip(sizes, futures, strict=True):
        if size <= largest:
            assert future.result(30) == (future.result()[0], "x" * size)
        else:
            with pytest.raises(RemoteError, match="max_message_size") as told:
                future.result(30)
            assert told.value.type == "EnvelopeError"
    for _ in range(10):  # known now: it is not tried again
        with pytest.raises(RemoteError, match="oversized"):
            sender.call("NODE-01.test.large", 2 * LIMIT, timeout=30)

    def refused() -> int:
        return Path(broker.log_path).read_text().count("larger than configured max size")

    wait_until(refused, 20, what="the broker's log")
    assert refused() == 1
    assert "frame_too_large" not in Path(broker.log_path).read_text()
    assert agent.worker()["restarts"] == 0
    assert agent.log_lines("reconnecting") == []


PASSWORD = "only for the test"
ALL = (".*", ".*", ".*")
NODE = "NODE-01[.].*|amq[.]gen.*"
AGENT = (f"^(servicebus|{NODE})$", f"^(amq[.]default|{NODE})$", f"^(servicebus|{NODE})$")
SENDER = ("^$", "^servicebus$", "^$")
"""The rights that docs/rabbitmq.rst names: to configure, write and read."""
ALTERNATE = """
    Lost = {resource, <<"alternate">>, queue, <<"lost">>},
    rabbit_amqqueue:declare(Lost, true, false, [], none, <<"test">>),
    All = {resource, <<"alternate">>, exchange, <<"amq.fanout">>},
    rabbit_binding:add({binding, All, <<>>, Lost, []}, <<"test">>),
    rabbit_policy:set(<<"alternate">>, <<"test">>, <<"^servicebus$">>,
        [{<<"alternate-exchange">>, <<"amq.fanout">>}], 0, <<"exchanges">>, <<"test">>)"""

# What a virtual host lacks: its agent's and its Sender's rights, its limits, what the agent logs, what the Sender says.
LACKS: dict[str, tuple[tuple[str, str, str], tuple[str, str, str], str, str, str]] = {
    "connections": (
        ALL, ALL, 'rabbit_vhost_limit:set(<<"connections">>, [{<<"max-connections">>, 0}], <<"test">>)',
        "set_vhost_limits", "set_vhost_limits",
    ),
    "channels": (
        ALL, ALL,
        'rabbit_auth_backend_internal:set_user_limits(<<"agent-channels">>, <<"{\\"max-channels\\": 3}">>, <<"test">>)',
        "set_user_limits", "",
    ),
    "queues": (
        ALL, ALL, 'rabbit_vhost_limit:set(<<"queues">>, [{<<"max-queues">>, 3}], <<"test">>)',
        "takes no more queues", "",
    ),
    "configure": (("^$", *ALL[1:]), ("^$", *ALL[1:]), "ok", "exchange 'servicebus'", "there is no exchange servicebus"),
    "write": ((".*", "^NODE", ".*"), (".*", "^$", ".*"), "ok", "exchange 'amq.default'", "exchange 'servicebus'"),
    "read": ((".*", ".*", "^NODE"), ALL, "ok", "exchange 'servicebus'", ""),
    "alternate": (ALL, ALL, ALTERNATE, "remove its alternate exchange", "remove its alternate exchange"),
    "enough": (AGENT, SENDER, "ok", "", ""),
}  # fmt: skip


def host(broker: Broker, who: str, lack: str) -> dict[str, Any]:
    place = {"host": broker.host, "port": broker.port, "virtual_host": lack}
    return {**place, "user": f"{who}-{lack}", "password": PASSWORD}


def attempts(agent: Agent, index: int = 0) -> int:
    count: int = dict(enumerate(agent.workers())).get(index, {}).get("attempts", 0)
    return count


def make_virtual_hosts(broker: Broker) -> None:
    def user(name: str, lack: str, rights: tuple[str, str, str]) -> str:
        texts = ", ".join(f'<<"{right}">>' for right in rights)
        return (
            f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{PASSWORD}">>, <<"test">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"{lack}">>, {texts}, <<"test">>)'
        )

    for lack, (agents, senders, limit, *_) in LACKS.items():
        users = f"{user(f'agent-{lack}', lack, agents)}, {user(f'sender-{lack}', lack, senders)}"
        answer = broker.evaluate(f'rabbit_vhost:add(<<"{lack}">>, <<"test">>), {users}, {limit}.')
        assert answer == "ok", answer


def test_what_a_broker_lacks_is_named_once_with_what_to_change(
    broker: Broker, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    make_virtual_hosts(broker)
    agent = start_agent([host(broker, "agent", lack) for lack in LACKS])

    def lines(lack: str) -> list[str]:
        return [line for line in agent.log_lines(f":{broker.port}/{lack}: ") if " INFO " not in line]

    def about(lack: str) -> str:
        return f"{lack}: {agent.log()}"

    def has_tried_again(index: int) -> bool:
        return attempts(agent, index) >= 3

    for index, (lack, (_, _, _, advice, _)) in enumerate(LACKS.items()):
        if advice:
            wait_until(partial(lines, lack), 30, partial(about, lack))
        else:
            agent.wait_consuming([index])
        if lack in ("connections", "channels", "configure", "write", "read"):
            wait_until(partial(has_tried_again, index), 60, agent.log)
    for lack, (_, _, _, advice, _) in LACKS.items():
        told = lines(lack)
        causes = 2 if lack == "queues" else bool(advice)  # which queue is one too many may change once
        assert bool(advice) <= len(told) <= causes, told
        assert all(advice in line and "ERROR" in line for line in told), told

    for lack, (*_, says) in LACKS.items():
        sender = make_sender(agent.configuration(hosts=[host(broker, "sender", lack)], path_wait=0.3))
        if says:
            for ask in (sender.call, sender.send):
                with pytest.raises(NoBrokerAvailable, match="nothing was sent") as caught:
                    ask("NODE-01.math.add", [1, 2])
                assert says in str(caught.value)
                assert f":{broker.port}/{lack}" in str(caught.value)
        elif lack == "enough":
            assert sender.call("NODE-01.math.add", [1, 2])[1] == 3
            sender.send("NODE-01.audit.record", "one")


def test_a_broker_that_allows_few_channels_is_told_so(
    broker: Broker, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    allowed = broker.evaluate("{ok, N} = application:get_env(rabbit, channel_max), N.")
    broker.evaluate("application:set_env(rabbit, channel_max, 2).")
    try:
        agent = start_agent([broker])
        wait_until(lambda: attempts(agent) >= 3, 60, agent.log)
        (line,) = [line for line in agent.log_lines(f":{broker.port}") if " INFO " not in line]
        assert "ERROR" in line
        assert "allows 2 channels on a connection, too few: raise its channel_max" in line
        broker.evaluate("application:set_env(rabbit, channel_max, 1).")
        sender = make_sender(agent.configuration(path_wait=0.3))
        with pytest.raises(
            NoBrokerAvailable, match="allows 1 channels on a connection, too few: raise its channel_max"
        ):
            sender.call("NODE-01.math.add", [1, 2])
    finally:
        broker.evaluate(f"application:set_env(rabbit, channel_max, {allowed}).")
