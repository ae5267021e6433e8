"""KeyedLockQueue and NodeLocks: who runs, who waits, and in which order.

Two NodeLocks on one file are two processes here.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lock_contract import A, B, C, Getter, LocksContract, fill, job, name_of, read
from waiting import wait_until

from servicebus.runtime.job import Job
from servicebus.runtime.keyed_lock_queue import KeyedLockQueue, Task
from servicebus.runtime.node_locks import Locks, NodeLocks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "NODE-01.locks"


class TestOneProcess:
    def test_the_next_with_another_key_goes_past_the_one_that_waits(self) -> None:
        queue = KeyedLockQueue(read, NodeLocks())
        fill(queue, ("a1", A), ("a2", A), ("b1", B), ("free", None))
        assert [name_of(queue.get()) for _ in range(3)] == ["a1", "b1", "free"]
        assert queue.waiting == 1

    def test_who_leaves_a_key_takes_the_next_one_of_it_along_in_order(self) -> None:
        queue = KeyedLockQueue(read, NodeLocks())
        fill(queue, ("a1", A), ("a2", A), ("a3", A), ("b1", B))
        first, b1 = queue.get(), queue.get()
        assert (name_of(first), name_of(b1)) == ("a1", "b1")
        for wanted in ("a2", "a3"):
            assert first is not None
            queue.done(first)
            first = queue.get()
            assert name_of(first) == wanted

    def test_a_thread_that_waits_is_woken_when_the_key_comes_free(self) -> None:
        queue = KeyedLockQueue(read, NodeLocks())
        fill(queue, ("a1", A), ("a2", A))
        held = queue.get()
        assert held is not None
        getter = Getter(queue)
        wait_until(lambda: queue.waiting == 1)
        queue.done(held)
        assert name_of(getter.result()) == "a2"

    def test_a_parked_job_that_nobody_waits_for_is_given_out_without_its_lock(self) -> None:
        queue = KeyedLockQueue(read, NodeLocks())
        fill(queue, ("a1", A))
        held = queue.get()
        queue.put(job("late", A, time.monotonic() + 0.05))
        getter = Getter(queue)
        late = getter.result()
        assert name_of(late) == "late"
        assert late is not None
        assert (late.lock, late.is_over(time.monotonic())) == (None, True)
        assert held is not None
        queue.done(late)
        queue.done(held)

    def test_a_reader_that_is_interrupted_leaves_its_job_to_the_next(self) -> None:
        raised = [TimeoutError("from outside")]

        def interrupted(job: Job) -> Task:
            if raised:
                raise raised.pop()
            return read(job)

        queue = KeyedLockQueue(interrupted, NodeLocks())
        fill(queue, ("first", A), ("second", B))
        with pytest.raises(TimeoutError, match="from outside"):
            queue.get()
        assert [name_of(queue.get()) for _ in range(2)] == ["first", "second"]

    def test_when_it_is_closed_everything_is_given_out_first(self) -> None:
        queue = KeyedLockQueue(read, NodeLocks())
        fill(queue, ("a1", A), ("a2", A))
        held = queue.get()
        assert held is not None
        queue.close()
        getters = [Getter(queue) for _ in range(3)]
        queue.done(held)
        found = {name_of(getter.result()) for getter in getters}
        assert found == {"a2", None}

    def test_a_lock_function_that_is_slow_changes_no_order(self) -> None:
        """The first one's key is found last: the second must not slip past."""
        entered = threading.Semaphore(0)
        go_on = threading.Event()

        def slow(job: Job) -> Task:
            entered.release()
            if job.incoming.id == "a1":
                assert go_on.wait(10)
            return read(job)

        queue = KeyedLockQueue(slow, NodeLocks())
        fill(queue, ("a1", A), ("a2", A))
        getters = [Getter(queue), Getter(queue)]
        assert entered.acquire(timeout=10)
        assert not entered.acquire(timeout=0.05)
        go_on.set()
        assert entered.acquire(timeout=10)
        first = wait_until(lambda: next((g.tasks[0] for g in getters if g.tasks), None))
        assert name_of(first) == "a1"
        queue.done(first)
        assert {name_of(getter.result()) for getter in getters} == {"a1", "a2"}


@settings(max_examples=40)
@given(st.lists(st.sampled_from([A, B, C, None]), max_size=40), st.integers(1, 4), st.booleans())
def test_every_job_is_run_once_in_the_order_of_its_key_and_never_beside_it(
    locks: list[int | None], count: int, is_closed_first: bool
) -> None:
    queue = KeyedLockQueue(read, NodeLocks())
    ran: defaultdict[int | None, list[int]] = defaultdict(list)
    inside: set[int] = set()
    overlaps: list[int] = []

    def work() -> None:
        while (task := queue.get()) is not None:
            if task.lock is not None:
                overlaps.extend({task.lock} & inside)
                inside.add(task.lock)
            ran[task.lock].append(int(task.job.incoming.id))
            time.sleep(0)
            if task.lock is not None:
                inside.discard(task.lock)
            queue.done(task)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    if is_closed_first:
        fill(queue, *((str(number), lock) for number, lock in enumerate(locks)))
    for thread in threads:
        thread.start()
    if not is_closed_first:
        fill(queue, *((str(number), lock) for number, lock in enumerate(locks)))
    queue.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert overlaps == []
    for lock in {A, B, C, None}:
        wanted = [number for number, each in enumerate(locks) if each == lock]
        assert sorted(ran[lock]) == wanted
        if lock is not None:
            assert ran[lock] == wanted


class TestTwoProcesses(LocksContract):
    @pytest.fixture
    def open_locks(self, path: Path) -> Callable[[], Locks]:
        return lambda: NodeLocks(path)


class TestRemovedLockFile:
    @pytest.mark.parametrize("times", [1, 2, 5])
    def test_the_locks_are_kept_for_old_workers_and_new_ones(
        self, path: Path, times: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It looks left behind. The next worker made a new one, and worked on what others were working on."""
        one, two = NodeLocks(path), NodeLocks(path)
        assert one.take(A)
        for _ in range(times):
            path.unlink()
            one.look()
        assert not two.take(A)
        assert two.take(B)
        new = NodeLocks(path)
        assert [new.take(A), new.take(B), one.take(B)] == [False, False, False]
        one.release(A)
        assert new.take(A)
        assert not two.take(A)
        lines = [line for line in caplog.messages if "removed or replaced while it is in use" in line]
        assert len(lines) == 2, "one of each worker"

    def test_where_it_cannot_be_made_again_no_other_worker_can_begin(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        one, two = NodeLocks(path), NodeLocks(path)
        aside = path.parent.rename(path.parent.with_name("aside"))
        assert one.take(A)
        assert not two.take(A)
        with pytest.raises(FileNotFoundError):
            NodeLocks(path)
        assert "no worker can start" in caplog.text
        aside.rename(path.parent)
        one.look()
        assert not NodeLocks(path).take(A)
