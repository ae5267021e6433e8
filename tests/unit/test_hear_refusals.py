"""hear_refusals(): what ``servicebus doctor`` learns of a node that answers nothing but why it does not."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from doctor_facts import NODE, healthy

import servicebus.testing
from servicebus import Services
from servicebus.cli.fleet import hear_refusals
from servicebus.operations.doctor.checks import examine, unchecked

clock = Services("clock")


@clock.rpc
def tell() -> str:
    return "now"


@pytest.mark.parametrize("ahead_s", [-7200, 7200])
def test_a_node_whose_clock_is_far_off_is_named_for_that(monkeypatch: pytest.MonkeyPatch, ahead_s: int) -> None:
    fleet = healthy()
    with servicebus.testing.bus(clock, brokers=1) as world:
        fleet.nodes = {}
        hear_refusals(world.sender, fleet, [NODE], 10.0)
        assert fleet.nodes == {}, "it answers"
        # The node judges what comes by it, and the Sender dates nothing by it but replies. It is put back while the bus
        # is open, whose own clock stands there: later it would stay there for all tests that follow.
        ahead = SimpleNamespace(time=lambda: time.time() + ahead_s, monotonic=time.monotonic)
        with monkeypatch.context() as patch:
            patch.setattr("servicebus.protocol.v2.time", ahead)
            hear_refusals(world.sender, fleet, [NODE], 10.0)
    assert fleet.nodes[NODE].stale and fleet.nodes[NODE].refuses and not fleet.nodes[NODE].refusal
    assert [each.code for each in examine(fleet)] == ["clock-skew"]
    assert not [each for each in unchecked(fleet) if NODE in each.what]
