"""A stub calls each of 25 services of a real agent, through a real broker."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import many_services
import pytest
from agents import Agent

from servicebus.configuration import Configuration
from servicebus.contracts.stubs import stub_of
from servicebus.sender import Sender
from servicebus.testing import Broker

pytestmark = pytest.mark.brokers(count=1)


def loaded(text: str, folder: Path) -> Any:
    (folder / "stub_of_agent.py").write_text(text)
    spec = importlib.util.spec_from_file_location("stub_of_agent", folder / "stub_of_agent.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["stub_of_agent"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_service_is_called_and_each_error_raised(
    brokers: list[Broker],
    start_agent: Callable[..., Agent],
    make_sender: Callable[[Configuration], Sender],
    tmp_path: Path,
) -> None:
    agent = start_agent(brokers, services=[{"group": "many_services:group"}]).wait_consuming()
    sender = make_sender(agent.configuration())
    stub = loaded(stub_of(sender.describe("NODE-01")), tmp_path)
    client = stub.Many(sender)
    called = many_services.call_each(client, stub)
    assert [(name, found) for name, found, _ in called] == [(name, wanted) for name, _, wanted in called]
    for how, kind in (("stock", stub.OutOfStock), ("broken", stub.Broken), ("plain", stub.Plain)):
        with pytest.raises(kind):
            client.fail(how)
