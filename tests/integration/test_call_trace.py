"""``servicebus call --trace`` on real brokers: the route that it tells is the one that the call took."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from waiting import wait_until

from servicebus.cli.main import servicebus
from servicebus.testing import Broker

if TYPE_CHECKING:
    from agents import Agent

StartAgent = Callable[..., "Agent"]


def attempts(document: Any) -> list[tuple[int, str, str]]:
    return [(step["attempt"], step["broker"], step["phase"]) for step in document["route"] if step["attempt"]]


def test_a_call_whose_broker_dies_tells_both_attempts(brokers: list[Broker], start_agent: StartAgent) -> None:
    agent = start_agent(brokers).wait_consuming()
    names = [f"{broker.host}:{broker.port}" for broker in brokers]
    arguments = ["call", "NODE-01.test.sleep", "[0.5, 7]", "--trace", "--json", "-c", str(agent.folder / "agent.yaml")]
    done: list[Any] = []
    caller = threading.Thread(target=lambda: done.append(CliRunner().invoke(servicebus, arguments)))
    caller.start()
    wait_until(lambda: agent.noted("started"))
    brokers[0].kill()
    caller.join(60)
    document = json.loads(done[0].stdout)
    assert document["value"] == 7
    assert attempts(document) == [(1, names[0], "published"), (2, names[1], "answered")]
    assert all(step["ms"] >= 0 for step in document["route"] if step["attempt"])
    again = json.loads(CliRunner().invoke(servicebus, arguments).stdout)
    assert attempts(again) == [(1, names[1], "answered")]
    down = next(step for step in again["route"] if step["broker"] == names[0])
    assert (down["phase"], down["outcome"]) == ("connecting", "connection refused")
