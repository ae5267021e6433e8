"""Attendance: a consumer that is missing among those of several workers."""

from __future__ import annotations

from servicebus.runtime.attendance import Attendance


def test_lanes_that_are_attended_alike_are_fine() -> None:
    attendance = Attendance()
    for _ in range(3):
        assert attendance.look({"calls": 2, "control": 2, "messages": 2}) == frozenset()
    assert not attendance.is_in_doubt


def test_a_lane_that_stays_short_is_named_at_the_second_look() -> None:
    attendance = Attendance()
    assert attendance.look({"calls": 2, "control": 1, "messages": 2}) == frozenset()
    assert attendance.is_in_doubt
    assert attendance.look({"calls": 2, "control": 1, "messages": 2}) == {"control"}


def test_a_worker_that_is_just_starting_is_not_missed() -> None:
    attendance = Attendance()
    attendance.look({"calls": 2, "control": 2, "messages": 1})
    assert attendance.look({"calls": 2, "control": 2, "messages": 2}) == frozenset()
    attendance.look({"calls": 2, "control": 1, "messages": 2})
    assert attendance.look({"calls": 1, "control": 2, "messages": 2}) == frozenset()


def test_nothing_to_compare_is_nothing_short() -> None:
    assert Attendance().look({}) == frozenset()
