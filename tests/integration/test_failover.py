"""A broker's death or silence: no call is lost or answered wrong.

Few repetitions, with default settings unless a test says otherwise. What that may cost (P5, P6 of DESIGN) is asked in
virtual time, by test_failover_times.py; benchmarks/failover.py takes the figures.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from agents import Agent
from waiting import Stopwatch, wait_until

from servicebus.client.channels import UNCONFIRMED_AT_ONCE
from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted, CallTimeout, NoBrokerAvailable, NodeUnavailable, SendUnconfirmed
from servicebus.sender import Sender
from servicebus.testing import Broker, FaultProxy, Mode

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

ADD = "NODE-01.math.add"
SLEEP = "NODE-01.test.sleep"
SILENT = "silent for 2 s"
QUICK_WATCHER = {"watcher_interval": 0.5, "watcher_timeout": 1.0}


def name(host: Broker | FaultProxy) -> str:
    return f"{host.host}:{host.port}"


@contextmanager
def calls_in_flight(agent: Agent, sender: Sender, pause_s: float, count: int = 8) -> Iterator[None]:
    """Calls that run at the beginning of the block, and must have come back with the right result after it."""
    futures = [sender.call_async(SLEEP, [pause_s, number]) for number in range(count)]
    wait_until(lambda: len(agent.noted("started")) >= count)
    yield
    assert [future.result(20)[1] for future in futures] == list(range(count))


# -- a broker that dies ------------------------------------------------------------------------------------------------


def test_a_killed_broker_costs_neither_the_calls_in_flight_nor_the_next_one(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The second host is not even connected at that moment; then the same again, with the brokers' roles exchanged."""
    agent = start_agent(brokers, threads={"test.sleep": 8}).wait_consuming()
    sender = make_sender(agent.configuration())
    assert sender.call(ADD, [1, 1])[1] == 2
    with calls_in_flight(agent, sender, pause_s=0.3):
        brokers[0].kill()
        assert sender.call(ADD, [1, 2])[1] == 3
    restart(brokers[0], agent)
    brokers[1].kill()
    assert sender.call(ADD, [2, 2])[1] == 4


