"""The schedule of the rig's faults: pure, repeatable, and leaving somebody to talk to."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import combinations

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.kinds import KINDS
from tests.chaos.schedule import Fault, Targets, schedule

WORLD = Targets(
    {"a": ("a",), "b": ("b",), "c": ("c",), "mq": ("m1", "m2", "m3")}, nodes=("NODE-1", "NODE-2", "NODE-3"),
    bridges=("bridge",), callers=("shop", "books"),
)  # fmt: skip
BROKERS_ONLY = Targets({"a": ("a",), "b": ("b",), "c": ("c",)}, nodes=("NODE-1", "NODE-2", "NODE-3"))
SHORT_RUN_KINDS = [kind for kind, facts in KINDS.items() if not facts.long_runs_only]


@cache
def thirty_minutes(seed: int) -> list[Fault]:
    return schedule(seed, 30, list(KINDS), WORLD)


def faults_of_some(faults: list[Fault]) -> list[Fault]:
    return [fault for fault in faults if KINDS[fault.kind].is_outage and fault.kind != "all-away"]


def test_every_kind_can_be_done() -> None:
    assert KINDS.keys() == FAULTS.keys()


def test_a_seed_gives_the_same_schedule_again_and_another_seed_another() -> None:
    assert schedule(1, 30, list(KINDS), WORLD) == thirty_minutes(1)
    assert thirty_minutes(1) != thirty_minutes(2)


@pytest.mark.parametrize("seed", range(1, 4))
def test_thirty_minutes_have_two_hundred_faults_of_all_kinds(seed: int) -> None:
    faults = thirty_minutes(seed)
    assert len(faults) >= 200
    assert min(Counter(fault.kind for fault in faults)[kind] for kind in KINDS) >= 5
    assert max(fault.ends_s for fault in faults) <= 30 * 60


@pytest.mark.parametrize("seed", range(1, 6))
def test_two_minutes_have_each_kind_once(seed: int) -> None:
    found = Counter(fault.kind for fault in schedule(seed, 2, list(KINDS), WORLD))
    assert set(found) == set(SHORT_RUN_KINDS)


@pytest.mark.parametrize("world", [WORLD, BROKERS_ONLY], ids=["with a cluster", "brokers only"])
def test_one_host_is_spared_at_any_time(world: Targets) -> None:
    faults = faults_of_some(schedule(1, 30, list(KINDS), world))
    for fault in faults:
        out = {
            world.host_of(other.target)
            for other in faults
            if other.at_s <= fault.at_s < other.ends_s + KINDS[other.kind].recovers_s
        }
        assert len(out) < len(world.hosts)


def test_of_a_cluster_one_member_at_a_time_is_hit() -> None:
    hits = [fault for fault in faults_of_some(thirty_minutes(1)) if fault.target in WORLD.hosts["mq"]]
    for one, other in combinations(hits, 2):
        assert other.at_s >= one.ends_s or one.at_s >= other.ends_s


def test_only_the_kinds_that_were_asked_for_come() -> None:
    found = schedule(1, 5, ["worker-kill", "loss"], WORLD)
    assert {fault.kind for fault in found} == {"worker-kill", "loss"}
    assert schedule(1, 5, [], WORLD) == []
