"""What an agent inherits from the process that starts it, and what services do to exit codes and signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from agents import Agent
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted
from servicebus.sender import Sender
from servicebus.testing import Broker

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

SERVICES = [
    {"kind": "rpc", "category": "test", "name": name, "target": f"forking_services:{target}"}
    for name, target in {"runs": "RunsProgram", "orphan": "LeavesOrphan", "exits": "Exits"}.items()
] + [{"kind": "rpc", "category": "test", "name": "sleep", "target": "sample_services:Sleep"}]


@pytest.mark.brokers(count=1)
@pytest.mark.parametrize("spoiled", ["signals files place", "streams"])
def test_an_agent_serves_whatever_it_inherits(
    brokers: list[Broker],
    start_agent: StartAgent,
    make_sender: MakeSender,
    monkeypatch: pytest.MonkeyPatch,
    spoiled: str,
) -> None:
    monkeypatch.setenv("INHERITS", spoiled)
    agent = start_agent(brokers[:1], services=SERVICES, mode="inherits.py").wait_consuming()
    sender = make_sender(agent.configuration())
    (worker,) = agent.worker_pids()
    code, streams = sender.call("NODE-01.test.runs", timeout=20)[1]
    assert code == 5
    assert (streams == ["/dev/null"] * 3) is (spoiled == "streams")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: agent.worker()["restarts"] == 1 and agent.worker()["pid"] not in (None, worker), 20, agent.log)
    agent.wait_consuming()
    assert sender.call("NODE-01.test.runs", timeout=20)[1][0] == 5
    assert agent.stop() == 0
    agent.wait_gone()


@pytest.mark.brokers(count=1)
def test_exit_in_a_service_is_a_crash_whatever_its_code(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """0 and 3 are what a worker says that was asked to stop, or that can never start."""
    agent = start_agent(brokers[:1], services=SERVICES).wait_consuming()
    sender = make_sender(agent.configuration())
    for count, code in enumerate((0, 3, 7), 1):
        with pytest.raises(CallInterrupted):
            sender.call("NODE-01.test.exits", code, timeout=30)
        agent.wait_consuming()
        assert agent.worker()["restarts"] == count
    assert len(agent.log_lines("WARNING", "ended with code 1 after")) == 2
    assert len(agent.log_lines("WARNING", "ended with code 7 after")) == 1
    assert agent.stop() == 0


@pytest.mark.brokers(count=1)
@pytest.mark.parametrize(("signals", "code"), [([signal.SIGTERM] * 3, 0), ([signal.SIGTERM, signal.SIGINT], 1)])
def test_the_same_signal_twice_within_moments_drains_and_another_one_kills(
    brokers: list[Broker],
    start_agent: StartAgent,
    make_sender: MakeSender,
    signals: list[signal.Signals],
    code: int,
) -> None:
    """GNU timeout signals its child and then the group; systemd signals every process of a unit."""
    agent = start_agent(brokers[:1], services=SERVICES, drain_timeout=30).wait_consuming()
    slow = make_sender(agent.configuration()).call_async("NODE-01.test.sleep", [1.5, "slow"], resend=False)
    wait_until(lambda: agent.noted("started"))
    for signum in signals:
        os.killpg(agent.pid, signum) if signum == signal.SIGTERM else agent.send(signum)
        wait_until(lambda: agent.status().get("stopping") or agent.process.poll() is not None)
    assert agent.wait() == code, agent.log()
    agent.wait_gone()
    assert (slow.done() and slow.exception() is None) is (code == 0)


@pytest.mark.brokers(count=1)
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare: process 1")
def test_as_process_1_it_reaps_orphans_and_leaves_services_theirs(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = start_agent(brokers[:1], services=SERVICES, make=AsProcess1).wait_consuming()
    sender = make_sender(agent.configuration())
    for _ in range(3):
        assert sender.call("NODE-01.test.orphan", timeout=20)[1] > 1
        assert sender.call("NODE-01.test.runs", timeout=20)[1][0] == 5
    (init,) = psutil.Process(agent.pid).children()
    wait_until(lambda: not [child for child in init.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE])
    init.terminate()
    assert agent.wait() == 0, agent.log()


class AsProcess1(Agent):
    program_prefix = ("unshare", "--pid", "--fork", "--mount-proc")


PUT_RIGHT = """
import os
from servicebus.runtime.inherited import put_right
os.umask(0o777)
put_right()
os.umask(mask := os.umask(0))
print(oct(mask), os.path.exists("/proc/self/fd/0"))
"""


def test_the_owner_may_open_what_an_agent_has_made(tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-c", PUT_RIGHT], check=True, capture_output=True, text=True).stdout
    assert found == "0o77 True\n"
