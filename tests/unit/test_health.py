"""Liveness and readiness of an agent, and what systemd is told."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import servicebus.testing
from servicebus.configuration import Configuration
from servicebus.observability.health import document_of, ready_brokers, why_dead, why_not_ready
from servicebus.observability.http_listener import PageRequest
from servicebus.observability.notify import ServiceManager
from servicebus.observability.pages import Pages
from servicebus.runtime.child import Child
from servicebus.services import Request, RpcService
from servicebus.testing import MemoryBus


class Add(RpcService):
    def handle(self, request: Request) -> Any:
        return sum(request.params)


HOSTS = Configuration({"hosts": ["mq-a", "mq-b"], "secret_token": "s" * 20}).hosts


class Agent:
    """A master's children, and what they say, without processes."""

    reloads = 0
    is_reloading = is_stopping = False

    def __init__(self) -> None:
        self.now = 1000.0
        self.children = [Child(host, 1) for host in HOSTS]
        for number, child in enumerate(self.children):
            child.started(100 + number, *os.pipe(), self.now)

    def tells(self, index: int, **state: Any) -> None:
        """A heartbeat of one worker."""
        child = self.children[index]
        child.heartbeat_at, child.has_sent_heartbeat = self.now, True
        child.state = {"host": child.host.name, "state": "consuming", "healthy": True, "proved_for_s": 8.0, **state}

    def snapshot(self) -> dict[str, Any]:
        workers = [child.snapshot(self.now) for child in self.children]
        return document_of("NODE-01", workers, is_stopping=self.is_stopping)

    def page(self, path: str) -> tuple[int, str]:
        path, _, query = path.partition("?")
        answer = Pages(self.snapshot, list).answer(PageRequest(path, query, {}))
        assert answer is not None
        return answer.status.value, answer.body.decode()


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    for child in agent.children:
        child.close_fds()


# -- readiness ---------------------------------------------------------------------------------------------------------


def test_a_broker_is_ready_while_a_worker_proves_it(agent: Agent) -> None:
    assert agent.page("/readyz")[0] == 503
    agent.tells(0)
    agent.tells(1, state="connecting", healthy=False, last_error="connection refused", proved_for_s=0.0)
    assert agent.page("/readyz") == (200, "mq-a:5672: ready\nmq-b:5672: connecting (connection refused)\n")
    assert agent.page("/readyz?broker=mq-a:5672")[0] == 200
    assert agent.page("/readyz?broker=mq-b:5672") == (503, "mq-b:5672: connecting (connection refused)\n")
    assert agent.page("/readyz?broker=mq-a:5672&broker=mq-b:5672")[0] == 503
    assert agent.page("/readyz?broker=mq-c")[0] == 404
    assert agent.snapshot()["ready"] and [each["ready"] for each in agent.snapshot()["workers"]] == [True, False]


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"proved_for_s": 0.0}, "no probe has come"),
        ({"healthy": False, "blocked": "low on memory"}, "low on memory"),
        ({"healthy": False, "problems": ["service a.b: setup() failed"]}, "setup() failed"),
        ({"state": "drained"}, "drained"),
        ({"state": "leaving"}, "leaving"),
    ],
)
def test_consuming_alone_is_not_ready(agent: Agent, state: dict[str, Any], why: str) -> None:
    agent.tells(0, **state)
    status, text = agent.page("/readyz")
    assert status == 503 and why in text.splitlines()[0]


def test_a_proof_does_not_outlive_the_heartbeat_that_brought_it(agent: Agent) -> None:
    agent.tells(0, proved_for_s=1.5)
    agent.now += 1.4
    assert agent.page("/readyz")[0] == 200
    agent.now += 0.2
    assert agent.page("/readyz")[0] == 503
    agent.tells(0, proved_for_s=8.0)
    agent.now += 3.1  # frozen, it says no more
    assert agent.page("/readyz")[0] == 503


def test_an_agent_that_stops_is_not_ready(agent: Agent) -> None:
    agent.tells(0)
    agent.is_stopping = True
    assert agent.page("/readyz")[0] == 503 and not agent.snapshot()["ready"]
    assert agent.page("/livez")[0] == 200


