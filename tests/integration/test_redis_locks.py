"""The locks of a node on several machines, on a real Redis server: the contract, fences, and a server that is down."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lock_contract import A, B, LocksContract
from redis_server import RedisServer, redis_server
from waiting import wait_until

from servicebus.runtime.node_locks import Locks
from servicebus.runtime.redis_locks import LEASE_S, RedisLocks

pytest.importorskip("redis", reason="the extra redis is not installed")

_nodes = (f"NODE-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def node() -> str:
    """One that nobody used before."""
    return next(_nodes)


@pytest.fixture
def open_locks(server: RedisServer, node: str) -> Iterator[Callable[[], RedisLocks]]:
    """Workers of one node. What a test leaves held would be renewed until the process ends."""
    with ExitStack() as stack:

        def open_one() -> RedisLocks:
            locks = RedisLocks(server.url, node)
            stack.callback(locks.close)
            return locks

        yield open_one


class TestRedisLocks(LocksContract):
    @pytest.fixture
    def open_locks(self, open_locks: Callable[[], RedisLocks]) -> Callable[[], Locks]:
        return open_locks


def test_each_lease_has_a_higher_fence_than_all_before_it(open_locks: Callable[[], RedisLocks]) -> None:
    one, two = open_locks(), open_locks()
    fences: list[int] = []
    for locks, lock in ((one, A), (two, B), (one, B), (two, A)):
        assert locks.take(lock)
        fences.append(locks.fence(lock) or 0)
        locks.release(lock)
        assert locks.fence(lock) is None
    assert fences == sorted(fences) and len(set(fences)) == 4


def test_what_is_held_is_renewed(open_locks: Callable[[], RedisLocks]) -> None:
    holder, other = open_locks(), open_locks()
    assert holder.take(A)
    seen = [LEASE_S]

    def is_renewed() -> bool:
        seen.append(holder._client.pttl(f"{holder._prefix}lock:{A}") / 1000)
        return seen[-1] > seen[-2]

    wait_until(is_renewed, 20)
    assert not other.take(A)


def test_a_lease_that_was_lost_is_said(open_locks: Callable[[], RedisLocks], caplog: pytest.LogCaptureFixture) -> None:
    holder, other = open_locks(), open_locks()
    assert holder.take(A)
    before = holder.fence(A)
    holder._client.delete(f"{holder._prefix}lock:{A}")  # as if it had ended
    assert other.take(A)
    after = other.fence(A)
    assert before is not None and after is not None and after > before
    wait_until(lambda: f"(fence {before}) that was not renewed" in caplog.text, 10)
    assert not holder.has(A) and other.has(A), "it is over as soon as that is known"
    holder.release(A)
    assert not holder.take(A), "a late release takes nothing from the next one"


def test_while_the_server_is_down_nobody_gets_a_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(tmp_path) as server:
        locks = RedisLocks(server.url, "NODE-01")
        assert locks.take(A)
        server.kill()
        assert not locks.take(B)
        assert "what needs a lock waits until it answers again" in caplog.text
        locks.release(A)
        server.start()
        wait_until(lambda: locks.take(B), 20, "it is asked again")
        locks.close()


def test_what_was_closed_is_not_renewed_and_may_take_locks_again(open_locks: Callable[[], RedisLocks]) -> None:
    closed, other = open_locks(), open_locks()
    assert closed.take(A)
    closed.close()
    assert not any(thread.name == "servicebus-locks" for thread in threading.enumerate())
    closed._client.delete(f"{closed._prefix}lock:{A}")  # as its lease ends
    assert other.take(A) and not closed.take(A)
    assert closed.take(B) and closed.fence(B), "it goes on"
