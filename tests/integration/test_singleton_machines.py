"""A singleton service of a node on two machines, whose journal is on a Redis server: killed and frozen for real."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from bus_worlds import NODE, SETTINGS, RealNode
from redis_server import redis_server
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool

pytest.importorskip("redis", reason="the extra redis is not installed")
pytestmark = pytest.mark.broker

TAKEN, LOST = "service one.note runs in this worker", "service one.note: its lease has ended"


class Machine(RealNode):
    """One of several that serve the node."""

    def __init__(self, folder: Path, broker: Broker, journal: str):
        folder.mkdir()
        hosts = [{"name": "mq-1", "host": broker.host, "port": broker.port}]
        super().__init__(folder, {**SETTINGS, "hosts": hosts}, 1, "singleton_services")
        self._settings["journal"] = journal
        (folder / "agent.json").write_text(json.dumps(self._settings))

    def has(self, pid: int) -> bool:
        assert self._process is not None
        return pid in {each.pid for each in psutil.Process(self._process.pid).children(recursive=True)}


@pytest.fixture(scope="module")
def broker(broker_pool: BrokerPool) -> Broker:
    return broker_pool.heal(1)[0]


@pytest.fixture(scope="module")
def machines(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    folder = tmp_path_factory.mktemp("machines")
    with ExitStack() as stack:
        (folder / "redis").mkdir()
        server = stack.enter_context(redis_server(folder / "redis"))
        found = [Machine(folder / name, broker, server.url) for name in ("one", "two")]
        for machine in found:
            stack.callback(machine.kill)
            machine.start()
        for machine in found:
            machine.wait_consuming()
        yield found


@pytest.fixture
def sender(broker: Broker, machines: list[Machine]) -> Iterator[Sender]:
    hosts = [{"name": "mq-1", "host": broker.host, "port": broker.port}]
    with Sender(Configuration({**SETTINGS, "hosts": hosts})) as sender:
        yield sender


def who(sender: Sender) -> tuple[int, int]:
    """The worker that runs it, and the fence of its lease."""
    pid, fence = sender.call(f"{NODE}.one.who", timeout=60)[1]
    return pid, fence


def test_the_service_moves_to_the_other_machine_when_its_own_is_killed(machines: list[Machine], sender: Sender) -> None:
    found = {who(sender) for _ in range(20)}
    assert len(found) == 1, "both machines get calls, one of them runs the service"
    ((pid, fence),) = found
    (first,) = [machine for machine in machines if machine.has(pid)]
    (second,) = [machine for machine in machines if machine is not first]
    first.kill()
    another, higher = who(sender)
    assert second.has(another) and higher > fence
    first.start()
    first.wait_consuming()
    assert {who(sender) for _ in range(20)} == {(another, higher)}, "it stays where it is"


def test_a_frozen_worker_loses_the_service_and_runs_nothing_when_it_goes_on(
    machines: list[Machine], sender: Sender, tmp_path: Path
) -> None:
    path = tmp_path / "written"
    path.touch()

    def written() -> list[tuple[int, int, int]]:
        """By which worker, with which fence, and what."""
        lines = [line.split() for line in path.read_text().splitlines()]
        return [(int(pid), int(fence), int(number)) for pid, fence, number in lines]

    def write(*numbers: int) -> None:
        for number in numbers:
            sender.send(f"{NODE}.one.note", ["writes", str(path), number])

    write(0)
    wait_until(lambda: bool(written()), 60)
    ((pid, fence, _),) = written()
    (first,) = [machine for machine in machines if machine.has(pid)]
    (second,) = [machine for machine in machines if machine is not first]
    write(*range(1, 100))
    wait_until(lambda: len(written()) > 10, 60)  # and more are in its inbox
    taken, lost = second.log().count(TAKEN), first.log().count(LOST)
    os.kill(pid, signal.SIGSTOP)
    try:
        write(*range(100, 200))
        wait_until(lambda: second.log().count(TAKEN) > taken, 60, second.log)
        begun = len(written())
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: first.log().count(LOST) > lost, 60, first.log)
    write(*range(200, 220))
    wait_until(lambda: len({number for _, _, number in written()}) == 220, 60, lambda: f"{len(written())} written")
    late = [number for by, _, number in written()[begun:] if by == pid]
    assert len(late) <= 1, "it ends what it was running, and begins nothing"
    counts = Counter(number for _, _, number in written())
    assert {number for number, times in counts.items() if times > 1} <= set(late), "nothing is run twice"
    others = [(by, higher) for by, higher, _ in written() if by != pid]
    assert all(second.has(by) and higher > fence for by, higher in others) and len(set(others)) == 1
