"""What becomes of calls beside failover: given up, hedged, sent again, moved from blocked brokers. Delayed messages."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from click.testing import CliRunner
from envelopes import SECRET
from probe import Probe
from waiting import Stopwatch, wait_until

from servicebus.cli.exit_codes import ExitCode, exit_code_of
from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.errors import CallError, CallRefused, CallTimeout, NodeUnavailable, RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker, FaultProxy, Mode
from servicebus.wire.xmlcodec import decode_envelope

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

ADD = "NODE-01.math.add"
SLEEP = "NODE-01.test.sleep"
WHOAMI = "NODE-01.test.whoami"
NOBODY = "NODE-77.math.add"


def name(broker: Broker) -> str:
    return f"{broker.host}:{broker.port}"


# -- giving up ---------------------------------------------------------------------------------------------------------


class SilentNode:
    """The queues of a node whose agent takes nothing out of them."""

    def __init__(self, broker: Broker):
        self.probe = Probe(broker)
        with self.probe.channel() as channel:
            channel.exchange_declare("servicebus", "direct", durable=True)
            for queue in ("NODE-77.rpc", "NODE-77.control", "NODE-77.cancel", "NODE-77.messages"):
                channel.queue_declare(queue, durable=True)
                channel.queue_bind(queue, "servicebus", queue)
        self.config = Configuration(
            {"hosts": [name(broker)], "secret_token": SECRET, "path_ping_after": 20, "path_wait": 0.3}
        )

    def called(self) -> str:
        """The id of the call that arrives."""
        return wait_until(lambda: [decode_envelope(body, 10**6).id for body, _ in self.probe.take_all("NODE-77.rpc")])[
            0
        ]

    def cancelled(self) -> tuple[str, bytes]:
        """Service and params of the next cancellation."""
        found = wait_until(lambda: self.probe.take_all("NODE-77.cancel"))
        envelope = decode_envelope(found[0][0], 10**6)
        return f"{envelope.kind.value} {envelope.category}.{envelope.service}", envelope.params


def told_of(wire_id: str) -> tuple[str, bytes]:
    return "control servicebus.cancel", f'["{wire_id}"]'.encode()


def test_the_node_is_told_when_a_calls_time_is_over(brokers: list[Broker], make_sender: MakeSender) -> None:
    node = SilentNode(brokers[0])
    future = make_sender(node.config).call_async(NOBODY, [1, 2], timeout=0.7)
    wire_id = node.called()
    with pytest.raises(CallTimeout):
        future.result(5)
    assert node.cancelled() == told_of(wire_id)


def test_the_node_is_told_when_a_future_is_cancelled(brokers: list[Broker], make_sender: MakeSender) -> None:
    node = SilentNode(brokers[0])
    sender = make_sender(node.config)
    future = sender.call_async(NOBODY, [1, 2])
    wire_id = node.called()
    assert future.cancel()
    assert node.cancelled() == told_of(wire_id)
    assert sender.status()["travelling"] == 0


def test_the_node_is_told_when_the_sender_is_closed(brokers: list[Broker], make_sender: MakeSender) -> None:
    node = SilentNode(brokers[0])
    sender = make_sender(node.config)
    future = sender.call_async(NOBODY, [1, 2])
    wire_id = node.called()
    sender.close()
    with pytest.raises(CallError, match="the Sender was closed"):
        future.result(5)
    assert node.cancelled() == told_of(wire_id)


class Alarm(Exception):
    """What a program's own signal handler raises."""


