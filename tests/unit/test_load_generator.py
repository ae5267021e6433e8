"""The load of a bench or a drill: what is under way at a time, what is begun when, and what is counted where."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from waiting import wait_until

from servicebus.errors import NodeUnavailable
from servicebus.operations.load import LoadFigures, LoadGenerator


class Peer:
    """Takes requests, and ends them when it is told."""

    def __init__(self) -> None:
        self.waiting: list[Future[Any]] = []
        self.begun = 0
        self.most = 0
        self.lock = threading.Lock()

    def begin(self) -> Future[Any]:
        future: Future[Any] = Future()
        with self.lock:
            self.begun += 1
            self.waiting.append(future)
            self.most = max(self.most, len(self.waiting))
        return future

    def end(self, error: BaseException | None = None) -> None:
        with self.lock:
            ended, self.waiting = self.waiting, []
        for future in ended:
            if error is None:
                future.set_result(1)
            else:
                future.set_exception(error)


@contextmanager
def running(peer: Peer, **how: Any) -> Iterator[LoadGenerator]:
    load = LoadGenerator({"N": peer.begin}, **{"in_flight": 3, "limit_s": 30.0, **how})
    load.start("one")
    try:
        yield load
    finally:
        peer_is_over = threading.Event()

        def end_all() -> None:
            while not peer_is_over.wait(0.001):
                peer.end()

        ending = threading.Thread(target=end_all)
        ending.start()
        load.stop()
        peer_is_over.set()
        ending.join()


def test_so_many_are_under_way_and_each_that_ends_makes_room() -> None:
    peer = Peer()
    with running(peer) as load:
        wait_until(lambda: peer.begun == 3)
        peer.end()
        wait_until(lambda: peer.begun == 6)
        assert peer.most == 3
        wait_until(lambda: load.figures["one"]["N"].latencies.count == 3)
    assert load.figures["one"]["N"].requests == peer.begun and load.figures["one"]["N"].failed == 0


def test_a_request_counts_in_the_phase_in_which_it_was_begun() -> None:
    peer = Peer()
    with running(peer, in_flight=1) as load:
        wait_until(lambda: peer.begun == 1)
        load.enter("two")
        peer.end()
        wait_until(lambda: peer.begun == 2)
        peer.end(NodeUnavailable("N.math.add", [], "away"))
        wait_until(lambda: load.figures["two"]["N"].failed == 1)
        assert load.figures["one"]["N"].latencies.count == 1
        assert load.figures["two"]["N"].errors == {"NodeUnavailable": 1}


def test_what_cannot_be_begun_has_failed_and_is_not_tried_without_a_pause() -> None:
    tries: list[float] = []

    def begin() -> Future[Any]:
        tries.append(time.perf_counter())
        raise ValueError("of the\x1b[31m test")

    load = LoadGenerator({"N": begin}, in_flight=1, limit_s=1.0)
    load.start("one")
    wait_until(lambda: len(tries) >= 3)
    load.stop()
    figures = load.figures["one"]["N"]
    assert figures.failed == len(tries) and figures.texts == [r"ValueError: of the\x1b[31m test"]
    assert tries[2] - tries[0] >= 0.1


def test_with_a_rate_a_stall_shows_in_all_that_it_has_delayed() -> None:
    peer = Peer()
    with running(peer, in_flight=1, per_s=1000.0) as load:
        wait_until(lambda: peer.begun == 1)
        began = time.perf_counter()
        wait_until(lambda: time.perf_counter() - began > 0.3)
        peer.end()
        # Some three hundred were due meanwhile; each counts from then, not from when there was room for it.

        def has_caught_up() -> bool:
            peer.end()
            return peer.begun > 50

        wait_until(has_caught_up)
    latencies = load.figures["one"]["N"].latencies
    assert latencies.percentile(1) > 0.1


def test_with_a_rate_no_more_are_begun_than_are_due() -> None:
    done: list[float] = []

    def begin() -> Future[Any]:
        done.append(time.perf_counter())
        future: Future[Any] = Future()
        future.set_result(None)
        return future

    load = LoadGenerator({"A": begin, "B": begin}, in_flight=8, per_s=20.0, limit_s=1.0)
    began = time.perf_counter()
    load.start("one")
    wait_until(lambda: len(done) >= 8)
    load.stop()
    assert len(done) <= 2 * (20 * (time.perf_counter() - began) + 1)


def test_what_does_not_end_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.operations.load._MARGIN_S", 0.0)
    peer = Peer()
    load = LoadGenerator({"N": peer.begin}, in_flight=2, limit_s=0.05)
    load.start("one")
    wait_until(lambda: peer.begun == 2)
    load.stop()
    load.stop()
    assert load.figures["one"]["N"].errors == {"TimeoutError": 2}


def test_figures_of_parts_add_up_and_keep_a_few_texts() -> None:
    one, other = LoadFigures(), LoadFigures()
    one.latencies.add(0.001)
    for number in range(5):
        other.add_error(ValueError(str(number)))
    other.add_error(KeyError("k" * 1000))
    one.merge(other)
    report = one.report()
    assert (report["count"], report["failed"], report["errors"]) == (1, 6, {"ValueError": 5, "KeyError": 1})
    assert report["texts"] == ["ValueError: 0", "ValueError: 1", "ValueError: 2"]


def test_one_that_was_never_started_is_stopped() -> None:
    LoadGenerator({}, in_flight=1, limit_s=1.0).stop()
