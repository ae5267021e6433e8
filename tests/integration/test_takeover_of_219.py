"""``servicebus compat check`` on a node that is taken over from the real py-servicebus 2.19, step by step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from click.testing import CliRunner
from envelopes import SECRET
from old219 import OldAgent
from probe import Probe
from waiting import wait_until

from servicebus.cli.main import servicebus
from servicebus.testing import Broker

pytestmark = [pytest.mark.compat, pytest.mark.brokers(count=1)]


@pytest.fixture
def check(brokers: list[Broker], tmp_path: Path) -> Callable[[], dict[str, Any]]:
    file = tmp_path / "check.yaml"
    hosts = [f"{broker.host}:{broker.port}" for broker in brokers]
    file.write_text(json.dumps({"hosts": hosts, "secret_token": SECRET}))

    def ask() -> dict[str, Any]:
        found = CliRunner().invoke(servicebus, ["--json", "compat", "check", "NODE-01", "-c", str(file)])
        assert found.exit_code in (0, 1), found.output
        document: dict[str, Any] = json.loads(found.stdout)
        return document

    return ask


def test_a_node_is_seen_on_its_way(
    check: Callable[[], dict[str, Any]], brokers: list[Broker], old_agent: Callable[..., OldAgent],
    new_agent: Callable[..., Agent], make_probe: Callable[..., Probe],
) -> None:  # fmt: skip
    def seen() -> tuple[str, list[int]]:
        (broker,) = check()["brokers"]
        return broker["state"], broker["answers"]

    probe = make_probe(brokers[0])
    assert seen() == ("none", [])
    old = old_agent(brokers[0])
    wait_until(lambda: probe.consumers("NODE-01"), 30, old.log)
    assert seen() == ("old", [1])
    new = new_agent(brokers[0])
    wait_until(lambda: seen() == ("both", [2]), 30)
    old.close()
    wait_until(lambda: seen() == ("new-compat", [2]), 30)
    assert check()["obstacles"] == []
    new.stop()
    wait_until(lambda: seen()[0] == "none", 30)
    new_agent(brokers[0], compat=False)
    wait_until(lambda: seen() == ("new-beside-queue", [2]), 30)
    probe.delete("NODE-01")
    wait_until(lambda: seen() == ("new", [2]), 30)


def test_a_queue_that_is_otherwise_stands_in_the_way(
    check: Callable[[], dict[str, Any]], brokers: list[Broker], make_probe: Callable[..., Probe]
) -> None:
    probe = make_probe(brokers[0])
    probe.declare("NODE-01", durable=True, arguments={"x-max-length": 10})
    (obstacle,) = check()["obstacles"]
    assert obstacle["code"] == "queue-otherwise" and obstacle["blocking"]
    assert probe.consumers("NODE-01") == 0, "the check has changed nothing"
