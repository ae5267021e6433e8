"""Services that make processes: such a child is never a worker, however it was made and however it ends."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from agents import Agent
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]


def services(**targets: str) -> list[dict[str, str]]:
    own = [
        {"kind": "rpc", "category": "test", "name": name, "target": f"forking_services:{target}"}
        for name, target in targets.items()
    ]
    return [*own, {"kind": "rpc", "category": "math", "name": "add", "target": "sample_services:Add"}]


ENDS = {"exit": 7, "text": 1, "raise": 1, "_exit": 9, "return": 0, "TERM": -signal.SIGTERM}
SERVICES = services(forks="Forks", elsewhere="ForksElsewhere", leaves="LeavesChild")


@pytest.fixture
def agent(brokers: list[Broker], start_agent: StartAgent) -> Iterator[Agent]:
    agent = start_agent(brokers[:1], services=SERVICES).wait_consuming()
    yield agent
    assert agent.stop() == 0, agent.log()
    agent.wait_gone()


def children_of_worker(agent: Agent) -> list[psutil.Process]:
    children = psutil.Process(agent.worker()["pid"]).children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.brokers(count=1)
def test_a_child_that_a_service_forks_ends_where_the_service_is_left(agent: Agent, make_sender: MakeSender) -> None:
    sender = make_sender(agent.configuration())
    (worker,) = agent.worker_pids()
    number = 0
    for how in ("python", "c"):
        for end, code in ENDS.items():
            if (how, end) == ("c", "TERM"):
                continue  # Python runs no handler there; the signal does nothing, to child or worker
            assert sender.call("NODE-01.test.forks", [how, end], timeout=20)[1] == code, (how, end, agent.log())
            number += 1
            assert sender.call("NODE-01.math.add", [number, 1], timeout=20)[1] == number + 1
    assert "the child says goodbye" in agent.log()
    assert agent.log().count("ValueError: the child fails") == 2
    assert len(agent.log_lines("was forked by service test.forks and returned")) == 2
    wait_until(lambda: agent.counters().get("executed.call") == 2 * number, what=lambda: f"{agent.counters()}")
    assert agent.worker_pids() == [worker]
    assert not children_of_worker(agent)


@pytest.mark.brokers(count=1)
def test_so_does_one_that_is_forked_where_no_request_is_handled(agent: Agent, make_sender: MakeSender) -> None:
    sender = make_sender(agent.configuration())
    for _ in range(3):
        assert sender.call("NODE-01.test.elsewhere", timeout=20)[1] == agent.worker()["pid"]
    assert agent.noted("codes") == ["setup 0", "lock 0", "lock 0", "lock 0"]


@pytest.mark.brokers(count=1)
def test_a_child_that_lives_on_has_nothing_of_its_worker(agent: Agent, make_sender: MakeSender) -> None:
    sender = make_sender(agent.configuration())
    left = psutil.Process(sender.call("NODE-01.test.leaves", timeout=20)[1])
    try:
        (worker,) = agent.worker_pids()
        assert len(connections(worker)) > 5
        wait_until(lambda: not connections(left.pid) & connections(worker))
        left.terminate()
        wait_until(lambda: left.status() == psutil.STATUS_ZOMBIE)
        assert sender.call("NODE-01.math.add", [1, 2], timeout=20)[1] == 3
        assert agent.worker_pids() == [worker]
    finally:
        left.kill()


def connections(pid: int) -> set[str]:
    """Its sockets and pipes, but for the standard streams."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(file.readlink()) if int(file.name) > 2 else "")
    return {name for name in found if name.startswith(("socket:", "pipe:"))}


@pytest.mark.brokers(count=1)
@pytest.mark.parametrize("mode", ["", "beside"])
def test_multiprocessing_works_in_services_and_ends_with_the_worker(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, mode: str
) -> None:
    agent = start_agent(brokers[:1], services=services(mp="Multiprocessing"), mode=mode).wait_consuming()
    sender = make_sender(agent.configuration())
    for _ in range(2):
        assert sender.call("NODE-01.test.mp", timeout=20)[1] == [1, 2, -signal.SIGTERM], agent.log()
    assert len(children_of_worker(agent)) >= 2
    if mode:
        assert agent.process.stdin
        agent.processes()
        agent.process.stdin.write(b"terminate\njoin\nleave\n")
        agent.process.stdin.flush()
        assert agent.wait() == 0
    else:
        assert agent.stop() == 0
    agent.wait_gone()


@pytest.mark.brokers(count=1)
def test_a_hook_that_forks_makes_no_second_worker(brokers: list[Broker], start_agent: StartAgent) -> None:
    agent = start_agent(brokers[:1], mode="forking-hooks").wait_consuming()
    (worker,) = agent.worker_pids()
    assert agent.noted("codes") == ["after-fork 0"]
    assert agent.stop() == 0
    assert agent.noted("codes") == ["after-fork 0", "on-exit 0"]
    assert set(agent.noted("hooks")) == {f"setup {worker}", f"teardown {worker}"}
    agent.wait_gone()


@pytest.mark.brokers(count=1)
def test_what_spoils_its_threads_and_its_logging_leaves_a_worker_whole(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """Late exceptions, a closed stderr and filters that raise, in the service's thread and in the I/O thread."""
    entries = [
        {"kind": "rpc", "category": "test", "name": name, "target": target}
        for name, target in {
            "late": "rude_services:Late",
            "spoils": "rude_services:SpoilsLogging",
            "raises": "sample_services:Raises",
        }.items()
    ]
    agent = start_agent(brokers[:1], services=entries).wait_consuming()
    (worker,) = agent.worker_pids()
    sender = make_sender(agent.configuration())
    for _ in range(3):
        assert sender.call("NODE-01.test.late", timeout=20)[1] == "in time"
        time.sleep(0.3)
    assert sender.call("NODE-01.test.spoils", timeout=20)[1] == "spoiled"
    for _ in range(3):
        with pytest.raises(RemoteError, match="no good"):
            sender.call("NODE-01.test.raises", timeout=20)
    brokers[0].rabbitmqctl("close_all_connections", "the I/O thread logs that, too")
    with pytest.raises(RemoteError, match="no good"):
        sender.call("NODE-01.test.raises", timeout=20)
    wait_until(lambda: agent.worker()["healthy"], 20)
    assert agent.worker_pids() == [worker]
    assert agent.stop() == 0
