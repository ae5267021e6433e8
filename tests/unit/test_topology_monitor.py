"""ConsumerCounts: a consumer that is missing among those of several workers."""

from __future__ import annotations

from servicebus.runtime.topology_monitor import ConsumerCounts


def test_lanes_that_are_attended_alike_are_fine() -> None:
    counts = ConsumerCounts()
    for _ in range(3):
        assert counts.look({"calls": 2, "control": 2, "messages": 2}) == frozenset()
    assert not counts.is_in_doubt


def test_a_queue_that_stays_short_of_consumers_is_named_at_the_second_look() -> None:
    counts = ConsumerCounts()
    assert counts.look({"calls": 2, "control": 1, "messages": 2}) == frozenset()
    assert counts.is_in_doubt
    assert counts.look({"calls": 2, "control": 1, "messages": 2}) == {"control"}


def test_a_worker_that_is_just_starting_is_not_missed() -> None:
    counts = ConsumerCounts()
    counts.look({"calls": 2, "control": 2, "messages": 1})
    assert counts.look({"calls": 2, "control": 2, "messages": 2}) == frozenset()
    counts.look({"calls": 2, "control": 1, "messages": 2})
    assert counts.look({"calls": 1, "control": 2, "messages": 2}) == frozenset()


def test_nothing_to_compare_is_nothing_short() -> None:
    assert ConsumerCounts().look({}) == frozenset()
