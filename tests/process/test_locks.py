"""Locks between real processes: a key is never worked on twice at a time, and a process that is killed has none."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from lock_worker import Interval, LockWorker, intervals, lines
from redis_server import redis_server
from waiting import wait_until

StartWorkers = Callable[..., list[LockWorker]]


@pytest.fixture
def start_workers(tmp_path: Path) -> Iterator[StartWorkers]:
    """Start several, each with its work, and let them go when all are ready."""
    with ExitStack() as stack:

        def start(*works: list[tuple[str, Any]], threads: int = 1, journal: str = "") -> list[LockWorker]:
            workers = [LockWorker(tmp_path, work, threads, journal) for work in works]
            for worker in workers:
                stack.callback(worker.close)
            pids = {str(worker.pid) for worker in workers}
            wait_until(lambda: pids <= {pid for (pid,) in lines(tmp_path / "ready")}, 30, "all ready")
            for worker in workers:
                worker.go()
            return workers

        yield start


def overlapping(found: list[Interval]) -> list[tuple[Interval, Interval]]:
    ordered = sorted(found, key=lambda interval: interval.start)
    return [(one, next) for one, next in itertools.pairwise(ordered) if next.start < one.end]


def of_key(found: list[Interval], key: str) -> list[Interval]:
    return [interval for interval in found if interval.key == key]


def test_a_key_never_runs_twice_at_a_time_and_other_keys_do(start_workers: StartWorkers, tmp_path: Path) -> None:
    rng = random.Random(1)
    works = [[(rng.choice("ABCDE"), rng.choice((0.0, 0.001, 0.003))) for _ in range(200)] for _ in range(3)]
    workers = start_workers(*works, threads=3)
    for worker in workers:
        assert worker.process.wait(60) == 0
    found = intervals(tmp_path)
    assert len(found) == 600
    for key in "ABCDE":
        mine = of_key(found, key)
        assert overlapping(mine) == []
        assert len({interval.pid for interval in mine}) == 3
    assert overlapping(found), "other keys run side by side"


def test_all_processes_get_a_key_that_all_of_them_want(start_workers: StartWorkers, tmp_path: Path) -> None:
    """None has to wait until another one has nothing left to do."""
    workers = start_workers([("A", 0.001)] * 600, [("A", 0.001)] * 600, threads=2)
    for worker in workers:
        assert worker.process.wait(60) == 0
    ordered = [interval.pid for interval in sorted(intervals(tmp_path), key=lambda interval: interval.start)]
    turns = [pid for pid, _ in itertools.groupby(ordered)]
    assert len(turns) > 2


def test_who_is_killed_lets_go_of_its_key_and_nobody_before(start_workers: StartWorkers, tmp_path: Path) -> None:
    (holder,) = start_workers([("A", "hang")])
    wait_until(lambda: lines(tmp_path / "started"))
    start_workers([("A", 0.0), ("B", 0.0)])
    wait_until(lambda: intervals(tmp_path))
    os.kill(holder.pid, signal.SIGSTOP)  # a frozen one may go on any moment
    assert [interval.key for interval in intervals(tmp_path)] == ["B"]
    os.kill(holder.pid, signal.SIGKILL)
    wait_until(lambda: len(intervals(tmp_path)) == 2, what="its key to come free")


def test_a_child_that_outlives_its_worker_does_not_keep_the_key(start_workers: StartWorkers, tmp_path: Path) -> None:
    """A service may have forked: the child has the worker's files open, and the lock must go all the same."""
    (holder,) = start_workers([("A", "fork")])
    ((child,),) = wait_until(lambda: lines(tmp_path / "children"))
    try:
        start_workers([("A", 0.0)])
        holder.process.kill()
        wait_until(lambda: intervals(tmp_path), what="its key to come free")
        os.kill(int(child), 0)
    finally:
        os.kill(int(child), signal.SIGKILL)


# -- over several machines: processes of one machine with a Redis server ----------------------------------------------


@pytest.fixture
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("redis", reason="the extra redis is not installed")
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


def fences(folder: Path) -> list[int]:
    """Of the requests that were begun with the key A, in that order."""
    return [int(fence) for key, fence in lines(folder / "fences") if key == "A"]


def test_a_key_never_runs_twice_at_a_time_on_several_machines(
    start_workers: StartWorkers, tmp_path: Path, redis_url: str
) -> None:
    rng = random.Random(1)
    works = [[(rng.choice("ABCDE"), rng.choice((0.0, 0.001, 0.003))) for _ in range(100)] for _ in range(3)]
    for worker in start_workers(*works, threads=3, journal=redis_url):
        assert worker.process.wait(60) == 0
    found = intervals(tmp_path)
    assert len(found) == 300
    for key in "ABCDE":
        assert overlapping(of_key(found, key)) == []
    assert overlapping(found), "other keys run side by side"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_machine_that_is_gone_or_frozen_has_no_lock_after_its_lease(
    start_workers: StartWorkers, tmp_path: Path, redis_url: str, end: signal.Signals
) -> None:
    """The frozen one may go on: what it writes to can tell by the fence."""
    (holder,) = start_workers([("A", "hang")], journal=redis_url)
    wait_until(lambda: fences(tmp_path))
    os.kill(holder.pid, end)
    start_workers([("A", 0.0)], journal=redis_url)
    wait_until(lambda: of_key(intervals(tmp_path), "A"), 30)
    first, second = fences(tmp_path)
    assert second > first
