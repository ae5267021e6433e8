"""The locks of a node on several machines, on a real Redis server: the contract, fences, and a server that is down."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
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


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test leaves held would be renewed until the process ends."""
    made: list[RedisLocks] = []
    make = RedisLocks.__init__

    def remember(self: RedisLocks, *how: object, **more: object) -> None:
        make(self, *how, **more)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(RedisLocks, "__init__", remember)
    yield
    for locks in made:
        locks._fences.clear()
    wait_until(lambda: not any(thread.name == "servicebus-locks" for thread in threading.enumerate()), 20)


@pytest.fixture
def node() -> str:
    """One that nobody used before."""
    return next(_nodes)


class TestRedisLocks(LocksContract):
    @pytest.fixture
    def open_locks(self, server: RedisServer, node: str) -> Callable[[], Locks]:
        return lambda: RedisLocks(server.url, node)


def test_each_lease_has_a_higher_fence_than_all_before_it(server: RedisServer, node: str) -> None:
    one, two = RedisLocks(server.url, node), RedisLocks(server.url, node)
    fences: list[int] = []
    for locks, lock in ((one, A), (two, B), (one, B), (two, A)):
        assert locks.take(lock)
        fences.append(locks.fence(lock) or 0)
        locks.release(lock)
        assert locks.fence(lock) is None
    assert fences == sorted(fences) and len(set(fences)) == 4


def test_what_is_held_is_renewed(server: RedisServer, node: str) -> None:
    holder, other = RedisLocks(server.url, node), RedisLocks(server.url, node)
    assert holder.take(A)
    seen = [LEASE_S]

    def is_renewed() -> bool:
        seen.append(holder._client.pttl(f"{holder._prefix}lock:{A}") / 1000)
        return seen[-1] > seen[-2]

    wait_until(is_renewed, 20)
    assert not other.take(A)


def test_a_lease_that_was_lost_is_said(server: RedisServer, node: str, caplog: pytest.LogCaptureFixture) -> None:
    holder, other = RedisLocks(server.url, node), RedisLocks(server.url, node)
    assert holder.take(A)
    before = holder.fence(A)
    holder._client.delete(f"{holder._prefix}lock:{A}")  # as if it had ended
    assert other.take(A)
    after = other.fence(A)
    assert before is not None and after is not None and after > before
    wait_until(lambda: f"(fence {before}) that was not renewed" in caplog.text, 10)
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