# One that strikes while something is being collected as garbage cannot be raised; Python says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_program_may_interrupt_its_calls_at_any_moment(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers[:1]).wait_consuming()
    sender = make_sender(agent.configuration())
    sender.call(ADD, [0, 0], timeout=20)  # connects
    watch = Stopwatch()
    for number in range(20):
        assert sender.call(ADD, [number, 0], timeout=20)[1] == number
    call_s = watch.elapsed_s / 20

    def ring(*_: object) -> None:
        raise Alarm

    def strike_after(delay_s: float) -> threading.Timer:
        return threading.Timer(delay_s, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))

    # Not SIGALRM: that one ends the test itself when it hangs.
    before = signal.signal(signal.SIGUSR1, ring)
    struck = 0
    try:
        for number in range(100):
            assert sender.call(ADD, [number, 1], timeout=20)[1] == number + 1  # what the last one cut is mended
            timer = strike_after(call_s * (0.01 + number * 37 % 100 / 33))
            try:
                timer.start()
                for number in range(4):
                    assert sender.call(ADD, [number, number], timeout=20)[1] == number + number
                timer.join()
            except Alarm:
                struck += 1
            finally:
                timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sender.call(ADD, [20, 22], timeout=20)[1] == 42
    status = wait_until(lambda: (s := sender.status())["travelling"] + s["waiting"] == 0 and s)
    assert status["unverified_replies"] == 0
    assert struck > 90  # one that strikes while garbage is collected is lost: see above


def test_the_node_is_told_when_somebody_presses_ctrl_c(brokers: list[Broker], make_sender: MakeSender) -> None:
    node = SilentNode(brokers[0])
    sender = make_sender(node.config)
    arrived: list[str] = []

    def press() -> None:
        arrived.append(node.called())
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        sender.call(NOBODY, [1, 2])
    presser.join()
    assert node.cancelled() == told_of(arrived[0])


def test_a_call_that_was_given_up_does_not_run_when_the_service_is_free(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers[:1]).wait_consuming()
    sender = make_sender(agent.configuration())
    first = sender.call_async(SLEEP, [0.5, "first"])
    second = sender.call_async(SLEEP, [0.5, "second"])
    wait_until(lambda: agent.noted("started"))
    assert second.cancel()
    assert first.result(5)[1] == "first"
    assert sender.call(SLEEP, [0.0, "third"])[1] == "third"
    assert agent.noted("started") == ["first", "third"]


# -- hedging -----------------------------------------------------------------------------------------------------------


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    # The thread that is told stops the others when it gets a processor: until then they go on, and may answer a call.
    wait_until(lambda: all(state == "T" for pid in pids for state in thread_states(pid)))
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def thread_states(pid: int) -> list[str]:
    """As proc(5) has them: ``T`` is stopped."""
    return [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]


def test_a_hedged_call_is_answered_over_another_broker_when_the_first_takes_long(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(path_ping_after=20))
    preferred = sender.call(WHOAMI, hedge_after=5)[1]
    assert sender.status()["hedged"] == 0
    with frozen(preferred):
        assert sender.call(WHOAMI, hedge_after=0.1, timeout=10)[1] != preferred
        assert sender.status()["hedged"] == 1
        assert sender.status()["travelling"] == 0
    wait_until(lambda: sender.call(WHOAMI)[1] == preferred)


def test_a_hedged_call_goes_on_alone_when_one_of_its_brokers_dies(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers, threads={"test.sleep": 4}).wait_consuming()
    sender = make_sender(agent.configuration())
    for broker in brokers:
        future = sender.call_async(SLEEP, [1.5, broker.name], hedge_after=0.05)
        wait_until(lambda: sender.status()["hedged"])
        broker.kill()
        assert future.result(10)[1] == broker.name
        broker.start()
        sender.close()
        agent.wait_consuming()


def test_a_hedged_call_of_which_nothing_is_left_fails_once(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(path_wait=0.3))
    future = sender.call_async(SLEEP, [20, "lost"], hedge_after=0.05)
    wait_until(lambda: sender.status()["hedged"])
    for broker in brokers:
        broker.kill()
    with pytest.raises(CallError, match="interrupted"):
        future.result(10)
    assert sender.status()["travelling"] == sender.status()["waiting"] == 0


# -- sending again -----------------------------------------------------------------------------------------------------