def test_a_broker_that_has_just_returned_is_used_when_the_other_one_dies(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The Sender pauses between its attempts to reach the dead one; a call that has nothing else cuts that short."""
    agent = start_agent(brokers).wait_consuming()
    with FaultProxy(brokers[0].port) as first, FaultProxy(brokers[1].port) as second:
        sender = make_sender(agent.configuration(hosts=[name(first), name(second)]))
        down, up = first, second
        down.set_mode(Mode.REFUSE)
        for _ in range(4):
            watch = Stopwatch()
            while watch.elapsed_s < 1.5:  # so that its pauses grow
                assert sender.call(ADD, [1, 1])[1] == 2
            down.heal()
            up.set_mode(Mode.REFUSE)
            down, up = up, down
            assert sender.call(ADD, [1, 2])[1] == 3


def restart(broker: Broker, agent: Agent) -> None:
    """Start it, and wait until the agent consumes there again."""
    before = consumed(agent, broker)
    broker.start()
    wait_until(lambda: consumed(agent, broker) > before, 15, agent.log)


def consumed(agent: Agent, host: Broker | FaultProxy) -> int:
    """How often the agent has said that it consumes there."""
    return len(agent.log_lines(name(host), "consuming for"))


def test_a_call_that_must_not_run_twice_is_interrupted_by_the_kill(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    future = sender.call_async(SLEEP, [60, "once"], resend=False)
    wait_until(lambda: agent.noted("started"))
    brokers[0].kill()
    with pytest.raises(CallInterrupted, match=name(brokers[0])):
        future.result(30)
    assert agent.noted("started") == ["once"]


def test_every_message_that_was_confirmed_around_a_kill_is_handled(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """Those confirmed by the killed broker are in its durable queue, and handled when it is back."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    confirmed: list[int] = []
    half_way = threading.Event()

    def send_all() -> None:
        for number in range(600):
            sender.send("NODE-01.audit.record", number)
            confirmed.append(number)
            if number == 200:
                half_way.set()

    sending = threading.Thread(target=send_all)
    sending.start()
    assert half_way.wait(20)
    brokers[0].kill()
    sending.join(30)
    assert confirmed == list(range(600)), "every send came through one broker or the other"
    brokers[0].start()
    wait_until(lambda: {int(line) for line in agent.noted("recorded")} >= set(confirmed), 20)


def test_a_broker_that_confirms_nothing_is_sent_no_more_and_the_rest_goes_to_the_next(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    with FaultProxy(brokers[0].port) as proxy:
        sender = make_sender(agent.configuration(hosts=[name(proxy), name(brokers[1])], path_ping_after=20))
        sender.send("NODE-01.audit.record", -1)
        proxy.set_mode(Mode.DROP_TO_CLIENT)
        futures = [sender.send_async("NODE-01.audit.record", number) for number in range(1000)]
        wait_until(lambda: sender.status()["hosts"][0]["unconfirmed"] == 1000)
        wait_until(lambda: len(agent.noted("recorded")) >= 1 + UNCONFIRMED_AT_ONCE, 20)
        # Behind all that was published, in the same queue: when it is handled, nothing more is on its way.
        make_sender(agent.configuration(hosts=[name(brokers[0])])).send("NODE-01.audit.record", 1000)
        wait_until(lambda: "1000" in agent.noted("recorded"), 20)
        assert len(agent.noted("recorded")) == 2 + UNCONFIRMED_AT_ONCE
        proxy.set_mode(Mode.REFUSE)
        assert {future.result(20).confirmed_by for future in futures} == {name(brokers[1])}
    wait_until(lambda: len(agent.noted("recorded")) >= 1002, 20)
    # Those that both brokers had were handled once.
    assert sorted(map(int, agent.noted("recorded"))) == list(range(-1, 1001))


def test_a_message_that_was_never_published_was_not_sent(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers[:1]).wait_consuming()
    with FaultProxy(brokers[0].port) as proxy:
        sender = make_sender(agent.configuration(hosts=[name(proxy)], path_ping_after=20))
        sender.send("NODE-01.audit.record", -1)
        proxy.set_mode(Mode.DROP_TO_CLIENT)
        futures = [sender.send_async("NODE-01.audit.record", number, timeout=1) for number in range(400)]
        errors = [future.exception(20) for future in futures]
        assert {type(error) for error in errors[:UNCONFIRMED_AT_ONCE]} == {SendUnconfirmed}
        assert {type(error) for error in errors[UNCONFIRMED_AT_ONCE:]} == {NodeUnavailable}
        assert "did not confirm enough of those before it" in str(errors[-1])
        proxy.set_mode(Mode.PASS)
        sender.send("NODE-01.audit.record", 400)
    wait_until(lambda: "400" in agent.noted("recorded"), 20)
    assert sorted(map(int, agent.noted("recorded"))) == [*range(-1, UNCONFIRMED_AT_ONCE), 400]


def test_the_preferred_broker_gets_the_traffic_back_without_losing_a_call(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(failback_after=1.0))
    brokers[0].kill()
    assert sender.call(ADD, [1, 1])[1] == 2
    brokers[0].start()
    calls_there = _calls_over(sender, brokers[0])

    def is_back() -> bool:
        assert sender.call(ADD, [1, 2], timeout=5)[1] == 3
        return _calls_over(sender, brokers[0]) >= calls_there + 10

    wait_until(is_back, 15, lambda: str(sender.status()))


def _calls_over(sender: Sender, broker: Broker) -> int:
    return next(int(host["calls"]) for host in sender.status()["hosts"] if host["name"] == name(broker))


# -- a broker that falls silent ----------------------------------------------------------------------------------------


@pytest.fixture
def sender_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """With what it says of its links."""
    caplog.set_level(logging.DEBUG, "servicebus.client")
    return caplog


def test_a_frozen_broker_is_found_by_a_ping(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, sender_log: pytest.LogCaptureFixture
) -> None:
    agent = start_agent(brokers, threads={"test.sleep": 8}).wait_consuming()
    sender = make_sender(agent.configuration())
    assert sender.call(ADD, [1, 1])[1] == 2
    with calls_in_flight(agent, sender, pause_s=0.5):
        brokers[0].freeze()
        assert sender.call(ADD, [1, 2])[1] == 3
    wait_until(lambda: SILENT in sender_log.text)
    brokers[0].thaw()


@pytest.mark.parametrize("mode", [Mode.DROP, Mode.SWALLOW])
def test_a_path_that_falls_silent_is_found_by_a_ping(
    brokers: list[Broker],
    start_agent: StartAgent,
    make_sender: MakeSender,
    sender_log: pytest.LogCaptureFixture,
    mode: Mode,
) -> None:
    """The agent itself is well: only what is between this Sender and the broker swallows everything."""
    agent = start_agent(brokers, threads={"test.sleep": 8}).wait_consuming()
    with FaultProxy(brokers[0].port) as proxy:
        sender = make_sender(agent.configuration(hosts=[name(proxy), name(brokers[1])]))
        assert sender.call(ADD, [1, 1])[1] == 2
        with calls_in_flight(agent, sender, pause_s=0.5):
            proxy.set_mode(mode)
            assert sender.call(ADD, [1, 2])[1] == 3
        wait_until(lambda: SILENT in sender_log.text)


def test_calls_with_short_limits_leave_a_path_that_fell_silent(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, sender_log: pytest.LogCaptureFixture
) -> None:
    """None of them is waited for as long as ``path_ping_after``; together they are."""
    agent = start_agent(brokers).wait_consuming()
    with FaultProxy(brokers[0].port) as proxy:
        sender = make_sender(agent.configuration(hosts=[name(proxy), name(brokers[1])]))
        assert sender.call(ADD, [1, 1])[1] == 2
        proxy.set_mode(Mode.DROP)
        wait_until(lambda: ends_well(sender.call_async(ADD, [1, 2], timeout=0.2)), 30)
        wait_until(lambda: SILENT in sender_log.text)


def ends_well(future: Future[Any]) -> bool:
    return future.exception() is None


def test_a_broker_that_fell_silent_before_its_first_answer_is_used_again_when_it_speaks(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """Its next connection has received as many bytes as that one when it is looked at: those of the handshake."""
    agent = start_agent([brokers[0]]).wait_consuming()
    with FaultProxy(brokers[0].port) as proxy:
        proxy.set_delay(0.1)  # so that the confirm does not come before the silence, nor before the first look
        sender = make_sender(agent.configuration(hosts=[name(proxy)], path_wait=20.0))
        future = sender.send_async("NODE-01.audit.record", 1)
        wait_until(lambda: sender.status()["hosts"][0]["usable"])
        proxy.set_mode(Mode.DROP)
        wait_until(lambda: not sender.status()["hosts"][0]["usable"])
        proxy.set_mode(Mode.PASS)
        assert future.result(15) == 1


def test_every_call_ends_while_the_broker_is_silent(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The first call comes after a pause, when the Sender looks at its clock less often."""
    agent = start_agent(brokers[:1]).wait_consuming()
    sender = make_sender(agent.configuration())
    assert sender.call(ADD, [1, 1])[1] == 2
    brokers[0].freeze()
    threading.Event().wait(0.6)
    for future in [sender.call_async(ADD, [1, 1], timeout=limit_s) for limit_s in (0.05, 0.1, 0.4, 1.0, 1.8, 2.5)]:
        with pytest.raises((CallTimeout, CallInterrupted)):
            future.result(30)
    brokers[0].thaw()


# -- a first host that was never well ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.DROP, Mode.DEAF, Mode.SWALLOW, Mode.REFUSE, Mode.RESET])
def test_a_bad_first_host_is_passed_over_by_a_new_sender(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, mode: Mode
) -> None:
    agent = start_agent(brokers).wait_consuming()
    with FaultProxy(brokers[0].port) as proxy:
        proxy.set_mode(mode)
        for _ in range(3):
            sender = make_sender(agent.configuration(hosts=[name(proxy), name(brokers[1])], path_wait=60))
            assert sender.call(ADD, [2, 3])[1] == 5
            assert [host["calls"] for host in sender.status()["hosts"]] == [0, 1]


# -- the agent's own return --------------------------------------------------------------------------------------------


def test_the_agent_consumes_again_after_a_killed_broker_is_back(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    before = consumed(agent, brokers[0])
    brokers[0].kill()
    brokers[0].start()
    _is_served_again(agent, before, brokers[0], make_sender)


def test_the_agent_consumes_again_after_a_frozen_broker_is_thawed(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers, **QUICK_WATCHER).wait_consuming()
    before = consumed(agent, brokers[0])
    brokers[0].freeze()
    agent.wait_log(name(brokers[0]), "no echo")
    brokers[0].thaw()
    _is_served_again(agent, before, brokers[0], make_sender)


@pytest.mark.parametrize("mode", [Mode.DROP, Mode.SWALLOW])
def test_the_agent_consumes_again_after_its_network_is_back(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, mode: Mode
) -> None:
    """What a network drops is sent again by the kernel. What a wedged middlebox acknowledged and threw away is not: a
    handshake that went in there ends by its own limit of 10 s."""
    with FaultProxy(brokers[0].port) as proxy:
        agent = start_agent([name(proxy), name(brokers[1])], **QUICK_WATCHER).wait_consuming()
        before = consumed(agent, proxy)
        proxy.set_mode(mode)
        agent.wait_log(name(proxy), "no echo")
        proxy.heal()
        _is_served_again(agent, before, proxy, make_sender)


def _is_served_again(agent: Agent, before: int, host: Broker | FaultProxy, make_sender: MakeSender) -> None:
    wait_until(lambda: consumed(agent, host) > before, 30, agent.log)
    sender = make_sender(agent.configuration(hosts=[name(host)]))
    assert [sender.call(ADD, [number, 1], timeout=20)[1] for number in range(10)] == list(range(1, 11))


# -- nobody there ------------------------------------------------------------------------------------------------------


def test_with_every_broker_dead_a_call_ends_after_the_wait_limit_and_names_them(
    brokers: list[Broker], make_sender: MakeSender
) -> None:
    for broker in brokers:
        broker.kill()
    config = Configuration({"hosts": [name(broker) for broker in brokers], "secret_token": "s", "path_wait": 0.5})
    sender = make_sender(config)
    watch = Stopwatch()
    with pytest.raises(NoBrokerAvailable) as caught:
        sender.call(ADD, [1, 2])
    assert watch.elapsed_s >= 0.5
    assert all(f"{name(broker)} connection refused" in str(caught.value) for broker in brokers)


def test_with_every_broker_silent_from_the_start_a_call_ends_after_the_wait_limit_and_says_so(
    brokers: list[Broker], make_sender: MakeSender
) -> None:
    """Not only after the handshake's own limit: whoever has not answered by then is of no use to this call."""
    with FaultProxy(brokers[0].port) as deaf, FaultProxy(brokers[1].port) as dropping:
        deaf.set_mode(Mode.DEAF)
        dropping.set_mode(Mode.DROP)
        sender = make_sender(Configuration({"hosts": [name(deaf), name(dropping)], "secret_token": "s"}))
        watch = Stopwatch()
        with pytest.raises(NoBrokerAvailable) as caught:
            sender.call(ADD, [1, 2])
        assert watch.elapsed_s >= 3.0
    assert f"{name(deaf)} no answer to the first attempt yet" in str(caught.value)
    assert f"{name(dropping)} no connection within 2 s" in str(caught.value)


def test_with_every_broker_dead_in_the_middle_the_call_waits_for_one_that_comes_back(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(path_wait=30.0))
    assert sender.call(ADD, [1, 1])[1] == 2
    for broker in brokers:
        broker.kill()
    future = sender.call_async(ADD, [1, 2])
    brokers[1].start()
    assert future.result(20)[1] == 3


def test_a_call_to_a_node_without_an_agent_says_so_for_each_broker(
    brokers: list[Broker], make_sender: MakeSender
) -> None:
    config = Configuration({"hosts": [name(broker) for broker in brokers], "secret_token": "s", "path_wait": 0.5})
    with pytest.raises(NodeUnavailable, match="no agent of the node") as caught:
        make_sender(config).call(ADD, [1, 2])
    assert name(brokers[0]) in str(caught.value)
