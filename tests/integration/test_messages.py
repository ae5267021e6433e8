"""Messages on real brokers: further attempts, delays, and what the journal of the node knows over all its workers."""

from __future__ import annotations

import itertools
import json
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from agents import Agent
from envelopes import SECRET, signed
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import SendRefused
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.wire.envelope import Kind
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import DeadLetterStamp, read_dead_letter_stamp

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]


def stamp_of(body: bytes, found: dict[str, Any]) -> DeadLetterStamp:
    """What the worker has signed of a dead letter."""
    stamp = read_dead_letter_stamp(Keyring([SECRET]), body, found["x-servicebus-reason"], found["x-servicebus-letter"])
    assert stamp is not None
    return stamp


@pytest.mark.brokers(count=1)
class TestFurtherAttempts:
    def test_a_message_that_fails_is_tried_by_the_schedule_and_then_dead_lettered_with_its_history(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        agent = start_agent(brokers, retry_schedule=[0.2, 1.2]).wait_consuming()
        sender, probe = make_sender(agent.configuration()), Probe(brokers[0])
        sender.send("NODE-01.audit.record", "boom")
        wait_until(lambda: probe.depth("NODE-01.dead"), 20)
        ((body, headers),) = probe.take_all("NODE-01.dead")
        stamp = stamp_of(body, headers)
        assert stamp.attempts == 3
        assert headers["x-servicebus-reason"] == "ValueError"
        assert 1 <= stamp.time - stamp.first < 15
        assert "x-servicebus-wait" not in headers
        assert probe.depth("NODE-01.messages.delay.1") == 0

    def test_attempts_are_counted_over_a_kill_of_the_worker(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        agent = start_agent(brokers, retry_schedule=[2, 0.2]).wait_consuming()
        sender, probe = make_sender(agent.configuration()), Probe(brokers[0])
        sender.send("NODE-01.audit.record", "boom")
        wait_until(lambda: agent.counters().get("delayed"))
        psutil.Process(agent.worker_pids()[0]).send_signal(signal.SIGKILL)
        wait_until(lambda: probe.depth("NODE-01.dead"), 30)
        ((body, headers),) = probe.take_all("NODE-01.dead")
        assert stamp_of(body, headers).attempts == 3

    def test_a_message_that_kills_its_worker_is_dead_lettered_and_its_neighbours_are_handled(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        agent = start_agent(brokers).wait_consuming()
        sender, probe = make_sender(agent.configuration()), Probe(brokers[0])
        sender.send("NODE-01.audit.poison", 1)
        for number in range(50):
            sender.send("NODE-01.audit.record", number)
        wait_until(lambda: probe.depth("NODE-01.dead"), 60, agent.log)
        wait_until(lambda: len(agent.noted("recorded")) >= 50, 30)
        ((_, headers),) = probe.take_all("NODE-01.dead")
        assert headers["x-servicebus-reason"] == "killed-worker"
        assert len(agent.noted("poisoned")) == 3
        assert set(agent.noted("recorded")) == set(map(str, range(50)))

    def test_a_full_queue_of_dead_letters_loses_nothing_and_says_so(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        """The broker nacks the copy: what it has not confirmed is not stored, and its original is not acked."""
        limit = json.dumps({"max-length": 1, "overflow": "reject-publish"})
        brokers[0].rabbitmqctl("set_policy", "--apply-to", "queues", "limit", "^NODE-01.dead$", limit)
        try:
            agent = start_agent(brokers).wait_consuming()
            sender, probe = make_sender(agent.configuration()), Probe(brokers[0])
            for _ in range(3):
                sender.send("NODE-01.audit.record", "boom")
            wait_until(lambda: "2 messages wait unacknowledged" in agent.worker()["last_error"], 20, agent.log)
            line = agent.wait_log("ERROR", "queue NODE-01.dead")
            assert f"{brokers[0].host}:{brokers[0].port}" in line
            assert agent.worker()["healthy"]
            assert agent.stop() == 0
            assert (probe.depth("NODE-01.dead"), probe.depth("NODE-01.messages")) == (1, 2)
            again = start_agent(brokers, journal=agent.settings["journal"]).wait_consuming()
            wait_until(lambda: again.worker()["last_error"], 20, again.log)
        finally:
            brokers[0].rabbitmqctl("clear_policy", "limit")
        wait_until(lambda: probe.depth("NODE-01.dead") == 3, 30, again.log)
        assert [stamp_of(*letter).attempts for letter in probe.take_all("NODE-01.dead")] == [1, 1, 1]
        wait_until(lambda: not again.worker()["last_error"], 20)
        assert again.stop() == 0
        assert probe.depth("NODE-01.messages") == 0

    def test_a_quorum_queue_whose_limit_was_removed_gets_its_dead_letters(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        """It goes on refusing what comes over a channel that it has refused: rabbitmq-server, issue 12206."""
        limit = json.dumps({"max-length": 1, "overflow": "reject-publish"})
        brokers[0].rabbitmqctl("set_policy", "--apply-to", "queues", "limit", "^NODE-01.dead$", limit)
        try:
            agent = start_agent(brokers, queue_type="quorum").wait_consuming()
            sender, probe = make_sender(agent.configuration()), Probe(brokers[0])
            sent = itertools.count()

            def is_refused() -> bool:  # it says so a moment after it is full: until then it takes more
                next(sent)
                sender.send("NODE-01.audit.record", "boom")
                return "wait unacknowledged" in agent.worker()["last_error"]

            wait_until(is_refused, 60, agent.log)
        finally:
            brokers[0].rabbitmqctl("clear_policy", "limit")
        count = next(sent)
        wait_until(lambda: probe.depth("NODE-01.dead") == count, 60, agent.log)
        wait_until(lambda: not agent.worker()["last_error"], 20)

    def test_a_sender_whose_messages_were_refused_is_heard_when_a_quorum_queue_has_room_again(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        """As with dead letters, and over the connection that was refused: others wait there for their replies."""
        agent = start_agent(brokers, queue_type="quorum").wait_consuming()
        assert agent.stop() == 0
        sender = make_sender(agent.configuration())
        limit = json.dumps({"max-length": 1, "overflow": "reject-publish"})
        brokers[0].rabbitmqctl("set_policy", "--apply-to", "queues", "limit", "^NODE-01.messages$", limit)
        try:
            wait_until(lambda: refusal(sender), 60)
        finally:
            brokers[0].rabbitmqctl("clear_policy", "limit")
        connections = brokers[0].rabbitmqctl("list_connections", "pid")
        wait_until(lambda: not refusal(sender), 30)
        assert brokers[0].rabbitmqctl("list_connections", "pid") == connections


def refusal(sender: Sender) -> str:
    """Why a message was refused now; empty if it is stored."""
    try:
        sender.send("NODE-01.audit.record", "a letter", timeout=2)
    except SendRefused as error:
        return str(error)
    return ""


@pytest.mark.brokers(count=2)
class TestOneJournalForAllWorkers:
    def test_a_message_that_stands_on_two_brokers_is_handled_once(
        self, brokers: list[Broker], start_agent: StartAgent
    ) -> None:
        """What a Sender that lost a confirm leaves behind: the same envelope on the next broker as well."""
        agent = start_agent(brokers).wait_consuming()
        first, second = Probe(brokers[0]), Probe(brokers[1])
        body = signed("NODE-01.audit.record", "copied", kind=Kind.MESSAGE)
        for probe in (first, second):
            probe.publish("NODE-01.messages", body)
        wait_until(lambda: agent.noted("recorded"))
        wait_until(lambda: sum(worker["counters"].get("refused.replayed", 0) for worker in agent.workers()) == 1)
        assert agent.noted("recorded") == ["copied"]

    def test_a_restarted_agent_remembers_what_it_has_run(self, brokers: list[Broker], start_agent: StartAgent) -> None:
        agent = start_agent(brokers).wait_consuming()
        probe = Probe(brokers[1])
        body = signed("NODE-01.audit.record", "copied", kind=Kind.MESSAGE)
        probe.publish("NODE-01.messages", body)
        wait_until(lambda: agent.noted("recorded"))
        assert agent.stop() == 0
        again = start_agent(brokers, journal=agent.settings["journal"]).wait_consuming()
        for _ in range(5):
            probe.publish("NODE-01.messages", body)
        wait_until(lambda: _counted(again)["refused.replayed"] == 5)
        assert again.noted("recorded") == []


def _counted(agent: Agent) -> Counter[str]:
    return sum((Counter(worker["counters"]) for worker in agent.workers()), Counter())
