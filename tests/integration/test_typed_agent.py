"""Typed functions in a real agent, through a real broker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import typed_functions
from agents import Agent
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import CallTimeout, InvalidParams
from servicebus.sender import Sender
from servicebus.testing import Broker

pytestmark = pytest.mark.brokers(count=1)


@pytest.fixture
def agent(brokers: list[Broker], start_agent: Callable[..., Agent]) -> Agent:
    return start_agent(brokers, services=[{"group": "typed_functions:group"}]).wait_consuming()


@pytest.fixture
def sender(agent: Agent, make_sender: Callable[[Configuration], Sender]) -> Sender:
    return make_sender(agent.configuration())


def test_a_group_serves_calls_and_messages_of_both_kinds(agent: Agent, sender: Sender) -> None:
    assert sender.call("NODE-01.shop.price", {"sku": "s-1", "count": 3})[1] == 4.5
    assert sender.call("NODE-01.shop.nested", ["s-1"])[1] == 3.0
    futures = [sender.call_async("NODE-01.shop.double", {"n": n}) for n in range(200)]
    assert [future.result()[1] for future in futures] == [2 * n for n in range(200)]
    contract = sender.describe("NODE-01")
    assert [(each.key, each.hash) for each in contract] == [
        (each.key, each.hash) for each in typed_functions.group.contract()
    ]
    with pytest.raises(InvalidParams) as bad:
        sender.call("NODE-01.shop.price", {"sku": 5, "count": 0})
    assert [(each.place, each.kind) for each in bad.value.errors] == [
        (("sku",), "string_type"),
        (("count",), "greater_than"),
    ]
    with pytest.raises(typed_functions.SoldOut) as known:
        sender.call("NODE-01.shop.price", {"sku": "s-1", "count": 11})
    assert (known.value.sku, known.value.left) == ("s-1", 10)
    sender.send("NODE-01.shop.restocked", {"sku": "s-1"})
    wait_until(lambda: agent.noted("restocked") == ["s-1"])
    assert agent.stop() == 0
    opened = [line.rpartition(" ")[0] for line in agent.noted("typed")]
    assert sorted(opened) == ["close", "close pool", "open", "open pool"]


@pytest.mark.parametrize("name", ["wait", "wait_async"])
def test_a_caller_that_gives_up_or_times_out_reaches_the_function(agent: Agent, sender: Sender, name: str) -> None:
    future = sender.call_async(f"NODE-01.shop.{name}", ["gives up"])
    wait_until(lambda: agent.noted("waits") == ["gives up"])
    assert future.cancel()
    wait_until(lambda: len(agent.noted("cancelled")) == 1)
    if name == "wait_async":
        with pytest.raises(CallTimeout):
            sender.call(f"NODE-01.shop.{name}", ["times out"], timeout=1.0)
    else:
        with suppress(CallTimeout):  # it returns then, and its answer may be the first to come
            sender.call(f"NODE-01.shop.{name}", ["times out"], timeout=1.0)
    wait_until(lambda: [line.split()[0] for line in agent.noted("cancelled")] == ["gives", "times"])
    assert agent.stop() == 0
