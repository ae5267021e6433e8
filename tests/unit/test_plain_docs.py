"""The examples of docs/plain.rst run."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from servicebus.configuration import Configuration

PAGE = (Path(__file__).parents[2] / "docs" / "plain.rst").read_text()


def test_the_examples_run() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", PAGE)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(textwrap.dedent(block), "docs/plain.rst", "exec", dont_inherit=True), names)  # noqa: S102 - it is ours


def test_the_configurations_load() -> None:
    agent, bridge = re.findall(r"::\n\n((?:    (?:connections|publishers|services|bridges|  ).*\n)+)", PAGE)
    environment = {"BRIDGE_PASSWORD": "secret"}
    found = Configuration.parse(textwrap.dedent(agent) + "hosts: [mq-a]\nsecret_token: secret\n")
    assert found.services[0].kind == "consume" and found.connections[0].host == "mq.old"
    moved = Configuration.parse(textwrap.dedent(bridge), environment=environment).bridges[0]
    assert (moved.queue.host, moved.target.host, moved.dead_letters) == ("here", "there", "orders.out.dead")
