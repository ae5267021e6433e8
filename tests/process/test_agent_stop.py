"""How an agent stops: real signals in the middle of real work."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from agents import Agent
from probe import Probe
from waiting import Stopwatch, wait_until

from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.runtime.master import _REPEAT_S
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.wire.xmlcodec import decode_envelope, decode_json

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]


class Load:
    """Threads that call and send as fast as they can, until the node is away."""

    def __init__(self, configuration: Configuration, make_sender: MakeSender):
        self.answered: list[int] = []
        self.confirmed: list[int] = []
        self.errors: list[ServiceBusError] = []
        self._lock = threading.Lock()
        self._next = 0
        self._is_over = False
        self._senders = [make_sender(configuration) for _ in range(2)]
        self._pool = ThreadPoolExecutor(16)
        works = [self._call] * 12 + [self._send] * 4
        self._futures = [self._pool.submit(work, self._senders[n % 2]) for n, work in enumerate(works)]

    def _number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _call(self, sender: Sender) -> None:
        while not self._is_over:
            number = self._number()
            try:
                assert sender.call("NODE-01.test.sleep", [0.02, number], timeout=20)[1] == number
            except ServiceBusError as error:
                self.errors.append(error)
            else:
                self.answered.append(number)

    def _send(self, sender: Sender) -> None:
        while not self._is_over:
            number = self._number()
            try:
                sender.send("NODE-01.audit.slow", number, timeout=20)
            except ServiceBusError as error:
                self.errors.append(error)
            else:
                self.confirmed.append(number)

    def end(self) -> None:
        self._is_over = True
        for future in self._futures:
            future.result(60)
        self._pool.shutdown()


def queued(probe: Probe) -> list[int]:
    bodies = [body for body, _ in probe.take_all("NODE-01.messages")]
    bodies += [body for body, _ in probe.take_all("NODE-01.messages.delay.1")]
    return [decode_json(decode_envelope(body, 10_000).params) for body in bodies]


@pytest.mark.parametrize("count", [1, 2])
def test_term_under_load_loses_nothing_and_doubles_nothing(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, count: int
) -> None:
    """P8: every accepted call answered, every confirmed message handled or still queued, exit 0, no process left, and
    long before drain_timeout."""
    agent = start_agent(brokers[:count], drain_timeout=600, queue_len=60, threads={"test.sleep": 4}).wait_consuming()
    load = Load(agent.configuration(path_wait=0.5), make_sender)
    wait_until(lambda: len(load.answered) > 100 and len(load.confirmed) > 100, 30)
    assert agent.stop(timeout_s=100) == 0, agent.log()
    agent.wait_gone()
    load.end()

    started = [int(line) for line in agent.noted("started")]
    assert len(started) == len(set(started)), "a call ran twice"
    assert set(started) == set(load.answered), "a call was run and its answer lost"
    assert agent.noted("finished") and len(agent.noted("finished")) == len(started)
    recorded = [int(line) for line in agent.noted("recorded")]
    waiting = [number for broker in brokers[:count] for number in queued(Probe(broker))]
    assert len(recorded) == len(set(recorded)), "a message was handled twice"
    assert set(load.confirmed) <= {*recorded, *waiting}, "a confirmed message was lost"
    assert not set(recorded) & set(waiting), "a handled message would be handled again"


@pytest.mark.brokers(count=1)
def test_a_slow_call_is_answered_while_its_agent_refuses_others(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """ "Stopping" says that one call was not run; it says nothing of those that were accepted before."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(path_wait=0.5))
    slow = sender.call_async("NODE-01.test.sleep", [2, "slow"], resend=False)
    wait_until(lambda: agent.noted("started"))
    agent.send(signal.SIGTERM)
    agent.wait_log("stopping, draining")
    wait_until(lambda: agent.status().get("stopping"))
    with pytest.raises(ServiceBusError):
        while True:
            sender.call("NODE-01.math.add", [1, 1])
    assert slow.result(10)[1] == "slow"
    assert agent.wait() == 0


@pytest.mark.brokers(count=1)
def test_a_stuck_service_does_not_hold_up_the_stop_for_longer_than_drain_timeout(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers, drain_timeout=1.5, threads={"test.stuck": 3}).wait_consuming()
    sender = make_sender(agent.configuration())
    for _ in range(3):
        sender.call_async("NODE-01.test.stuck", timeout=20)
    wait_until(lambda: len(agent.noted("started")) == 3)
    slow = sender.call_async("NODE-01.test.sleep", [0.7, "slow"])
    wait_until(lambda: len(agent.noted("started")) == 4)
    watch = Stopwatch()
    assert agent.stop() == 1, "something that was accepted was not finished, and the code says so"
    assert watch.elapsed_s >= 1.5
    agent.wait_gone()
    agent.wait_log("gave up waiting for")
    assert slow.result(5)[1] == "slow"


