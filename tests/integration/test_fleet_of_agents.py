"""``servicebus status --fleet`` and ``top`` beside real agents on real brokers: their figures, and a killed broker."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from envelopes import SECRET
from waiting import wait_until

from servicebus.errors import RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.testing.ports import free_ports

pytestmark = pytest.mark.broker


def ask(file: Path, *arguments: str) -> tuple[int, Any]:
    """The exit status of a command, and the last line that it prints as JSON."""
    program = [sys.executable, "-m", "servicebus", *arguments, "--json", "-c", str(file)]
    ended = subprocess.run(program, capture_output=True, timeout=120, text=True, check=False)
    lines = ended.stdout.splitlines()
    return ended.returncode, json.loads(lines[-1]) if lines else ended.stderr


def shown(file: Path, *arguments: str, until: bytes, end: Callable[[subprocess.Popen[bytes], int], object]) -> int:
    """The exit status of ``top`` on a terminal that shows what it is to show, and then is ended."""
    master, terminal = pty.openpty()
    program = [sys.executable, "-m", "servicebus", "top", *arguments, "-c", str(file)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "30"}
    with subprocess.Popen(program, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as top:
        os.close(terminal)
        try:
            said = bytearray()
            while until not in said:
                said += os.read(master, 65536)
            end(top, master)
            while select.select([master], [], [], 60)[0]:  # or what it still writes would keep it from ending
                os.read(master, 65536)
        except OSError:  # EIO: the terminal has no other end any more
            return top.wait(60)
        finally:
            top.kill()
            os.close(master)
    raise AssertionError("it has not ended")


@pytest.fixture
def file(brokers: list[Broker], tmp_path: Path) -> Path:
    """Of a Sender."""
    path = tmp_path / "sender.yaml"
    path.write_text(json.dumps({"hosts": [f"{each.host}:{each.port}" for each in brokers], "secret_token": SECRET}))
    return path


@pytest.mark.brokers(count=2)
def test_a_fleet_is_shown_with_what_its_services_do_and_which_broker_is_lost(
    brokers: list[Broker], start_agent: Callable[..., Agent], make_sender: Callable[..., Sender], file: Path
) -> None:
    first = start_agent(brokers, metrics={"port": free_ports(1)[0]}).wait_consuming(timeout_s=100)
    start_agent(brokers, node_name="NODE-02").wait_consuming(timeout_s=100)
    names = first.settings["hosts"]
    wait_until(lambda: ask(file, "status")[0] == 0, 60, lambda: f"well: {ask(file, 'status')}")

    sender = make_sender(first.configuration())
    for number in range(20):
        sender.call("NODE-01.math.add", [number, 1])
    with pytest.raises(RemoteError):
        sender.call("NODE-01.test.raises", "x")
    sender.send("NODE-01.audit.record", "boom")

    def counted() -> Any:
        status, found = ask(file, "status", "--fleet")
        node = found["nodes"][0]
        is_dead = sum(node["dead_letters"].values()) == 1
        return found if status == 0 and is_dead and len(node["workers"]) == 2 else None

    found = wait_until(counted, 60, lambda: f"{ask(file, 'status')}")
    one, other = found["nodes"]
    assert (one["name"], other["name"]) == ("NODE-01", "NODE-02")
    assert one["paths"] == other["paths"] == dict.fromkeys(names, "answers")
    services = {each["name"]: each for each in one["services"]}
    assert (services["math.add"]["ended"], services["math.add"]["failed"]) == (20, 0)
    assert (services["test.raises"]["ended"], services["test.raises"]["failed"]) == (1, 1)
    assert {each["ended"] for each in other["services"]} == {None}, "its file has no metrics"
    assert {worker["broker"] for worker in one["workers"]} == set(names)

    assert shown(file, until=b"NODE-02", end=lambda _top, keys: os.write(keys, b"q")) == 0
    assert shown(file, "--plain", until=b"math.add", end=lambda top, _keys: top.send_signal(signal.SIGINT)) == 130

    brokers[1].kill()
    wait_until(lambda: ask(file, "status")[0] == 10, 60, lambda: f"partial: {ask(file, 'status')}")
    status, found = ask(file, "top", "NODE-01", "--once")
    assert status == 10 and [each["name"] for each in found["nodes"]] == ["NODE-01"]
    assert [each["reachable"] for each in found["brokers"]] == [True, False]
    assert found["nodes"][0]["paths"] == {names[0]: "answers", names[1]: "broker lost"}
    brokers[0].kill()
    assert ask(file, "status")[0] == ask(file, "top", "--once")[0] == 4


@pytest.mark.brokers(count=2)
def test_top_goes_on_while_a_broker_is_killed_and_says_rates_and_latencies(
    brokers: list[Broker], start_agent: Callable[..., Agent], make_sender: Callable[..., Sender], file: Path
) -> None:
    agent = start_agent(brokers, metrics={"port": free_ports(1)[0]}).wait_consuming(timeout_s=100)
    sender = make_sender(agent.configuration())
    program = [sys.executable, "-m", "servicebus", "top", "--json", "--interval", "0.5", "-c", str(file)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout is not None
        try:

            def until(holds: Callable[[Any], object]) -> Any:
                for _ in range(100):
                    sender.call("NODE-01.math.add", [1, 2])
                    found = json.loads(top.stdout.readline())  # type: ignore[union-attr]
                    if found["nodes"] and holds(found):
                        return found
                raise AssertionError(found)

            def add(found: Any) -> Any:
                return next(each for each in found["nodes"][0]["services"] if each["name"] == "math.add")

            found = until(lambda found: add(found)["per_s"] and add(found)["run_ms"]["p99"])
            assert 0 < add(found)["run_ms"]["p50"] <= add(found)["run_ms"]["p99"] and add(found)["wait_ms"]["p99"] > 0
            brokers[0].kill()
            found = until(lambda found: "broker lost" in found["nodes"][0]["paths"].values())
            assert not found["brokers"][0]["reachable"]
            assert until(lambda found: add(found)["per_s"]), "over the other broker"
        finally:
            top.terminate()
