"""``servicebus drill`` and ``servicebus bench`` with real brokers and agents, while others call and send."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner, Result
from waiting import wait_until

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.sender import Sender
from servicebus.testing import Broker

if TYPE_CHECKING:
    from agents import Agent
    from probe import Probe

MARK = "servicebus.drained"
_CLI = "from servicebus.cli.main import main; main()"


def name_of(broker: Broker) -> str:
    return f"{broker.host}:{broker.port}"


def run(agent: Agent, *arguments: str) -> Result:
    return CliRunner().invoke(servicebus, [*arguments, "-c", str(agent.folder / "agent.yaml"), "--json"])


def states(agent: Agent) -> list[str]:
    return [worker.get("state", "") for worker in agent.workers()]


class Callers:
    """Call two nodes until they are told to stop."""

    def __init__(self, sender: Sender):
        self.errors: list[str] = []
        self.calls = 0
        self._sender = sender
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(node,)) for node in ("NODE-01", "NODE-02")]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _call(self, node: str) -> None:
        count = 0
        while not self._stop.wait(0.005):
            count += 1
            try:
                assert self._sender.call(f"{node}.math.add", [1, count], timeout=30)[1] == 1 + count
            except (ServiceBusError, AssertionError) as error:
                self.errors.append(repr(error))
            self.calls += 1


def two_agents(brokers: list[Broker], start_agent: Callable[..., Agent]) -> list[Agent]:
    agents = [start_agent(brokers, node_name=name) for name in ("NODE-01", "NODE-02")]
    return [agent.wait_consuming() for agent in agents]


def test_a_drill_under_load_costs_no_call_and_all_come_back(
    brokers: list[Broker],
    start_agent: Callable[..., Agent],
    make_sender: Callable[[Configuration], Sender],
    make_probe: Callable[..., Probe],
) -> None:
    agents = two_agents(brokers, start_agent)
    planned = run(agents[0], "drill", name_of(brokers[0]), "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["nodes"] == ["NODE-01", "NODE-02"]
    assert make_probe(brokers[0]).depth(MARK) is None

    with Callers(make_sender(agents[0].configuration(failback_after=0.5))) as callers:
        done = run(agents[0], "drill", name_of(brokers[0]), "--for", "8", "--around", "2", "--rate", "20")
    assert done.exit_code == 0, done.output
    assert callers.errors == [] and callers.calls > 100
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["good"] and report["back"] and report["failed"] == 0 and report["problems"] == []
    for node in report["nodes"]:
        assert node["workers"] == 1 and node["left_s"] < 8 and node["back_s"] is not None
    for phase in ("before", "during", "after"):
        assert {name: each["count"] > 0 for name, each in report["phases"][phase].items()} == {
            "NODE-01": True,
            "NODE-02": True,
        }
    assert make_probe(brokers[0]).depth(MARK) is None
    for agent in agents:
        assert agent.log_lines("drained; the broker may be stopped")
        assert not agent.log_lines(name_of(brokers[0]), "WARNING"), agent.log()
        assert states(agent) == ["consuming", "consuming"]


def test_a_drill_that_is_killed_ends_by_itself(
    brokers: list[Broker], start_agent: Callable[..., Agent], make_probe: Callable[..., Probe]
) -> None:
    agent, _ = two_agents(brokers, start_agent)
    file, probe = str(agent.folder / "agent.yaml"), make_probe(brokers[0])
    command = [sys.executable, "-c", _CLI, "drill", name_of(brokers[0]), "-c", file, "--for", "300", "--around", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as drill:
        wait_until(lambda: states(agent) == ["drained", "consuming"], 60, agent.log)
        second = run(agent, "drill", name_of(brokers[0]), "--for", "1")
        refused = run(agent, "drain", name_of(brokers[0]), "--node", "NODE-01")
        drill.kill()
    assert second.exit_code == 4, second.output
    assert refused.exit_code == 4 and "a drill is under way" in refused.stderr
    # It is not looked at any more, so that its lease runs out; and no command removes it.
    agent.wait_log("the maintenance is over", timeout_s=60)
    assert probe.depth(MARK) is None
    agent.wait_consuming()


def test_a_node_of_one_broker_alone_keeps_it_from_beginning(
    brokers: list[Broker], start_agent: Callable[..., Agent], make_probe: Callable[..., Probe]
) -> None:
    agent = start_agent(brokers, node_name="NODE-01").wait_consuming()
    start_agent(brokers[:1], node_name="NODE-02").wait_consuming()
    refused = run(agent, "drill", name_of(brokers[0]), "--for", "1")
    assert refused.exit_code == 1
    assert "NODE-02 answers over" in json.loads(refused.stderr)["message"]
    assert make_probe(brokers[0]).depth(MARK) is None
    over_other = run(agent, "drill", name_of(brokers[1]), "--dry-run")
    assert over_other.exit_code == 0, over_other.output


def test_a_bench_compares_the_brokers(brokers: list[Broker], start_agent: Callable[..., Agent]) -> None:
    agent = start_agent(brokers).wait_consuming()
    how = ["--for", "0.6", "--warm-up", "0.1", "--yes"]
    done = run(agent, "bench", "NODE-01.math.add", "[1, 2]", *how, "--in-flight", "4")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [each["host"] for each in report["brokers"]] == [name_of(broker) for broker in brokers]
    for each in report["brokers"]:
        assert each["count"] > 10 and each["failed"] == 0 and 0 < each["p50_ms"] <= each["p99_ms"]
        assert each["calls_per_s"] > 0
    pinged = run(agent, "bench", "NODE-01", *how, "--rate", "50", "--host", name_of(brokers[1]))
    assert pinged.exit_code == 0, pinged.output
    (only,) = json.loads(pinged.stdout)["brokers"]
    assert only["host"] == name_of(brokers[1]) and 0 < only["count"] <= 40
    brokers[0].stop()
    without = run(agent, "bench", "NODE-01.test.raises", *how)
    assert without.exit_code == 1, without.output
    report = json.loads(without.stdout)
    assert list(report["unreachable"]) == [name_of(brokers[0])]
    assert report["brokers"][0]["errors"].keys() == {"RemoteError"}