@pytest.mark.brokers(count=1)
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_now(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, second: int
) -> None:
    agent = start_agent(brokers, drain_timeout=600).wait_consuming()
    make_sender(agent.configuration()).call_async("NODE-01.test.stuck", timeout=20)
    wait_until(lambda: agent.noted("started"))
    agent.send(signal.SIGTERM)
    wait_until(lambda: agent.status().get("stopping"))
    if second == signal.SIGTERM:
        time.sleep(_REPEAT_S)  # sooner, it would be the first one, sent twice
    assert agent.stop(second, timeout_s=60) == 1
    agent.wait_gone()


@pytest.mark.brokers(count=1)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_do_not_wait_for_the_work_and_lose_no_message(
    brokers: list[Broker],
    start_agent: StartAgent,
    make_sender: MakeSender,
    signum: int,
) -> None:
    agent = start_agent(brokers, drain_timeout=600).wait_consuming()
    sender = make_sender(agent.configuration())
    sender.call_async("NODE-01.test.stuck", timeout=20)
    sent = [sender.send_async("NODE-01.audit.slow", number) for number in range(200)]
    for future in sent:
        future.result(10)
    wait_until(lambda: len(agent.noted("recorded")) > 5 and agent.noted("started"))
    assert agent.stop(signum, timeout_s=60) == 0
    agent.wait_gone()
    probe = Probe(brokers[0])
    waiting = wait_until(lambda: queued(probe), what="still queued")
    recorded = {int(line) for line in agent.noted("recorded")}
    assert {*recorded, *waiting} == set(range(200))
    assert len(recorded & set(waiting)) <= 20, "only what was under way at that moment may come again"


@pytest.mark.brokers(count=2)
def test_an_agent_whose_brokers_are_down_or_frozen_stops_at_once(
    brokers: list[Broker], start_agent: StartAgent
) -> None:
    """Nothing is to be drained where nothing can be said any more."""
    agent = start_agent(brokers, drain_timeout=600).wait_consuming()
    brokers[0].kill()
    brokers[1].freeze()
    wait_until(lambda: agent.worker()["state"] == "backoff")
    agent.stop(timeout_s=60)
    agent.wait_gone()


@pytest.mark.brokers(count=1)
def test_a_term_in_the_first_moment_is_obeyed_and_ends_with_zero(
    brokers: list[Broker], start_agent: StartAgent
) -> None:
    """Between the fork and a worker's own handlers a TERM must neither be lost nor be the death of it."""
    agents = [start_agent(brokers, workers_per_host=8) for _ in range(3)]
    for agent in agents:
        wait_until((agent.folder / "status").exists)
        assert agent.stop() == 0, agent.log()
        assert not agent.log_lines("killed by signal"), agent.log()
        agent.wait_gone()


class TestBesideAProgram:
    @pytest.mark.brokers(count=1)
    def test_terminate_and_join_stop_an_agent_that_runs_beside_a_program(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        agent = start_agent(brokers, mode="beside").wait_consuming()
        assert make_sender(agent.configuration()).call("NODE-01.math.add", [1, 2])[1] == 3
        processes = agent.processes()
        assert _read_line(agent) == ["pids", str(agent.status()["pid"])]
        _say(agent, "terminate")
        _say(agent, "join")
        assert _read_line(agent) == ["codes", "0"]
        assert [process.pid for process in processes if process.is_running()] == [agent.pid]
        _say(agent, "leave")
        assert agent.wait() == 0

    @pytest.mark.brokers(count=1)
    def test_it_ends_with_its_program(self, brokers: list[Broker], start_agent: StartAgent) -> None:
        agent = start_agent(brokers, mode="beside").wait_consuming()
        _say(agent, "leave")
        assert agent.wait() == 0
        agent.wait_gone()

    @pytest.mark.brokers(count=1)
    def test_it_ends_soon_after_its_program_was_killed(self, brokers: list[Broker], start_agent: StartAgent) -> None:
        agent = start_agent(brokers, mode="beside").wait_consuming()
        agent.send(signal.SIGKILL)
        agent.wait_gone()


@pytest.mark.brokers(count=1)
def test_one_host_can_be_served_without_a_master(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """``run_server()`` of 2.x, for those whose supervisor is systemd or a container."""
    agent = start_agent(brokers, mode="alone")
    agent.wait_log("consuming for node NODE-01")
    assert make_sender(agent.configuration()).call("NODE-01.test.whoami")[1] == agent.pid
    assert agent.stop() == 0


def _say(agent: Agent, line: str) -> None:
    stdin: Any = agent.process.stdin
    stdin.write(f"{line}\n".encode())
    stdin.flush()


def _read_line(agent: Agent) -> list[str]:
    stdout: Any = agent.process.stdout
    while (words := stdout.readline().decode().split())[1:2] == ["serves"]:
        pass  # what an agent says when it takes calls on a broker
    return list(words)
