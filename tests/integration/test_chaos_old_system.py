"""py-servicebus 2.19 in the rig: its programs write the history that the checker reads."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from histories import Made  # noqa: F401  (tests/ on the path)
from waiting import wait_until

from servicebus.testing import Broker
from tests.chaos.checker import check
from tests.chaos.clock import make_clock
from tests.chaos.old_system import OldAgentProcess, OldSenderProgram
from tests.chaos.tally import tally

pytestmark = [pytest.mark.compat, pytest.mark.brokers(count=1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("history", "logs", "orders", "state"):
        (tmp_path / name).mkdir()
    make_clock(tmp_path / "clock")
    return tmp_path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def orders(folder: Path, broker: Broker, **more: Any) -> dict[str, Any]:
    configuration = {
        "hosts": [{"name": "a", "host": broker.host, "port": broker.port}],
        "secret_token": "secret",
        "node_name": "NODE-1",
        "status_socket": str(folder / "state" / "NODE-1"),
    }
    return {
        "configuration": configuration,
        "history": str(folder / "history"),
        "clock": str(folder / "clock"),
        "number": 1,
        "nodes": ["NODE-1"],
        "seed": 1,
        "timeouts_s": [0.5, 1.0],
        "last_end_s": 2.0,
        "calls_per_s": 10,
        "messages_per_s": 10,
        "state": str(folder / "state" / "sender-1.json"),
        **more,
    }


def test_2_19_tells_its_history_and_its_worker_is_killed(
    old_python: Path, folder: Path, stack: ExitStack, brokers: list[Broker]
) -> None:
    [broker] = brokers
    agent = OldAgentProcess(folder, "NODE-1", orders(folder, broker))
    sender = OldSenderProgram(folder, "sender-1", orders(folder, broker))
    for program in (agent, sender):
        stack.callback(program.close)
        program.start()
    assert agent.wait_green(20), (folder / "logs" / "NODE-1.log").read_text()
    sender.expect("ready")
    sender.tell("go\n")
    # No more is asked of it: now and then its worker goes deaf by itself, with nothing done to it.
    wait_until(lambda: sender.state.get("counts", {}).get("answered"), 30, lambda: str(sender.state))
    [killed] = agent.worker_pids()
    agent.signal(signal.SIGKILL)
    wait_until(lambda: agent.worker_pids() not in ([], [killed]), 30)
    sender.ask_to_end()
    assert sender.wait(30) == 0, (folder / "logs" / "sender-1.log").read_text()
    agent.signal(signal.SIGTERM)
    assert agent.wait(20) == 0, (folder / "logs" / "NODE-1.log").read_text()

    verdict = check(folder / "history")
    found = tally("py-servicebus 2.19", verdict)
    assert not verdict.story.oddities
    assert found.calls["attempted"] >= found.calls["acknowledged"] > 0
    assert found.messages["attempted"] >= found.messages["acknowledged"] > 0
    workers = [process for process in verdict.story.processes if process.name.startswith("worker")]
    assert sorted(worker.has_ended for worker in workers) == [False, True]
    assert verdict.findings["I5"].broken == verdict.findings["I6"].broken == 0
