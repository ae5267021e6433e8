"""A Sender that is used where its program ends: it works or says why not, and never hangs."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agents import FIXTURES, Agent

from servicebus.testing import BrokerPool
from servicebus.testing.ports import LOOPBACK, free_ports

Run = Callable[[str, str], list[str]]
"""Run a program that uses a Sender in a moment and after a state; what it said of each use."""

SECRET = "a secret that no warning is about"
STORED = "works: in the outbox"
STATES = ["not used before", "used"]
AT_THE_END = [
    "in_atexit",
    "in_a_signal_handler_at_the_end",
    "in_threading_shutdown",
    "in_a_thread_that_outlives_main",
]
MOMENTS = ["in_a_signal_handler", "in_daemon_threads", *AT_THE_END]


@pytest.fixture(scope="module")
def agent(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(tmp_path_factory.mktemp("agent"), broker_pool.heal(1), secret_token=SECRET)
    try:
        yield agent.wait_consuming()
    finally:
        agent.close()


@pytest.fixture
def call(agent: Agent, tmp_path: Path) -> Run:
    """It calls a service that runs."""
    config = {"hosts": agent.settings["hosts"], "secret_token": SECRET}
    return lambda moment, state: run(tmp_path, moment, state, config, "NODE-01.math.add")


@pytest.fixture
def send(tmp_path: Path) -> Run:
    """It sends messages that no broker takes. Those that it says are in its outbox are found there."""
    outbox = tmp_path / "outbox"

    def send(moment: str, state: str) -> list[str]:
        hosts = [f"{LOOPBACK}:{port}" for port in free_ports(1)]
        config = {"hosts": hosts, "secret_token": SECRET, "path_wait": 0}
        said = run(tmp_path, moment, state, config, "NODE-01.audit.record", outbox)
        assert said.count(STORED) <= stored_in(outbox)
        return said

    return send


def run(
    folder: Path, moment: str, state: str, config: dict[str, Any], target: str, outbox: Path | str = ""
) -> list[str]:
    file = folder / "client.yaml"
    file.write_text(json.dumps(config))
    words = [str(FIXTURES / "ending_program.py"), moment, str(file), str(outbox), target]
    if state == "used":
        words.append(state)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("Traceback", "Exception ignored", "Fatal"):
        assert word not in done.stderr
    return done.stdout.splitlines()


def stored_in(outbox: Path) -> int:
    if not outbox.exists():
        return 0
    with closing(sqlite3.connect(outbox)) as db:
        return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])


def kinds_of(said: list[str]) -> set[str]:
    """What works, with its result; what does not, by its class."""
    return {line if line.startswith("works: ") else line.partition(":")[0] for line in said}


def may_be_refused(moment: str, state: str) -> bool:
    """It may have interrupted its own thread where that reads the answers; or Python starts no thread any more."""
    is_first = state != "used" and moment in AT_THE_END
    return moment == "in_a_signal_handler" or (is_first and sys.version_info >= (3, 12))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_call_is_answered(call: Run, moment: str, state: str) -> None:
    kinds = kinds_of(call(moment, state))
    assert kinds == {"works: 42"} or (may_be_refused(moment, state) and kinds <= {"works: 42", "LifecycleError"})


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_message_is_stored_in_the_outbox(send: Run, moment: str, state: str) -> None:
    kinds = kinds_of(send(moment, state))
    assert kinds == {STORED} or (may_be_refused(moment, state) and kinds <= {STORED, "LifecycleError"})


@pytest.mark.parametrize("state", STATES)
def test_parent_and_child_of_a_fork_use_it_until_their_ends(call: Run, send: Run, state: str) -> None:
    uses = 4 + (state == "used")
    assert call("in_a_fork", state) == ["works: 42"] * uses
    said = send("in_a_fork", state)
    assert len(said) == uses
    assert kinds_of(said) == {STORED, "OutboxUnavailable"}, "each process needs a file of its own"


def test_its_first_use_in_a_finalizer_is_refused(call: Run, send: Run) -> None:
    """All other threads stand still for good, and none can be started."""
    assert kinds_of(call("in_del", "not used before")) == {"LifecycleError"}
    assert kinds_of(send("in_del", "not used before")) == {"LifecycleError"}


def test_another_use_in_a_finalizer_says_that_the_thread_stands_still(call: Run, send: Run) -> None:
    first, *others = call("in_del", "used")
    assert (first, len(others)) == ("works: 42", 1)
    assert kinds_of(others) <= {"works: 42", "CallTimeout"}, "if the thread has lent its loop it works"
    first, *others = send("in_del", "used")
    assert (first, len(others)) == (STORED, 1)
    assert kinds_of(others) == {"SendUnconfirmed"}
