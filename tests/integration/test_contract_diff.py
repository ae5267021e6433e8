"""``servicebus contract diff`` beside an agent that runs, through a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from agents import Agent

from servicebus.testing import Broker

pytestmark = pytest.mark.brokers(count=1)


def test_a_node_is_compared_with_what_it_was_released_with(
    brokers: list[Broker], start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = start_agent(brokers, services=[{"group": "typed_functions:group"}]).wait_consuming()

    def servicebus(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from servicebus.cli.main import main; main()", *arguments]
        environment = {**os.environ, "SERVICEBUS_CONFIG": str(agent.folder / "agent.yaml")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    described = servicebus("describe", "NODE-01", "--json")
    released = tmp_path / "released.json"
    released.write_text(described.stdout)
    same = servicebus("contract", "diff", str(released), "NODE-01")
    assert (same.returncode, same.stdout) == (0, "no differences\n")

    contract = json.loads(described.stdout)
    nested = next(each for each in contract["services"] if each["service"] == "shop.nested")
    nested["params"]["properties"]["coupon"] = {"type": "string"}
    released.write_text(json.dumps(contract))
    found = servicebus("contract", "diff", str(released), "NODE-01")
    assert (found.returncode, found.stdout.splitlines()) == (
        1,
        [
            "shop.nested",
            "    BREAKING    params coupon: removed; the node refuses it",
            "1 difference, 1 of which breaks callers",
        ],
    )
    assert servicebus("contract", "diff", "NODE-01", str(released)).returncode == 0