def test_one_of_several_workers_is_enough() -> None:
    workers = [{"host": "a", "ready": False, "state": "dead"}, {"host": "a", "ready": True}, {"host": "a"}]
    assert ready_brokers({"workers": workers}) == {"a": ""}
    assert why_not_ready({"host": "a"}) == "starting"


def test_no_page_else(agent: Agent) -> None:
    assert Pages(agent.snapshot, list).answer(PageRequest("/", "", {})) is None


# -- the proof, in a worker --------------------------------------------------------------------------------------------


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    with servicebus.testing.bus({"math.add": Add()}, brokers=1) as bus:
        yield bus


def proved_for_s(bus: MemoryBus) -> float:
    found: float = bus.node._workers[0].snapshot()["proved_for_s"]
    return found


def test_a_worker_proves_it_at_once_and_goes_on(bus: MemoryBus) -> None:
    bus.advance(0.1)
    assert 7.5 < proved_for_s(bus) <= 8.0
    control = bus.node._workers[0].control
    assert control.proved_for_s(time.monotonic() + 10) == 0.0


def test_a_broker_that_is_silent_proves_nothing_after_ten_seconds(bus: MemoryBus) -> None:
    bus.advance(0.1)
    bus.brokers[0].freeze()
    bus.advance(10.0)
    assert proved_for_s(bus) == 0.0
    bus.brokers[0].thaw()
    for _ in range(60):
        bus.advance(1.0)
        if proved_for_s(bus):
            return
    raise AssertionError("it proves nothing any more")


# -- liveness ----------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_down_is_no_reason_to_restart(agent: Agent) -> None:
    for index in (0, 1):
        agent.tells(index, state="connecting", healthy=False, last_error="connection refused")
    assert agent.page("/livez") == (200, "live\n") and agent.snapshot()["live"]


def test_a_worker_that_stands_still_and_is_not_replaced_is_one(agent: Agent) -> None:
    agent.tells(0)
    agent.now += 12.0  # the master ends it now
    agent.tells(1)
    assert agent.page("/livez")[0] == 200
    agent.now += 4.0
    assert agent.page("/livez")[0] == 503 and "mq-a" in why_dead(agent.snapshot())
    agent.children[0].ended(agent.now)
    assert agent.page("/livez")[0] == 200


# -- seconds lost ------------------------------------------------------------------------------------------------------


def test_seconds_without_a_broker_are_counted_once(agent: Agent) -> None:
    child = agent.children[0]
    agent.now += 2.0
    assert child.lost_s(agent.now) == 2.0  # it starts
    hears(child, agent.now, healthy=True)
    agent.now += 1.0
    assert child.lost_s(agent.now) == 2.0
    hears(child, agent.now, healthy=False)
    agent.now += 4.0
    hears(child, agent.now, healthy=False)
    agent.now += 1.0
    assert child.lost_s(agent.now) == 7.0
    child.ended(agent.now)
    agent.now += 3.0
    assert child.lost_s(agent.now) == 10.0
    child.started(7, *os.pipe(), agent.now)
    assert child.lost_s(agent.now) == 10.0


def hears(child: Child, now: float, **state: Any) -> None:
    heard, tells = os.pipe()
    os.write(tells, b'{"state": "consuming", "healthy": %s}\n' % (b"true" if state["healthy"] else b"false"))
    child._close_heartbeat()
    child._heartbeat_fd = heard
    child.read_heartbeats(now)
    os.close(tells)


# -- systemd -----------------------------------------------------------------------------------------------------------


class Systemd:
    """The other end of the socket that a unit of ``Type=notify`` has."""

    def __init__(self, folder: Path):
        self.now = 50.0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = str(folder / "notify")
        self.socket.bind(path)
        self.socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid())}
        self.manager = ServiceManager(self.environment, lambda: self.now)

    def hears(self, agent: Agent, after_s: float = 1.0) -> dict[str, str]:
        self.now += after_s
        self.manager.tick(agent)
        try:
            text = self.socket.recv(65536).decode()
        except BlockingIOError:
            return {}
        return dict(line.split("=", 1) for line in text.splitlines())


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.socket.close()


