"""has_blocked(): a thread that got no processor has not blocked, whatever it was about to do."""

from __future__ import annotations

import threading
import time

import pytest
from waiting import wait_until

from servicebus.runtime.thread_times import ThreadTimes, has_blocked, times_of

BEFORE = ThreadTimes(at=10.0, ran_s=3.0, starved_s=2.0)


@pytest.mark.parametrize(
    ("after", "is_blocked"),
    [
        (ThreadTimes(10.1, 3.1, 2.0, is_ready=True), True),
        (ThreadTimes(10.5, 3.08, 2.42, is_ready=True), True),
        (ThreadTimes(10.1, 3.01, 2.0), True),
        (ThreadTimes(10.1, 3.0, 2.03), False),
        (ThreadTimes(10.1, 3.0, 2.0, is_ready=True), False),
        (ThreadTimes(10.16, 3.0, 2.0), False),
    ],
    ids=["computes", "computes-on-a-busy-machine", "waits", "was-starved", "is-starved-now", "all-were-starved"],
)
def test_what_took_the_time_is_told_from_its_share(after: ThreadTimes, is_blocked: bool) -> None:
    assert has_blocked(BEFORE, after, 0.1) is is_blocked


def test_a_thread_that_waits_is_not_ready_and_one_that_computes_has_run() -> None:
    go_on, is_over = threading.Event(), threading.Event()

    def run() -> None:
        go_on.wait(60)
        while not is_over.is_set():
            pass

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: not times_of(thread.native_id).is_ready)
    before = times_of(thread.native_id)
    assert before.at <= time.monotonic()
    go_on.set()
    wait_until(lambda: times_of(thread.native_id).ran_s > before.ran_s + 0.01)
    is_over.set()
    thread.join()


def test_of_a_thread_that_is_gone_nothing_is_told() -> None:
    found = times_of(None)
    assert (found.ran_s, found.starved_s, found.is_ready) == (0.0, 0.0, False)
    assert has_blocked(found._replace(at=0.0), found._replace(at=0.1), 0.1), "nor that it was starved"
