"""The simulated storm: nobody is lost, no broker is faster than it is, and the real backoff decides who comes when."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.suite.storm import Scene, Storm, simulate

CALM = Scene(workers=3, senders=2, handshakes_per_s=1000.0, worker_setup=4.0, sender_setup=1.0)


def changed(**values: Any) -> Scene:
    return replace(CALM, **values)


def back_s(storm: Storm, share: float) -> float:
    seconds = storm.back_share_at(share)
    assert seconds is not None
    return seconds


def test_a_few_are_back_as_soon_as_they_try_again() -> None:
    storm = simulate(CALM)

    assert storm.missing == 0
    assert back_s(storm, 1.0) < 1.2  # the longest pause of those that were refused is a second


def test_everybody_is_back_and_not_before_the_work_can_be_done() -> None:
    storm = simulate(changed(workers=200, senders=300, handshakes_per_s=100.0))

    assert storm.missing == 0
    assert back_s(storm, 1.0) >= storm.scene.shortest_s
    assert storm.attempts_after >= 2 * 200 + 300


def test_what_does_not_fit_into_the_kernels_queue_is_sent_again() -> None:
    crowded = changed(workers=0, senders=500, handshakes_per_s=50.0, backlog=1)

    storm = simulate(crowded)

    assert storm.missing == 0
    assert storm.failed["unreachable"] > 0


def test_attempts_that_take_too_long_are_given_up() -> None:
    storm = simulate(changed(workers=0, senders=200, handshakes_per_s=2.0, backlog=1000, limit_s=60.0))

    assert storm.failed["silent"] > 0
    assert storm.missing > 0


def test_longer_pauses_mean_fewer_attempts() -> None:
    crowd = changed(workers=300, senders=300, handshakes_per_s=50.0)

    assert simulate(changed(**{**crowd.__dict__, "cap_s": 15.0})).attempts_after < simulate(crowd).attempts_after


def test_before_the_return_nobody_is_back() -> None:
    storm = simulate(changed(down_s=30.0))

    assert min(storm.back_at) > 0.0
    assert any(second < 0 for second in storm.attempts)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_seed_gives_the_same_storm(seed: int) -> None:
    scene = changed(workers=50, senders=50, handshakes_per_s=100.0, seed=seed)

    assert simulate(scene).back_at == simulate(scene).back_at
