"""The shared journal, its workers killed for real: no id is given out twice, nothing that was finished is forgotten."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from journal_words import begin
from journal_worker import JournalWorker, answer_to
from waiting import wait_until

from servicebus.runtime.journal import IdStatus, Journal, Lookup, open_shared

StartWorker = Callable[..., JournalWorker]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "NODE-01.journal"


@pytest.fixture
def start_worker(path: Path) -> Iterator[StartWorker]:
    with ExitStack() as stack:

        def start(**limits: Any) -> JournalWorker:
            worker = JournalWorker(path, **limits)
            stack.callback(worker.close)
            return worker

        yield start


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = open_shared(str(path), lock_wait_s=2.0)
    yield journal
    journal.close()


def check(journal: Journal, said: list[Any]) -> tuple[int, int]:
    """Is what a dead worker said still true? Gives how many ids it had begun, and finished."""
    begun = {count for what, counts in said if what == "begun" for count in counts}
    finished = {count for what, counts in said if what == "finished" for count in counts}
    # One more batch may have been told to the journal, and not to us any more.
    assert_known(journal, sorted(finished), {IdStatus.FINISHED})
    assert_known(journal, sorted(begun - finished), {IdStatus.FINISHED, IdStatus.INTERRUPTED})
    return len(begun), len(finished)


def assert_known(journal: Journal, counts: list[int], allowed: set[IdStatus]) -> None:
    for start in range(0, len(counts), 500):
        part = counts[start : start + 500]
        for count, known in zip(part, begin(journal, *part), strict=True):
            assert known.status in allowed, f"{count} is {known}"
            if known.status is IdStatus.FINISHED:
                assert known.answer == answer_to(count)


def assert_sound(path: Path) -> None:
    """The snapshot is whole, and the rows follow it."""
    journal = open_shared(str(path), lock_wait_s=2.0)
    journal.close()
    assert not list(path.parent.glob("*.broken-*"))


@pytest.mark.parametrize("batch", [1, 16, 700])
def test_a_worker_killed_at_any_moment_has_lost_nothing_that_it_said(
    path: Path, start_worker: StartWorker, journal: Journal, batch: int
) -> None:
    """700 at once and a tick for each: it compacts all the time."""
    rng = random.Random(batch)
    begun = finished = 0
    for life in itertools.count():
        if life >= 3 and begun > 100 and finished > 100:
            break  # beside other work a life may end before it has begun much
        worker = start_worker(reply_keep_s=1e9)
        worker.tell("work", 1 + life * 1_000_000, batch)
        first = worker.read()
        delay_s = rng.uniform(0.0, 0.08)
        os.kill(worker.process.pid, 0)
        time.sleep(delay_s)  # not waiting for anything: the moment of death is what varies
        worker.kill()
        more = check(journal, [first, *worker.rest()])
        begun, finished = begun + more[0], finished + more[1]
    assert_sound(path)


KILL_POINTS = {
    # Instructions of Python. A row takes some 300, that of a compaction as well; a snapshot some 1,000.
    ("begin", "rows"): [*range(0, 300, 23), 400, 1000],
    ("finish", "rows"): [*range(0, 380, 29), 500, 1000],
    ("compact", "rows"): [5000, 3000, *range(360, 1, -29)],
    ("take_snapshot", "snapshot"): [9000, 5000, *range(1500, 1, -37)],
}


@pytest.mark.parametrize(("what", "where"), list(KILL_POINTS))
def test_a_worker_killed_inside_the_store_has_done_all_of_it_or_nothing(
    path: Path, start_worker: StartWorker, journal: Journal, what: str, where: str
) -> None:
    survived = 0
    for number, steps in enumerate(KILL_POINTS[what, where]):
        worker = start_worker(reply_keep_s=1e9)
        first = 1 + number * 1000
        known, fresh = list(range(first, first + 20)), list(range(first + 20, first + 30))
        if where == "rows":
            worker.ask("die_in_rows", 10**9)  # not yet; but from 3.12 on code that is new is not traced the first time
        worker.ask("begin", known)
        worker.ask("finish", known[:10])
        worker.ask(f"die_in_{where}", steps)
        arguments: dict[str, list[Any]] = {"begin": [fresh], "finish": [known[10:]], "compact": [1000 + 100 * number]}
        survived += worker.ask(what, *arguments.get(what, [])) is not None
        worker.kill()
        assert_known(journal, known[:10], {IdStatus.FINISHED})
        later = {known.status for known in begin(journal, *known[10:])}
        assert later in (
            [{IdStatus.INTERRUPTED}, {IdStatus.FINISHED}] if what == "finish" else [{IdStatus.INTERRUPTED}]
        )
        if what == "begin":
            assert {known.status for known in begin(journal, *fresh)} in ({IdStatus.NEW}, {IdStatus.INTERRUPTED})
    # Most die in the middle; the last ones live to see the end, so the points reach all the way.
    assert 0 < survived <= len(KILL_POINTS[what, where]) / 2
    assert_sound(path)


def test_workers_that_race_for_the_same_ids_never_both_get_one(start_worker: StartWorker) -> None:
    workers = [start_worker() for _ in range(4)]
    for worker, (batch, step) in zip(workers, [(1, 1), (7, 1), (7, -1), (64, 1)], strict=True):
        worker.tell("race", 1, 4001, batch, step)
    shares = [worker.read() for worker in workers]
    assert sorted(count for share in shares for count in share) == list(range(1, 4001))
    assert sum(bool(share) for share in shares) > 1


def test_racers_that_are_killed_leave_interrupted_ids_and_none_that_is_new_twice(
    start_worker: StartWorker, journal: Journal
) -> None:
    for life in (1, 3, 5):
        first = 1 + life * 100_000
        workers = [start_worker(reply_keep_s=1e9) for _ in range(3)]
        for worker, batch in zip(workers, (1, 5, 16), strict=True):
            worker.tell("work", first, batch)
        for worker in workers:
            worker.read()
        time.sleep(0.02 * life)  # not waiting for anything: the moment of death is what varies
        for worker in workers:
            worker.kill()
        said = [worker.rest() for worker in workers]
        begun = [count for lines in said for what, counts in lines if what == "begun" for count in counts]
        assert len(begun) == len(set(begun))
        assert_known(journal, sorted(begun), {IdStatus.FINISHED, IdStatus.INTERRUPTED})


def test_only_one_of_many_takes_over_what_a_dead_worker_left(start_worker: StartWorker) -> None:
    dead = start_worker()
    counts = list(range(1, 200))
    assert dead.ask("begin", counts) == ["NEW"] * len(counts)
    workers = [start_worker() for _ in range(3)]
    assert workers[0].ask("begin", counts) == ["RUNNING"] * len(counts)
    dead.kill()
    for worker in workers:
        worker.tell("wait", counts, True)
    found = [worker.read() for worker in workers]
    for each in zip(*found, strict=True):
        assert sorted(map(tuple, each)) == [("NEW", 2, 1), ("RUNNING", 2, 1), ("RUNNING", 2, 1)]


def test_what_only_waited_when_its_worker_was_killed_is_new_and_what_was_started_is_not(
    start_worker: StartWorker, journal: Journal
) -> None:
    dead = start_worker()
    dead.ask("wait", [1, 2, 3, 4])
    dead.ask("start", [2, 3])
    dead.ask("finish", [3])
    assert begin(journal, 1, 2, 3) == [
        Lookup(IdStatus.RUNNING, None, 1, 0),
        Lookup(IdStatus.RUNNING, None, 1, 0),
        Lookup(IdStatus.FINISHED, answer_to(3)),
    ]
    dead.kill()
    assert begin(journal, 1, 2, 3) == [
        Lookup(IdStatus.NEW, None, 1, 0),
        Lookup(IdStatus.INTERRUPTED, None, 1, 1),
        Lookup(IdStatus.FINISHED, answer_to(3)),
    ]
    assert begin(journal, 2, 4, rerun=True) == [Lookup(IdStatus.NEW, None, 2, 1), Lookup(IdStatus.NEW, None, 1, 0)]


def test_a_message_that_kills_its_worker_counts_its_deaths_and_its_neighbours_count_none(
    start_worker: StartWorker,
) -> None:
    for deaths in range(4):
        worker = start_worker()
        found = worker.ask("wait", [1, 2, 3], True)
        assert found == [["NEW", deaths + 1, deaths], ["NEW", 1, 0], ["NEW", 1, 0]]
        worker.ask("start", [1])
        worker.kill()


def test_a_worker_killed_while_it_toils_leaves_as_new_only_what_it_never_started(
    start_worker: StartWorker, journal: Journal
) -> None:
    waited = 0
    for batch in (1, 5, 64):
        worker = start_worker(reply_keep_s=1e9)
        first = 1 + 1_000_000 * batch
        worker.tell("toil", first, batch)
        said = [worker.read()]
        time.sleep(0.03)  # not waiting for anything: the moment of death is what varies
        worker.kill()
        said += worker.rest()
        started = {count for what, counts in said if what == "started" for count in counts}
        last = max(count for what, counts in said if what == "begun" for count in counts)
        counts = [count for count in range(first, last + 1) if count % 4 != 1]
        for count, known in zip(counts, begin(journal, *counts), strict=True):
            is_new = known == Lookup(IdStatus.NEW, None, 1, 0)
            # The last one may have been started, and not said any more.
            assert is_new or known == Lookup(IdStatus.INTERRUPTED, None, 1, 1), f"{count} is {known}"
            assert not (is_new and count in started), f"{count} was started"
            waited += is_new
    assert waited > 1


@pytest.mark.parametrize("what", ["begin", "start", "finish", "update", "compact", "release", "take_snapshot"])
def test_a_worker_killed_at_any_instruction_leaves_nothing_as_new_that_was_started(
    start_worker: StartWorker, journal: Journal, what: str
) -> None:
    lives, instructions = start_worker().ask("die_everywhere", what, 40)
    new, interrupted = Lookup(IdStatus.NEW, None, 1, 0), Lookup(IdStatus.INTERRUPTED, None, 1, 1)
    assert lives >= min(40, instructions) > 20
    for life in range(1, lives + 1):
        ids = range(20 * life, 20 * life + 10)
        found = begin(journal, *ids)
        assert found[1].status is IdStatus.FINISHED
        assert found[2] == interrupted or (
            what in ("finish", "update", "compact", "take_snapshot")
            and found[2] == Lookup(IdStatus.FINISHED, answer_to(ids[2]))
        )
        assert found[3] == interrupted
        assert set(found[4:6]) <= ({new, interrupted} if what == "start" else {new})
        # Begun before, or at the last moment, or not at all: nobody has started them.
        assert {found[0], *found[6:]} == {new}, f"life {life}"


def test_a_frozen_worker_is_waited_for_as_a_living_one(start_worker: StartWorker, journal: Journal) -> None:
    """It may go on any moment, so what it began must not be given to anybody."""
    worker = start_worker()
    worker.ask("begin", [1])
    os.kill(worker.process.pid, signal.SIGSTOP)
    assert begin(journal, 1, rerun=True) == [Lookup(IdStatus.RUNNING, None, 1, 0)]
    worker.kill()
    assert begin(journal, 1, rerun=True) == [Lookup(IdStatus.NEW, None, 2, 1)]


def test_a_worker_frozen_while_it_writes_is_named_and_does_not_hold_the_others_up_for_good(
    start_worker: StartWorker,
) -> None:
    frozen, other = start_worker(), start_worker()
    assert frozen.ask("hold_lock") == "holding"
    kind, text = other.ask("begin", [1])
    assert kind == "JournalUnavailable"
    assert re.search(rf"process {frozen.process.pid} has kept it locked for \d+\.\d s", text)
    frozen.kill()
    assert other.ask("begin", [1]) == ["NEW"]


def test_a_child_that_outlives_its_worker_does_not_keep_it_alive(start_worker: StartWorker, journal: Journal) -> None:
    """A service may have forked: the child has the worker's files open, and its number must die all the same."""
    worker = start_worker()
    worker.ask("begin", [1])
    child = worker.ask("fork_and_wait")
    try:
        worker.kill()
        # Until the child has run what it does first after a fork, it holds its parent's lock too.
        wait_until(lambda: begin(journal, 1) == [Lookup(IdStatus.INTERRUPTED, None, 1, 1)], what="its number to die")
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_full_disk_is_said_and_what_was_told_before_it_holds(start_worker: StartWorker, journal: Journal) -> None:
    worker = start_worker()
    assert worker.ask("begin", [1, 2]) == ["NEW", "NEW"]
    worker.ask("fill_disk")
    for first in range(10, 100_000, 500):
        counts = list(range(first, first + 500))
        said = worker.ask("begin", counts)
        if said[0] == "JournalUnavailable":
            break
        assert said == ["NEW"] * 500
    assert "cannot take more rows: File too large" in said[1]
    assert first > 500
    # What has room is still told, to whoever it is.
    assert worker.ask("finish", [12]) == "done"
    assert begin(journal, 12, 11) == [Lookup(IdStatus.FINISHED), Lookup(IdStatus.RUNNING, None, 1, 0)]
    worker.ask("empty_disk")
    assert worker.ask("finish", [1, 2]) == "done"
    assert worker.ask("begin", counts) == ["NEW"] * 500
    assert_known(journal, [1, 2], {IdStatus.FINISHED})
    assert_known(journal, counts, {IdStatus.RUNNING})


def test_workers_that_open_a_new_journal_at_once_open_the_same(path: Path, start_worker: StartWorker) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as pool:
        workers = list(pool.map(lambda _: start_worker(), range(6)))
    assert sorted(worker.ask("begin", [1])[0] for worker in workers) == ["NEW", *["RUNNING"] * 5]
    wait_until(lambda: path.exists())
