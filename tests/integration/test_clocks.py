"""Clocks that do not agree, on a real broker: a Sender's own deadline counts, whatever the agent's clock says."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from agents import Agent

from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.testing import Broker

pytestmark = pytest.mark.on_request


@pytest.mark.brokers(count=1)
@pytest.mark.parametrize("ahead_s", [-20, 20])
def test_a_sender_whose_clock_is_wrong_within_the_skew_is_served_within_its_limit(
    brokers: list[Broker],
    start_agent: Callable[..., Agent],
    make_sender: Callable[[Configuration], Sender],
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
) -> None:
    """By the agent's clock they are 20 s old, and allow 5: asked once more, the Sender says that they are fresh."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
    futures = [sender.call_async("NODE-01.test.echo", number, timeout=5) for number in range(20)]
    assert [future.result(10)[1] for future in futures] == list(range(20))
    assert sender.call("NODE-01.test.echo", "known by now", timeout=5)[1] == "known by now"
