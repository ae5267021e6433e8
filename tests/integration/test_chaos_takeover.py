"""A fleet of py-servicebus 2.19 under load is taken over node by node, as docs/coming-from says; the rig judges it."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from histories import Made  # noqa: F401  (tests/ on the path)
from probe import Probe
from waiting import wait_until

from servicebus.cli.main import servicebus
from servicebus.policy.retry_schedule import DELAY_TIERS_S
from servicebus.testing import Broker
from tests.chaos.checker import check
from tests.chaos.clock import make_clock
from tests.chaos.history import History
from tests.chaos.invariants import Stalls, broken_by
from tests.chaos.old_system import OldAgentProcess, OldSenderProgram
from tests.chaos.operations import Operation
from tests.chaos.processes import AgentProcess, Program

pytestmark = [pytest.mark.compat, pytest.mark.on_request, pytest.mark.brokers(count=2), pytest.mark.timeout(900)]

NODES = ("NODE-1", "NODE-2", "NODE-3")
SECRET = "the secret of the fleet"
GREEN_S, STEP_S = 120.0, 60.0
OLD_SENDERS_OWN = ("ChannelClosed", "ConnectionClosed", "KeyError")
"""What a Sender of 2.19 raises, before it has sent anything, when a connection has died that it did not look after."""
LONGEST_CALL_S = 10.0
MORE = 40
"""So many more requests must have ended before the next step."""


class Fleet:
    """Its programs: agents of both kinds by the names of their nodes, senders of both kinds."""

    def __init__(self, folder: Path, brokers: list[Broker], stack: ExitStack):
        self.folder, self.brokers, self.stack = folder, brokers, stack
        self.file = folder / "check.yaml"
        hosts = [{"name": broker.name, "host": broker.host, "port": broker.port} for broker in brokers]
        self.hosts = hosts
        self.file.write_text(json.dumps({"hosts": hosts, "secret_token": SECRET}))
        self.agents: dict[str, AgentProcess] = {}
        self.senders: list[Program] = []
        self.restarts: list[tuple[str, float, float]] = []
        """When the only agent of which node was started again, and the longest call before."""

    def orders(self, name: str, **configuration: Any) -> dict[str, Any]:
        return {
            "configuration": {
                "hosts": self.hosts,
                "secret_token": SECRET,
                "node_name": name,
                **configuration,
            },
            "history": str(self.folder / "history"),
            "clock": str(self.folder / "clock"),
            "plant": None, "poison": False, "pipes": None, "wiretap": str(self.folder / "nobody"),
            "nodes": list(NODES), "seed": 1, "calls_per_s": 10, "messages_per_s": 10,
            "events_per_s": 0, "streams_per_s": 0, "plain_per_s": 0, "bridged_host": self.hosts[0]["name"], "log": None,
            "timeouts_s": [5.0, 10.0], "last_end_s": 12.0,
        }  # fmt: skip

    def start(self, program: Program) -> None:
        self.stack.callback(program.close)
        program.start()

    def start_old_agent(self, node: str) -> None:
        orders = self.orders(node, status_socket=str(self.folder / "state" / node))
        self.agents[node] = OldAgentProcess(self.folder, node, orders)
        self.start(self.agents[node])

    def new_agent(self, node: str) -> AgentProcess:
        agent = AgentProcess(
            self.folder,
            f"{node}-new",
            self.orders(
                node,
                status_socket=str(self.folder / "state" / f"{node}-new"),
                journal=str(self.folder / f"{node}.journal"),
                compat=True,
                # What 2.19 leaves untold is to be untold: its Sender would take the text for a result.
                compat_in_band_errors=False,
            ),
        )
        self.start(agent)
        assert agent.wait_green(GREEN_S), agent.workers()
        return agent

    def start_sender(self, number: int, kind: Callable[..., Program], **configuration: Any) -> Program:
        name = f"sender-{number}"
        orders = self.orders(f"SENDER-{number}", **configuration)
        more = {
            "number": number,
            "state": str(self.folder / "state" / f"{name}.json"),
            "outbox": str(self.folder / "out"),
        }
        sender = kind(self.folder, name, {**orders, **more})
        self.start(sender)
        sender.expect("ready")
        sender.tell("go\n")
        self.senders.append(sender)
        return sender

    def go_on(self) -> None:
        """Return when each sender has ended more calls and messages, whatever became of them."""
        before = [_ended(sender) for sender in self.senders]
        wait_until(
            lambda: all(_ended(each) >= count + MORE for each, count in zip(self.senders, before, strict=True)),
            STEP_S, lambda: str([sender.state for sender in self.senders]),
        )  # fmt: skip

    def end(self, sender: Program) -> None:
        self.senders.remove(sender)
        sender.ask_to_end()
        assert sender.wait(STEP_S) == 0, (self.folder / "logs" / f"{sender.name}.log").read_text()

    def check(self, node: str) -> tuple[set[str], str]:
        """What ``servicebus compat check`` says of *node*: its states on the brokers, and what comes next."""
        found = CliRunner().invoke(servicebus, ["--json", "compat", "check", node, "-c", str(self.file)])
        assert found.exit_code == 0, found.output
        said = json.loads(found.stdout)
        assert said["obstacles"] == []
        return {broker["state"] for broker in said["brokers"]}, said["next"]

    def wait_seen(self, node: str, state: str, words: str) -> None:
        wait_until(lambda: self.check(node)[0] == {state}, STEP_S, lambda: str(self.check(node)))
        assert words in self.check(node)[1]


def _ended(sender: Program) -> int:
    counts: Counter[str] = Counter(sender.state.get("counts", {}))
    return sum(counts[name] for name in ("answered", "failed", "sent", "refused", "confirmed"))


@pytest.fixture
def fleet(tmp_path: Path, brokers: list[Broker], old_python: Path) -> Iterator[Fleet]:
    for name in ("history", "logs", "orders", "state"):
        (tmp_path / name).mkdir()
    make_clock(tmp_path / "clock")
    with ExitStack() as stack:
        yield Fleet(tmp_path, brokers, stack)


def take_over(fleet: Fleet, node: str) -> float:
    """Steps 2 and 3 of the page; returns when the new agent alone served the node."""
    fleet.wait_seen(node, "old", "start a new agent of")
    agent = fleet.new_agent(node)
    fleet.wait_seen(node, "both", "stop the old one")
    fleet.go_on()
    old = fleet.agents[node]
    old.signal(signal.SIGTERM)
    if old.wait(20.0) is None:  # 2.19 does not always obey
        old.close()
    fleet.agents[node] = agent
    fleet.wait_seen(node, "new-compat", "take over the callers of")
    taken_at = time.monotonic()
    fleet.go_on()
    return taken_at


def take_compat_out(fleet: Fleet, node: str, probe: Callable[[Broker], Probe]) -> None:
    """Step 6."""
    agent = fleet.agents[node]
    for key in ("compat", "compat_in_band_errors"):
        del agent.orders["configuration"][key]
    agent.write_orders()
    began = time.monotonic()
    agent.roll(STEP_S)
    assert agent.wait_green(GREEN_S), agent.workers()
    fleet.restarts.append((node, began - LONGEST_CALL_S, time.monotonic()))
    fleet.wait_seen(node, "new-beside-queue", "delete queue")
    for broker in fleet.brokers:
        probe(broker).delete(node)
    fleet.wait_seen(node, "new", "is taken over")


def test_a_fleet_under_load_is_taken_over_node_by_node(
    fleet: Fleet, make_probe: Callable[..., Probe], record_property: Callable[[str, object], None]
) -> None:
    for node in NODES:
        fleet.start_old_agent(node)
    for agent in fleet.agents.values():
        assert agent.wait_green(GREEN_S)
    old = [fleet.start_sender(number, OldSenderProgram) for number in (1, 2)]
    # A caller may be taken over before the nodes.
    new = fleet.start_sender(3, _new_sender, compat=True, path_wait=30)
    fleet.go_on()
    taken_at = {node: take_over(fleet, node) for node in NODES}
    for sender in old:
        fleet.end(sender)
    for node in NODES:
        take_compat_out(fleet, node, make_probe)
    fleet.go_on()
    fleet.end(new)
    wait_until(lambda: _drained(fleet, make_probe), STEP_S)
    _take_dead_letters(fleet, make_probe)
    for agent in fleet.agents.values():
        agent.signal(signal.SIGTERM)
        assert agent.wait(STEP_S) == 0, (fleet.folder / "logs" / f"{agent.name}.log").read_text()

    story = check(fleet.folder / "history").story
    assert not story.oddities and not story.forged
    stalls, judged = Stalls(story), Counter[str]()
    for operation in story.operations.values():
        node, _, service = operation.target.partition(".")
        if operation.kind not in ("call", "message") or operation.invoked_at is None:
            continue
        if node not in taken_at or operation.invoked_at < taken_at[node]:
            continue
        broken = [found for found in broken_by(operation, stalls) if found[0] in ("I1", "I2", "I5", "I6", "I11")]
        assert not broken, f"{operation_of(operation)}: {broken}"
        is_away = any(node == rolled and begin <= operation.invoked_at <= end for rolled, begin, end in fleet.restarts)
        assert operation.kind == "message" or is_away or _is_well(operation, service), operation_of(operation)
        judged[f"{'new' if operation.op // 100_000_000 == 3 else 'old'} {operation.kind}"] += 1
    assert all(judged[f"{which} {kind}"] > MORE for which in ("old", "new") for kind in ("call", "message")), judged
    record_property("judged after the takeover of their nodes", dict(judged))


def operation_of(operation: Operation) -> str:
    became = f"{operation.outcome or operation.taken} {operation.error}"
    return f"op {operation.op}, {operation.kind} to {operation.target}: {became}"


def _new_sender(folder: Path, name: str, orders: dict[str, Any]) -> Program:
    return Program(folder, "sender_program", name, orders)


def _is_well(operation: Operation, service: str) -> bool:
    """Answered, or as its service is: ``fails`` fails, ``missing`` is not there. Or it broke in a Sender of 2.19."""
    if operation.error in OLD_SENDERS_OWN and not operation.attempts:
        return operation.op // 100_000_000 != 3
    return operation.outcome == "ok" or service in ("work.fails", "work.missing") or operation.outcome == "fault"


def _drained(fleet: Fleet, make_probe: Callable[..., Probe]) -> bool:
    delays = [f".messages.delay.{tier}" for tier in DELAY_TIERS_S]
    queues = [f"{node}{suffix}" for node in NODES for suffix in (".messages", ".rpc", *delays)]
    return not any(make_probe(broker).depth(queue) for broker in fleet.brokers for queue in queues)


def _take_dead_letters(fleet: Fleet, make_probe: Callable[..., Probe]) -> None:
    """Of both versions: their params hold the number of the operation."""
    history = History(fleet.folder / "history", "rig", "run")
    for broker in fleet.brokers:
        for node in NODES:
            for body, _headers in make_probe(broker).take_all(f"{node}.dead"):
                found = re.search(rb'"op": ?(\d+)', body)
                assert found is not None, body
                history.dead(int(found[1]), "", "dead")
    history.ended()