def test_it_is_started_when_a_broker_is_ready(agent: Agent, systemd: Systemd) -> None:
    assert not systemd.environment, "what services start is not the main process"
    assert "READY" not in systemd.hears(agent)
    agent.tells(0)
    told = systemd.hears(agent)
    assert told["READY"] == "1" and told["STATUS"] == "consuming from mq-a:5672; mq-b:5672: starting"
    assert "READY" not in systemd.hears(agent)


def test_without_a_broker_it_is_started_all_the_same(agent: Agent, systemd: Systemd) -> None:
    agent.tells(0, state="connecting", healthy=False)
    assert "READY" not in systemd.hears(agent, 9.0)
    told = systemd.hears(agent, 2.0)
    assert told["READY"] == "1" and "READY" not in systemd.hears(agent)


def test_the_watchdog_hears_of_it_while_it_lives(agent: Agent, systemd: Systemd) -> None:
    for index in (0, 1):
        agent.tells(index)
    heard = [systemd.hears(agent, 0.5).get("WATCHDOG") for _ in range(8)]
    assert heard.count("1") == 2, "every 2 of 8 seconds"
    agent.now += 20.0
    assert [systemd.hears(agent).get("WATCHDOG") for _ in range(8)] == [None] * 8


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "8000000"}, {"WATCHDOG_USEC": "x", "WATCHDOG_PID": "1"}])
def test_elsewhere_nothing_is_told(agent: Agent, environment: dict[str, str]) -> None:
    ServiceManager(environment).tick(agent)
    assert environment == {}


def test_a_watchdog_of_another_process_is_not_ours(agent: Agent, systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.socket.getsockname()), "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}
    systemd.manager = ServiceManager(environment, lambda: systemd.now)
    assert "WATCHDOG" not in systemd.hears(agent)


def test_a_reload_is_begun_and_ended(agent: Agent, systemd: Systemd) -> None:
    agent.tells(0)
    systemd.hears(agent)
    agent.reloads, agent.is_reloading = 1, True
    told = systemd.hears(agent, 0.0)
    assert told["RELOADING"] == "1" and int(told["MONOTONIC_USEC"]) > 0 and "READY" not in told
    assert told["STATUS"].startswith("reloading; ")
    assert "READY" not in systemd.hears(agent)
    agent.is_reloading = False
    assert systemd.hears(agent)["READY"] == "1"
    agent.reloads = 2  # a file that is wrong: no worker is replaced
    assert "RELOADING" in systemd.hears(agent) and systemd.hears(agent)["READY"] == "1"


def test_a_stop_is_told_at_once(agent: Agent, systemd: Systemd) -> None:
    agent.tells(0)
    systemd.hears(agent)
    agent.is_stopping = True
    told = systemd.hears(agent, 0.0)
    assert told["STOPPING"] == "1" and told["STATUS"].startswith("stopping; ")
    assert "STOPPING" not in systemd.hears(agent)


def test_a_manager_that_is_gone_ends_nothing(agent: Agent, systemd: Systemd) -> None:
    systemd.socket.close()
    systemd.now += 1
    systemd.manager.tick(agent)
    abstract = ServiceManager({"NOTIFY_SOCKET": "@servicebus of a test that nobody reads"}, lambda: systemd.now)
    abstract.tick(agent)


def test_a_host_that_hup_has_added_is_not_ready_before_its_worker_says_so(agent: Agent) -> None:
    added = Child(Configuration({"hosts": ["mq-c"], "secret_token": "s" * 20}).hosts[0], 1)
    agent.children.append(added)
    assert ready_brokers(agent.snapshot())["mq-c:5672"] == "starting"


def test_what_a_service_writes_there_is_no_heartbeat(agent: Agent) -> None:
    child, (reads, writes) = agent.children[0], os.pipe()
    child.close_fds()
    child.started(100, reads, os.dup(writes), agent.now)
    os.write(writes, b'{"problems": 5}\n[1]\n"text"\n{"state": 7}\n')
    child.read_heartbeats(agent.now)
    os.close(writes)
    assert child.snapshot(agent.now)["state"] == "starting" and ready_brokers(agent.snapshot())
