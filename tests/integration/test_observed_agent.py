"""A real agent, watched as an operator does: its metrics and its health by HTTP, and what systemd hears."""

from __future__ import annotations

import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from agents import Agent
from envelopes import SECRET
from scraped import Scraped
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool
from servicebus.testing.ports import free_ports

pytestmark = pytest.mark.broker


class World:
    """An agent on two brokers, with a socket as systemd has it."""

    def __init__(self, folder: Path, brokers: list[Broker]):
        self.brokers = brokers
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(folder / "notify"))
        self.systemd.setblocking(False)
        self.heard: list[str] = []
        self.port = free_ports(1)[0]
        (own := folder / "agent").mkdir()
        os.environ["NOTIFY_SOCKET"] = str(folder / "notify")
        os.environ["WATCHDOG_USEC"] = "4000000"
        try:
            self.agent = Agent(own, brokers, metrics={"port": self.port})
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> Scraped:
        return Scraped(self.page("/metrics")[1])

    def lines_heard(self) -> list[str]:
        """What systemd has heard until now."""
        while True:
            try:
                self.heard += self.systemd.recv(65536).decode().splitlines()
            except BlockingIOError:
                return self.heard

    def close(self) -> None:
        self.agent.close()
        self.systemd.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, broker_pool: BrokerPool) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("observed"), broker_pool.heal(2))
    yield world
    world.close()


@pytest.fixture(scope="module")
def sender(world: World) -> Iterator[Sender]:
    hosts = [f"{broker.host}:{broker.port}" for broker in world.brokers]
    with Sender(Configuration({"hosts": hosts, "secret_token": SECRET})) as sender:
        yield sender


def name_of(broker: Broker) -> str:
    return f"{broker.host}:{broker.port}"


def until(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, 60.0, lambda: what)


def test_it_is_ready_when_it_has_proved_it(world: World) -> None:
    world.agent.wait_consuming(timeout_s=60.0)
    until(
        lambda: world.page("/readyz") == (200, "".join(f"{name_of(each)}: ready\n" for each in world.brokers)), "ready"
    )
    assert world.page("/livez") == (200, "live\n")
    until(lambda: {"READY=1", "WATCHDOG=1"} <= set(world.lines_heard()), "systemd hears of it")


def test_what_services_did_is_scraped(world: World, sender: Sender) -> None:
    for _ in range(5):
        sender.call("NODE-01.math.add", [1, 2])
    with pytest.raises(RemoteError):
        sender.call("NODE-01.test.raises", {})
    until(lambda: sum(world.metrics().values("requests_total", service="math.add", outcome="ok")) == 5, "five calls")
    found = world.metrics()
    assert found.value("request_run_seconds_count", service="math.add") == 5
    assert found.value("agent_live") == found.value("agent_ready") == 1
    assert found.values("broker_ready") == [1.0, 1.0]


def test_counts_do_not_fall_when_a_worker_dies(world: World, sender: Sender) -> None:
    def busy() -> list[dict[str, Any]]:
        return [each for each in world.agent.workers() if each.get("counters", {}).get("executed.call")]

    sender.call("NODE-01.math.add", [1, 2])
    until(busy, "a worker says that it has executed calls")
    before = world.metrics().value("requests_total", service="math.add", outcome="ok")
    (victim, *_) = busy()
    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: sum(world.metrics().values("worker_restarts_total")) == 1, "restarted")
    found = world.metrics()
    assert found.value("requests_total", service="math.add", outcome="ok") >= before
    assert found.value("broker_lost_seconds_total", broker=victim["host"]) > 0
    world.agent.wait_consuming(timeout_s=60.0)


def test_a_frozen_broker_is_not_ready_and_no_reason_to_restart(world: World) -> None:
    name, other = map(name_of, world.brokers)
    until(lambda: world.page("/readyz")[1].count(": ready") == 2, "both ready")
    world.brokers[0].freeze()
    try:
        until(lambda: world.page(f"/readyz?broker={name}")[0] == 503, "not ready there")
        assert world.page(f"/readyz?broker={other}")[0] == world.page("/readyz")[0] == 200
        assert world.page("/livez")[0] == 200
        assert world.metrics().value("broker_ready", broker=name) == 0
    finally:
        world.brokers[0].thaw()
    until(lambda: world.page(f"/readyz?broker={name}")[0] == 200, "ready again")


def test_a_reload_is_told(world: World) -> None:
    before = world.lines_heard().count("READY=1")
    world.agent.send(signal.SIGHUP)
    until(lambda: "RELOADING=1" in world.lines_heard(), "reloading")
    until(lambda: world.lines_heard().count("READY=1") > before, "reloaded")


def test_no_other_process_has_its_port(world: World) -> None:
    """Else an agent that is started again could not listen there while a child of a service lives."""
    holders = {
        each.pid
        for each in world.agent.processes()
        for connection in each.net_connections()
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == world.port
    }
    assert holders == {world.agent.pid}


def test_the_end_is_told(world: World) -> None:
    assert world.agent.stop() == 0
    assert "STOPPING=1" in world.lines_heard()
