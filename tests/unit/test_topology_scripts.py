"""The scripts of a node's topology, run on a broker in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transport_rigs import Line, MemoryRig, Peer
from virtual_bus import configuration
from virtual_time import virtual_time

from servicebus.runtime.topology import (
    calls_script,
    declare_again,
    declare_all_again,
    delays_script,
    own_script,
    subscription_counts,
)
from servicebus.runtime.transient_queues import TransientQueues
from servicebus.transport.interface import Script
from servicebus.transport.loop import nothing
from servicebus.transport.stored import StoredQueues

CONFIG = configuration("mq-a", prefetch=80)
TIERS = (1, 5, 30, 120, 600)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    with virtual_time(monkeypatch) as time:
        yield Peer(MemoryRig(time)).opened().channel()


def run(line: Line, script: Script) -> None:
    done: list[bool] = []
    line.open_channel.run(script, lambda: done.append(True))
    line.rig.until(lambda: done or line.failure)
    assert line.failure is None


def test_what_was_deleted_is_declared_again_and_its_consumers_are_counted(line: Line) -> None:
    transient, stored = TransientQueues(CONFIG), StoredQueues(CONFIG, "4.0.0", lambda _text: None)
    counts: dict[str, int] = {}
    run(line, declare_again(CONFIG, transient, stored, counts))
    kept: list[str] = []
    run(line, calls_script(CONFIG, transient, nothing, kept.append))
    run(line, delays_script(CONFIG, lambda _tier: nothing, kept.append))
    assert len(kept) == 1 + len(TIERS)
    run(line, declare_again(CONFIG, transient, stored, counts))
    assert counts == {
        "NODE-01.rpc": 1,
        "NODE-01.control": 0,
        "NODE-01.messages": 0,
        **{f"NODE-01.messages.delay.{tier}": 1 for tier in TIERS},
    }
    assert subscription_counts("NODE-01", counts) == {"calls": 1, "control": 0, "messages": 0, "delays": 1}


def test_of_the_delays_the_tier_with_the_fewest_consumers_counts() -> None:
    counts = {"N.messages.delay.1": 2, "N.messages.delay.5": 0, "N.messages.delay.30": 1}
    assert subscription_counts("N", counts) == {"delays": 0}


def test_without_stored_queues_only_the_transient_ones_are_declared(line: Line) -> None:
    counts: dict[str, int] = {}
    run(line, declare_again(CONFIG, TransientQueues(CONFIG), None, counts))
    assert sorted(counts) == ["NODE-01.control", "NODE-01.rpc"]


def test_the_workers_own_queue_hears_what_all_nodes_are_asked_and_is_bound_again(line: Line) -> None:
    transient, heard, kept = TransientQueues(CONFIG), [], []  # type: ignore[var-annotated]
    run(line, own_script(CONFIG, heard.append, kept.append))
    transient.own = kept[0]
    keys = "NODE-01.cancel", "*.discover"
    for number in range(2):
        for key in keys:
            line.open_channel.publish("servicebus", key, f"{key} {number}".encode())
        line.rig.until(lambda number=number: len(heard) == 2 * (number + 1))  # type: ignore[misc]
        line.rig.broker._routes.bindings.clear()  # type: ignore[attr-defined]
        run(line, declare_all_again(CONFIG, transient, None, {}))
    assert [each.body.decode() for each in heard] == [f"{key} {number}" for number in range(2) for key in keys]
