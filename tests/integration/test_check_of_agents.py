"""``servicebus check`` beside a real agent: well, a broker lost, dead letters, no agent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent
from waiting import wait_until

from servicebus.sender import Sender
from servicebus.testing import Broker

pytestmark = pytest.mark.broker


def check(agent: Agent, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Its exit status, and what it says as JSON."""
    program = [sys.executable, "-m", "servicebus", "check", str(agent.folder / "agent.yaml"), "--format", "json"]
    ended = subprocess.run([*program, *arguments], capture_output=True, timeout=120, text=True, check=False)
    assert not ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def alerts(found: dict[str, Any]) -> set[str]:
    return {each["name"] for each in found["measures"] if each["status"] != "OK"}


@pytest.mark.brokers(count=2)
def test_an_agent_and_its_brokers_are_checked(
    brokers: list[Broker], start_agent: Callable[..., Agent], make_sender: Callable[..., Sender]
) -> None:
    agent = start_agent(brokers).wait_consuming()
    wait_until(lambda: check(agent)[0] == 0, 60, lambda: f"well: {check(agent)}")
    status, found = check(agent, "--brokers")
    values = {(each["name"], each["broker"]): each["value"] for each in found["measures"]}
    assert (status, alerts(found)) == (0, set())
    assert values["brokers_ready", None] == values["brokers_reached", None] == values["consumers_of_all", None] == 2
    assert values["consumers", agent.settings["hosts"][0]] == 1

    make_sender(agent.configuration()).send("NODE-01.audit.record", "boom")
    wait_until(lambda: alerts(check(agent, "--brokers", "--no-agent")[1]) == {"dead_letters"}, 60, "a dead letter")

    brokers[1].kill()
    lost = {"brokers_not_ready", "workers_consuming", "brokers_unreachable", "dead_letters"}
    wait_until(lambda: alerts(check(agent, "--brokers")[1]) == lost, 60, lambda: f"{check(agent, '--brokers')}")
    assert check(agent)[0] == 1

    brokers[0].kill()
    wait_until(lambda: check(agent)[0] == 2, 60, lambda: f"critical: {check(agent)}")
    agent.close()
    status, found = check(agent)
    assert (status, found["measures"]) == (2, [])
    assert "no agent answers on" in found["failed"][0]
