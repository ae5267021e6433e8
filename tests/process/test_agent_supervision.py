"""What the master does for its workers: real forks, real signals, real brokers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
from agents import Agent
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.runtime.byte_locks import LockFile
from servicebus.sender import Sender
from servicebus.testing import Broker

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]


@pytest.mark.brokers(count=2)
def test_there_is_one_worker_per_host_and_each_serves(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    pids = set()
    for index, broker in enumerate(brokers):
        assert agent.worker(index)["host"] == f"{broker.host}:{broker.port}"
        sender = make_sender(agent.configuration(hosts=[f"{broker.host}:{broker.port}"]))
        assert sender.call("NODE-01.math.add", [1, 2]) == (1, 3)
        pids.add(sender.call("NODE-01.test.whoami")[1])
    assert pids == set(agent.worker_pids())
    assert make_sender(agent.configuration()).ping_all("NODE-01") == (2, 2)


@pytest.mark.brokers(count=1)
def test_several_workers_per_host_share_the_nodes_queue(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers, workers_per_host=2).wait_consuming()
    assert len(agent.worker_pids()) == 2
    sender = make_sender(agent.configuration())
    answered = {sender.call("NODE-01.test.whoami")[1] for _ in range(20)}
    assert answered == set(agent.worker_pids())


@pytest.mark.brokers(count=2)
def test_a_killed_worker_is_started_again_at_once_and_the_others_do_not_notice(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    victim, bystander = agent.worker_pids()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: agent.worker()["pid"] not in (victim, None), 30, agent.log)
    agent.wait_consuming()
    assert agent.worker()["restarts"] == 1
    assert agent.worker(1)["pid"] == bystander
    assert agent.worker(1)["restarts"] == 0
    agent.wait_log("was killed by signal 9", "next one in 0.00 s")
    assert make_sender(agent.configuration()).call("NODE-01.math.add", [2, 3])[1] == 5


@pytest.mark.brokers(count=2)
def test_a_worker_that_crashes_again_and_again_is_held_back_while_the_others_serve(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """A message that kills its worker comes back to the next one, until it is dead-lettered: pauses double, so that a
    row of them does not eat the machine. The first restart is immediate."""
    agent = start_agent(brokers).wait_consuming()
    first, second = (agent.configuration(hosts=[f"{broker.host}:{broker.port}"]) for broker in brokers)
    poisoner = make_sender(first)
    for number in range(4):
        poisoner.send("NODE-01.audit.poison", number)
    wait_until(lambda: len(agent.noted("poisoned")) >= 4, 20, agent.log)
    served = make_sender(second)
    for number in range(200):
        assert served.call("NODE-01.math.add", [number, 1])[1] == number + 1
    wait_until(lambda: agent.worker()["next_start_in_s"], what="held back")
    assert agent.worker(1)["restarts"] == 0
    said = [re.search(r"next one in ([\d.]+) s", line) for line in agent.log_lines("was killed by signal")]
    pauses = [float(match[1]) for match in said if match is not None]
    assert 0.0 == pauses[0] < max(pauses), pauses
    assert agent.stop() == 0
    agent.wait_gone()


@pytest.mark.brokers(count=2)
def test_workers_end_when_the_master_is_killed(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """Even while services are stuck; and so do the connections, so that no consumer without a master stays behind."""
    agent = start_agent(brokers, drain_timeout=600, threads={"test.stuck": 4}).wait_consuming()
    sender = make_sender(agent.configuration())
    stuck = [sender.call_async("NODE-01.test.stuck", timeout=60) for _ in range(4)]
    wait_until(lambda: len(agent.noted("started")) == 4)
    agent.send(signal.SIGKILL)
    agent.wait_gone()
    agent.wait_log("the master is gone")
    assert not any(future.done() and not future.exception() for future in stuck)


@pytest.mark.brokers(count=1)
def test_workers_end_when_the_master_is_killed_in_the_middle_of_a_drain(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers, drain_timeout=600).wait_consuming()
    make_sender(agent.configuration()).call_async("NODE-01.test.stuck", timeout=60)
    wait_until(lambda: agent.noted("started"))
    agent.send(signal.SIGTERM)
    wait_until(lambda: agent.status().get("stopping"))
    agent.send(signal.SIGKILL)
    agent.wait_gone()


@pytest.mark.brokers(count=1)
def test_a_stopped_worker_is_retired_and_replaced(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """SIGSTOP stands for any worker whose I/O thread does not turn: first asked for its stacks, then killed."""
    agent = start_agent(brokers, mode="impatient").wait_consuming()
    frozen = agent.worker()["pid"]
    os.kill(frozen, signal.SIGSTOP)
    agent.wait_log("is silent for", "aborting it")
    wait_until(lambda: not agent.worker()["healthy"], 20, agent.log)
    wait_until(lambda: agent.worker()["pid"] not in (frozen, None), 10)
    assert not psutil.pid_exists(frozen)
    agent.wait_consuming()
    assert make_sender(agent.configuration()).call("NODE-01.math.add", [1, 1])[1] == 2


@pytest.mark.brokers(count=1)
def test_a_worker_that_waits_to_open_the_journal_is_not_taken_for_silent(
    brokers: list[Broker], start_agent: StartAgent, tmp_path: Path
) -> None:
    """On a busy machine eight workers opened one after the other; those that were aborted began to wait again."""
    journal = tmp_path / "slowly-opened"
    opening = LockFile(journal.with_name(journal.name + ".lock"))
    assert opening.try_lock(0)
    agent = start_agent(brokers, mode="impatient", journal=str(journal))
    wait_until(lambda: bool(agent.workers()) and agent.worker()["pid"] is not None)
    pid = agent.worker()["pid"]
    ends = time.monotonic() + 3.5
    wait_until(lambda: time.monotonic() > ends)
    opening.close()
    agent.wait_consuming()
    assert agent.worker()["pid"] == pid
    assert not agent.log_lines("is silent for")


@pytest.mark.brokers(count=1)
def test_an_agent_that_was_paused_as_a_whole_blames_none_of_its_workers(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """A virtual machine that was paused, a frozen cgroup: its workers could not beat, and are as good as before."""
    agent = start_agent(brokers, mode="impatient").wait_consuming()
    pids = agent.worker_pids()
    paused = [psutil.Process(pid) for pid in (agent.pid, *pids)]
    for process in paused:
        process.suspend()
    ends = time.monotonic() + 3.5
    wait_until(lambda: time.monotonic() > ends)
    for process in reversed(paused):
        process.resume()
    agent.wait_consuming()
    assert make_sender(agent.configuration()).call("NODE-01.math.add", [1, 1])[1] == 2
    assert agent.worker_pids() == pids
    assert not agent.log_lines("is silent for")


@pytest.mark.brokers(count=1)
def test_a_worker_that_is_aborted_leaves_the_stacks_of_all_its_threads(
    brokers: list[Broker], start_agent: StartAgent
) -> None:
    agent = start_agent(brokers).wait_consuming()
    os.kill(agent.worker()["pid"], signal.SIGABRT)
    agent.wait_log("Fatal Python error: Aborted")
    agent.wait_log("was killed by signal 6")
    assert agent.log_lines("loop.py", "in _run_once")
    agent.wait_consuming()


class Caller:
    """Calls all the time from a thread of its own until it is told to stop; remembers every error."""

    def __init__(self, sender: Sender, address: str = "NODE-01.math.add", **how: Any):
        self._sender, self._address, self._how = sender, address, how
        self.calls = 0
        self.errors: list[BaseException] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                assert self._sender.call(self._address, [self.calls, 1], **self._how)[1] == self.calls + 1
            except Exception as error:
                self.errors.append(error)
            self.calls += 1

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(30)


@pytest.mark.brokers(count=2)
def test_hup_replaces_the_workers_one_after_another_and_callers_notice_nothing(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers, mode="impatient").wait_consuming()
    before = agent.worker_pids()
    callers = [Caller(make_sender(agent.configuration())) for _ in range(2)]
    states: list[tuple[str, ...]] = []
    # Old enough that "it did not come back in time" could be mistaken for "it is back".
    wait_until(lambda: min(worker["uptime_s"] or 0 for worker in agent.workers()) > 1.5)
    agent.send(signal.SIGHUP)

    def are_replaced() -> bool:
        workers = agent.workers()
        states.append(tuple(worker["state"] for worker in workers))
        return not {worker["pid"] for worker in workers} & {*before, None} and {*states[-1]} == {"consuming"}

    try:
        wait_until(are_replaced, 15, lambda: f"replaced: {agent.workers()}\n{agent.log()}")
    finally:
        for caller in callers:
            caller.stop()
    assert [caller.errors for caller in callers] == [[], []]
    assert all(caller.calls for caller in callers)
    assert all("consuming" in seen for seen in states), "both were away at the same time"
    assert not agent.log_lines("was killed by signal")
    stopped = [agent.log().index(f"{broker.host}:{broker.port}: stopped after") for broker in brokers]
    started = agent.log().rindex(f"{brokers[0].host}:{brokers[0].port}: consuming")
    assert stopped[0] < started < stopped[1], "the second was stopped before the first was back"


@pytest.mark.brokers(count=2)
def test_hup_takes_a_new_configuration_and_a_bad_one_changes_nothing(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers[:1]).wait_consuming()
    pid = agent.worker()["pid"]
    (agent.folder / "agent.yaml").write_text("hosts: [mq-a]\nsecret_tokn: x\n")
    agent.send(signal.SIGHUP)
    line = agent.wait_log("HUP: the configuration stays as it was")
    assert "secret_tokn" in line
    assert agent.worker()["pid"] == pid

    agent.write_configuration(hosts=[f"{broker.host}:{broker.port}" for broker in brokers])
    agent.send(signal.SIGHUP)
    wait_until(
        lambda: len(agent.workers()) == 2 and agent.worker()["pid"] not in (pid, None),
        60,
        lambda: f"{agent.workers()}\n{agent.log()}",
    )
    agent.wait_consuming()
    assert make_sender(agent.configuration()).ping_all("NODE-01") == (2, 2)

    agent.write_configuration(hosts=[f"{brokers[1].host}:{brokers[1].port}"])
    gone = agent.worker()["pid"]
    agent.send(signal.SIGHUP)
    wait_until(lambda: len(agent.workers()) == 1 and not psutil.pid_exists(gone))
    agent.wait_consuming()
    assert agent.stop() == 0


@pytest.mark.brokers(count=1)
def test_a_worker_that_drains_for_long_after_hup_is_not_taken_for_a_silent_one(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """It beats while it drains; the call that it still runs gets its answer."""
    agent = start_agent(brokers, mode="impatient").wait_consuming()
    sender = make_sender(agent.configuration())
    slow: Future[Any] = sender.call_async("NODE-01.test.sleep", [3.5, "slow"])
    wait_until(lambda: agent.noted("started"))
    agent.send(signal.SIGHUP)
    assert slow.result(10)[1] == "slow"
    assert agent.noted("started") == ["slow"]
    assert not agent.log_lines("is silent for")
    agent.wait_consuming()


@pytest.mark.brokers(count=1)
def test_hooks_run_in_every_worker_and_services_are_set_up_and_torn_down_there(
    brokers: list[Broker], start_agent: StartAgent
) -> None:
    agent = start_agent(brokers, mode="hooks").wait_consuming()
    pid = agent.worker()["pid"]
    assert agent.stop() == 0
    assert agent.noted("hooks") == [f"after-fork {pid}", f"setup {pid}", f"teardown {pid}", f"on-exit {pid}"]


@pytest.mark.brokers(count=1)
def test_hooks_that_raise_are_logged_and_the_agent_serves_all_the_same(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers, mode="broken-hooks").wait_consuming()
    agent.wait_log("after-fork hook failed")
    assert make_sender(agent.configuration()).call("NODE-01.math.add", [1, 1])[1] == 2
    assert agent.stop() == 0
    agent.wait_log("exit hook failed")


@pytest.mark.brokers(count=2)
def test_the_status_socket_tells_how_the_workers_are(brokers: list[Broker], start_agent: StartAgent) -> None:
    agent = start_agent(brokers).wait_consuming()
    status = agent.status()
    assert (status["node"], status["pid"], status["stopping"], status["healthy"]) == ("NODE-01", agent.pid, False, True)
    for worker in status["workers"]:
        assert worker["state"] == "consuming"
        assert worker["healthy"]
        assert worker["heartbeat_age_s"] < 2.5
        assert worker["counters"] == {}
    assert Path(agent.settings["status_socket"]).stat().st_mode & 0o777 == 0o600
    brokers[0].kill()
    wait_until(lambda: agent.worker()["state"] == "backoff", what="health never shows green meanwhile")
    assert not agent.worker()["healthy"]
    assert agent.worker()["last_error"]
    assert agent.status()["healthy"]
    assert agent.stop() == 0
    assert not Path(agent.settings["status_socket"]).exists()


@pytest.mark.brokers(count=2)
def test_a_journal_that_is_damaged_while_in_use_is_moved_and_the_node_serves_on(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    assert sender.call("NODE-01.math.add", [1, 2])[1] == 3
    before = set(agent.worker_pids())
    for part in ("journal", "journal-wal"):
        path = agent.folder / part
        with contextlib.suppress(FileNotFoundError):  # SQLite's log is there while somebody writes
            path.write_bytes(b"\xff" * path.stat().st_size)
    agent.wait_log("this worker ends, and the next one begins a new journal")
    assert sender.call("NODE-01.math.add", [20, 22], timeout=30)[1] == 42
    wait_until(lambda: (pids := set(agent.worker_pids())) and not before & pids, 30, agent.log)
    agent.wait_consuming()
    assert list(agent.folder.glob("journal.broken-*"))
    assert agent.stop() == 0
