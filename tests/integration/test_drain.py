"""``servicebus drain``: a broker taken out of service and back under load, without an error, and nothing lost."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from envelopes import signed
from waiting import wait_until

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.operations.maintenance import DrainMark
from servicebus.operations.session import open_session
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.wire.envelope import Kind

if TYPE_CHECKING:
    from agents import Agent
    from probe import Probe

MARK = "servicebus.drained"


def name_of(broker: Broker) -> str:
    return f"{broker.host}:{broker.port}"


def drain(agent: Agent, broker: Broker, *arguments: str) -> Result:
    file = str(agent.folder / "agent.yaml")
    return CliRunner().invoke(servicebus, ["drain", name_of(broker), "-c", file, "--json", *arguments])


def states(agent: Agent) -> list[str]:
    return [worker.get("state", "") for worker in agent.workers()]


class Load:
    """Callers and senders who do not stop, and what they got."""

    def __init__(self, sender: Sender, callers: int = 4):
        self.errors: list[str] = []
        self.sent: list[str] = []
        self.calls = 0
        self._sender = sender
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]
        self._threads.append(threading.Thread(target=self._send))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def more(self, count: int = 50) -> None:
        """Wait until more of both have got through."""
        calls, sent = self.calls, len(self.sent)
        wait_until(lambda: self.calls >= calls + count and len(self.sent) >= sent + count, 30, lambda: str(self.errors))

    def _call(self, number: int) -> None:
        count = 0
        while not self._stop.wait(0.002):
            count += 1
            self._tried("call", partial(self._answer, number, count))

    def _answer(self, number: int, count: int) -> None:
        assert self._sender.call("NODE-01.math.add", [number, count], timeout=30)[1] == number + count
        self.calls += 1

    def _send(self) -> None:
        while not self._stop.wait(0.002):
            text = f"m{len(self.sent)}"
            self._tried("send", partial(self._sender.send, "NODE-01.audit.record", text))
            self.sent.append(text)

    def _tried(self, what: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except (ServiceBusError, AssertionError) as error:
            self.errors.append(f"{what}: {error!r}")


def test_drained_restarted_and_taken_back_without_an_error(
    brokers: list[Broker],
    start_agent: Callable[..., Agent],
    make_sender: Callable[[Configuration], Sender],
    make_probe: Callable[..., Probe],
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(failback_after=0.5))
    with Load(sender) as load:
        load.more()
        done = drain(agent, brokers[0])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["nodes"] == [
            {"node": "NODE-01", "workers": 0, "calls": 0, "messages": 0, "is_known": True}
        ]
        wait_until(lambda: states(agent) == ["drained", "consuming"], what=lambda: str(agent.workers()))
        load.more()
        counted = agent.counters().get("executed.call", 0)
        assert make_probe(brokers[0]).depth(MARK) == 0, "the mark keeps nothing"

        brokers[0].stop()
        load.more()
        assert states(agent) == ["drained", "consuming"], "expected, so no alarm"
        assert agent.workers()[0]["healthy"]
        brokers[0].start()
        agent.wait_log("the broker is in maintenance", timeout_s=30)
        load.more()
        wait_until(lambda: states(agent) == ["drained", "consuming"])
        assert agent.counters().get("executed.call", 0) == counted

        done = drain(agent, brokers[0], "--undo")
        assert done.exit_code == 0, done.output
        agent.wait_consuming()
        wait_until(lambda: agent.counters().get("executed.call", 0) > counted, 30, "the preferred one gets it back")
        load.more()
    assert load.errors == []
    wait_until(lambda: len(agent.noted("recorded")) >= len(load.sent), 20)
    assert Counter(agent.noted("recorded")) == Counter(load.sent)
    assert not agent.log_lines(name_of(brokers[0]), "WARNING"), agent.log()


def test_a_node_that_was_never_on_the_broker_is_told_at_once(
    brokers: list[Broker], start_agent: Callable[..., Agent], make_probe: Callable[..., Probe]
) -> None:
    agent = start_agent(brokers[:1]).wait_consuming()
    for arguments in ([], ["--node", "NODE-01"]):
        refused = drain(agent, brokers[0], "--node", "NODE-02", *arguments)
        assert refused.exit_code == 4
        assert "no agent of that name was ever there; nothing was changed" in refused.stderr
    assert make_probe(brokers[0]).depth(MARK) is None
    back = drain(agent, brokers[0], "--undo", "--node", "NODE-02")
    assert back.exit_code == 4
    assert json.loads(back.stdout)["nodes"][0]["is_known"] is False
    path = agent.folder / "sender.yaml"
    path.write_text(f"hosts: ['{name_of(brokers[0])}']\nsecret_token: s\n")
    whose = CliRunner().invoke(servicebus, ["drain", name_of(brokers[0]), "-c", str(path)])
    assert (whose.exit_code, "has no node_name: say which node is meant by --node NAME" in whose.stderr) == (2, True)


def test_a_call_under_way_is_waited_for_and_an_undo_comes_in_time(
    brokers: list[Broker], start_agent: Callable[..., Agent], make_sender: Callable[[Configuration], Sender]
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(failback_after=0.2))
    long = sender.call_async("NODE-01.test.sleep", [4, "long"])
    wait_until(lambda: agent.noted("started") == ["long"])
    done = drain(agent, brokers[0], "--timeout", "1.5")
    assert done.exit_code == 5
    assert json.loads(done.stdout)["nodes"][0]["workers"] == 1
    wait_until(lambda: states(agent) == ["leaving", "consuming"])
    worker_pids = agent.worker_pids()
    what = "new calls go to the other broker"
    wait_until(lambda: sender.call("NODE-01.test.whoami")[1] == worker_pids[1], what=what)

    assert drain(agent, brokers[0], "--undo").exit_code == 0
    agent.wait_consuming()
    wait_until(lambda: sender.call("NODE-01.test.whoami")[1] == worker_pids[0], 20, "back again")
    assert drain(agent, brokers[0]).exit_code == 0
    assert long.done(), "it was waited for"
    assert long.result()[1] == "long"
    assert agent.noted("started") == ["long"], "once"
    assert drain(agent, brokers[0], "--status").exit_code == 0


def test_a_worker_that_starts_on_a_marked_broker_takes_stored_messages_alone(
    brokers: list[Broker], start_agent: Callable[..., Agent], make_probe: Callable[..., Probe]
) -> None:
    broker, probe = brokers[0], make_probe(brokers[0])
    config = Configuration({"hosts": [name_of(broker)], "secret_token": "s", "node_name": "N"})
    with open_session(config.hosts[0], config) as session:
        assert DrainMark(session, config).set()
        assert not DrainMark(session, config).set(), "it is marked already"
    agent = start_agent([broker])
    wait_until(lambda: states(agent) == ["drained"], 20, lambda: agent.log())
    assert probe.depth("NODE-01.rpc") is None
    assert probe.depth("NODE-01.control") is None
    probe.publish("NODE-01.messages", signed("NODE-01.audit.record", "sent back", kind=Kind.MESSAGE))
    wait_until(lambda: agent.noted("recorded") == ["sent back"])

    status = CliRunner().invoke(servicebus, ["status", "--socket", agent.settings["status_socket"]])
    assert status.exit_code == 0, status.output
    done = drain(agent, broker, "--undo")
    assert done.exit_code == 0, done.output
    agent.wait_consuming()
    assert probe.consumers("NODE-01.rpc") == 1
    assert agent.stop() == 0


@pytest.mark.brokers(count=1)
def test_a_mark_on_a_cluster_is_a_quorum_queue_and_keeps_nothing_either(
    brokers: list[Broker], make_probe: Callable[..., Probe]
) -> None:
    settings = {"hosts": [name_of(brokers[0])], "secret_token": "s", "node_name": "N", "queue_type": "quorum"}
    config = Configuration(settings)
    probe = make_probe(brokers[0])
    with open_session(config.hosts[0], config) as session:
        DrainMark(session, config).set()
        for _ in range(3):
            probe.publish(MARK, b"")
        wait_until(lambda: probe.depth(MARK) == 0)
        assert DrainMark(session, config).remove()
        assert not DrainMark(session, config).remove()


@pytest.mark.brokers(count=1)
def test_a_broker_under_an_alarm_does_not_keep_a_worker_from_consuming(
    brokers: list[Broker], start_agent: Callable[..., Agent]
) -> None:
    """It does not read what we publish, so the question for the mark has no answer; messages must be taken off it."""
    brokers[0].evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.000001), ok.")
    try:
        wait_until(lambda: "memory" in brokers[0].evaluate("rabbit_alarm:get_alarms()."))
        start_agent(brokers).wait_consuming()
    finally:
        brokers[0].evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.4), ok.")