def test_640_calls_in_flight_are_all_carried_over_when_their_worker_freezes(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The first time a call is sent again is free, however many there are: that is a failover."""
    agent = start_agent(brokers, queue_len=2000, prefetch=4000).wait_consuming()
    sender = make_sender(agent.configuration(path_ping_after=0.2, path_ping_timeout=0.4))
    preferred = sender.call(WHOAMI)[1]
    with frozen(preferred):
        futures: list[Future[Any]] = [sender.call_async(ADD, [number, 1]) for number in range(640)]
        assert [future.result(20)[1] for future in futures] == list(range(1, 641))
    assert sender.status()["held_back"] == 0


def test_a_busy_service_answers_everybody_in_the_end(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers[:1], queue_len=4).wait_consuming()
    sender = make_sender(agent.configuration())
    futures = [sender.call_async(SLEEP, [0.002, number], timeout=30) for number in range(300)]
    assert [future.result(30)[1] for future in futures] == list(range(300))


# -- pings -------------------------------------------------------------------------------------------------------------


def test_a_node_is_there_although_one_of_its_agents_is_frozen(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agents = [start_agent(brokers[:1]).wait_consuming() for _ in range(2)]
    sender = make_sender(agents[0].configuration())
    with frozen(agents[0].worker_pids()[0]):
        assert [sender.ping("NODE-01") for _ in range(3)] == [True] * 3
        assert sender.ping_all("NODE-01") == (1, 1)


def test_ping_says_why_and_offers_tells_what_a_node_has(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers[:1]).wait_consuming()
    sender = make_sender(agent.configuration())
    assert sender.ping_error("NODE-01") is None
    assert isinstance(sender.ping_error("NODE-02", 4), NodeUnavailable)
    stranger = make_sender(agent.configuration(secret_token="another secret of some length"))
    unknown = stranger.ping_error("NODE-01", 4)
    assert "do both sides have the same secret?" in str(unknown)
    assert isinstance(unknown, CallRefused)
    assert exit_code_of(unknown) is ExitCode.REFUSED
    refused = make_sender(agent.configuration(user="unknown", password="x"))
    assert "refused the credentials" in str(refused.ping_error("NODE-01", 2))
    assert sender.offers(ADD)
    assert not sender.offers(ADD, is_call=False), "another kind"
    assert sender.offers("NODE-01.audit.record", is_call=False)
    with pytest.raises(NodeUnavailable):
        sender.offers("NODE-02.math.add", timeout=0.5)


@pytest.mark.timeout(400)  # four commands, each of which waits for an answer that it can believe
@pytest.mark.brokers(count=1)
def test_every_command_that_asks_a_node_ends_alike_with_another_secret(
    brokers: list[Broker], start_agent: StartAgent, tmp_path: Path
) -> None:
    start_agent(brokers).wait_consuming()
    asked = [
        ["call", ADD, "[1, 2]"],
        ["ping", "--timeout", "20", "NODE-01"],
        ["ping", "--all", "--timeout", "20", "NODE-01"],
        ["send", "--check", "NODE-01.audit.record", "1"],
    ]
    config = tmp_path / "stranger.yaml"
    settings = {"secret_token": "another secret of some length", "path_wait": 10}
    config.write_text(json.dumps({"hosts": [brokers[0].url], **settings}))
    for command in asked:
        result = CliRunner().invoke(servicebus, [*command, "-c", str(config)])
        assert (result.exit_code, "do both sides have the same secret?" in result.stderr) == (6, True), command


# -- a broker under an alarm, and back ---------------------------------------------------------------------------------


def test_a_broker_under_a_memory_alarm_is_left(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """What is in flight moves, too; the worker there goes on taking and acknowledging what it has."""
    agent = start_agent(brokers, threads={"test.sleep": 4}).wait_consuming()
    sender = make_sender(agent.configuration())
    probe = Probe(brokers[0])
    assert sender.call(ADD, [1, 1])[1] == 2
    for number in range(50):
        sender.send("NODE-01.audit.slow", number)
    running = [sender.call_async(SLEEP, [1.0, number]) for number in range(2)]
    wait_until(lambda: len(agent.noted("started")) == 2)
    brokers[0].rabbitmqctl("set_vm_memory_high_watermark", "0.00001")
    try:
        assert sender.call(ADD, [1, 2])[1] == 3
        assert "blocked by the broker" in sender.status()["hosts"][0]["reason"]
        assert sender.send("NODE-01.audit.record", "moved").confirmed_by == name(brokers[1])
        assert [future.result(10)[1] for future in running] == [0, 1]
        wait_until(lambda: len(agent.noted("recorded")) == 51)
        wait_until(lambda: probe.depth("NODE-01.messages") == 0)
    finally:
        brokers[0].rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    wait_until(lambda: sender.status()["hosts"][0]["usable"], 20, lambda: str(sender.status()))


def test_calls_that_are_on_their_way_elsewhere_end_there_when_the_preferred_broker_is_back(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers, threads={"test.sleep": 8}).wait_consuming()
    with FaultProxy(brokers[0].port) as proxy:
        hosts = [f"127.0.0.1:{proxy.port}", name(brokers[1])]
        sender = make_sender(agent.configuration(hosts=hosts, failback_after=0.2))
        proxy.set_mode(Mode.REFUSE)
        assert sender.call(ADD, [1, 1])[1] == 2
        running = [sender.call_async(SLEEP, [3.0, number]) for number in range(8)]
        wait_until(lambda: len(agent.noted("started")) == 8)
        proxy.heal()

        def is_back() -> bool:
            before = sender.status()["hosts"][0]["calls"]
            assert sender.call(ADD, [1, 2])[1] == 3
            return bool(sender.status()["hosts"][0]["calls"] > before)

        wait_until(is_back, 15, lambda: str(sender.status()))
        assert [future.result(20)[1] for future in running] == list(range(8))
        assert len(agent.noted("started")) == 8, "each has run once, where it was"


# -- delayed messages --------------------------------------------------------------------------------------------------


def test_a_delayed_message_goes_straight_into_the_longest_delay_queue_that_fits(
    brokers: list[Broker], make_sender: MakeSender
) -> None:
    node = SilentNode(brokers[0])
    node.probe.declare("NODE-77.messages.delay.5", durable=True)
    sender = make_sender(node.config)
    assert sender.send("NODE-77.audit.record", 1, delay=29).confirmed_by == name(brokers[0])
    ((body, _),) = node.probe.take_all("NODE-77.messages.delay.5")
    envelope = decode_envelope(body, 10**6)
    assert 28_990 < envelope.due_ms - envelope.sent_ms <= 29_001


def test_a_delayed_message_needs_its_queue(brokers: list[Broker], make_sender: MakeSender) -> None:
    node = SilentNode(brokers[0])
    with pytest.raises(NodeUnavailable, match="has no queue for the messages of the node"):
        make_sender(node.config).send("NODE-77.audit.record", 1, delay=3)


def test_a_delayed_message_is_handled_when_it_is_due(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers[:1]).wait_consuming()
    sender = make_sender(agent.configuration())
    watch = Stopwatch()
    sender.send("NODE-01.audit.record", "late", delay=1.2)
    sender.send("NODE-01.audit.record", "now")
    wait_until(lambda: len(agent.noted("recorded")) == 2)
    assert watch.elapsed_s >= 1.2
    assert agent.noted("recorded") == ["now", "late"]


# -- calls made by services --------------------------------------------------------------------------------------------


def test_a_nested_call_ends_with_the_call_that_made_it(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """And its own node is told, so that its service can see that nobody waits any more."""
    agent = start_agent(brokers[:1]).wait_consuming()
    inner = start_agent(brokers[:1], node_name="NODE-02").wait_consuming()
    sender = make_sender(agent.configuration())
    # Both have the same deadline; the answer that the inner one has passed it may come just before the outer one does.
    with pytest.raises((CallTimeout, RemoteError), match=r"no reply within [01]\."):
        sender.call("NODE-01.test.nested", ["NODE-02.test.sleep", [8.0, "inner"]], timeout=1.5)
    assert inner.noted("finished") == []
    assert re.search(r"no reply within [01]\.", agent.wait_log("NODE-02.test.sleep: no reply within"))
    wait_until(lambda: inner.counters().get("cancelled"), 10, lambda: str(inner.counters()))
