"""What a fleet needs, on paper: nothing but sums, and the least of the limits decides."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.suite.growth.paper import Load, Machine, Prices, Share, fleet, limits, on_a_broker

WORKER = Share(2, 8, 10, 9, 66, 1000.0, 0.001)
SENDER = Share(1, 2, 0, 0, 15, 200.0, 0.0)
PRICES = Prices(empty_kib=100_000.0, worker=WORKER, sender=SENDER, call_cpu_us=100.0)


def test_a_broker_carries_the_workers_the_senders_and_the_calls() -> None:
    carried = on_a_broker(10, Load(senders=2, calls_per_s=5), PRICES)

    assert (carried.connections, carried.channels, carried.queues, carried.processes) == (40, 120, 100, 960)
    assert carried.memory_kib == 100_000 + 10 * 1000 + 20 * 200
    assert carried.cores_at_rest == pytest.approx(10 * 0.001 + 50 * 100e-6)


def test_each_limit_says_how_many_nodes_it_allows() -> None:
    found = limits(Load(senders=0, calls_per_s=0), PRICES, Machine(memory_gib=1, cores=2))

    assert found["cores"] == pytest.approx(2 * 0.5 / 0.001)
    assert found["Erlang processes"] == pytest.approx(1_048_576 / 66)
    assert found["memory"] == pytest.approx((1024 * 1024 * 0.4 * 0.5 - 100_000) / 1000)


def test_there_are_as_many_shards_as_the_least_limit_asks_for() -> None:
    load, machine = Load(senders=1, calls_per_s=1), Machine()
    most = min(limits(load, PRICES, machine).values())

    needed = fleet(100_000, load, PRICES, machine)

    assert needed.shards * needed.nodes_per_shard >= 100_000
    assert needed.nodes_per_shard <= most
    assert fleet(1, load, PRICES, machine).shards == 1
