"""Who waits for a full service, who is let in, and who makes room for others."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from servicebus.runtime.overflow_buffer import _BURST, _LONG_S, _PER_S, OverflowBuffer

WINDOW = 40
MOST = WINDOW // 4


@dataclass(eq=False)
class Service:
    room: int


@dataclass(eq=False)
class Job:
    waits_for: Service | None
    number: int = 0


def jobs(service: Service | None, count: int, first: int = 0) -> list[Job]:
    return [Job(service, first + number) for number in range(count)]


@dataclass
class Door:
    """A buffer and its clock; what is admitted takes up room."""

    buffer: OverflowBuffer = field(default_factory=lambda: OverflowBuffer(WINDOW))
    now: float = 100.0

    def admit(self, *come: Job) -> list[int]:
        admitted = self.buffer.admit(come, self.now)  # type: ignore[arg-type]
        for job in admitted:
            if job.waits_for is not None:
                job.waits_for.room -= 1  # type: ignore[misc]  # a stand-in
        return [job.number for job in admitted]  # type: ignore[attr-defined]

    def take_excess(self, after_s: float = 0.0) -> list[int]:
        self.now += after_s
        return [job.number for job in self.buffer.take_excess(self.now)]  # type: ignore[attr-defined]


def test_who_finds_room_goes_in_and_the_rest_waits_in_order() -> None:
    door, service = Door(), Service(room=2)
    assert door.admit(*jobs(service, 5)) == [0, 1]
    service.room = 1
    assert door.admit(Job(service, 9)) == [2]
    service.room = 10
    assert door.admit() == [3, 4, 9]
    assert len(door.buffer) == 0


def test_who_waits_for_nothing_is_not_held_up() -> None:
    door, full = Door(), Service(room=0)
    assert door.admit(*jobs(full, 3), Job(None, 7), Job(Service(room=1), 8)) == [7, 8]


def test_none_is_deferred_while_there_is_window_left() -> None:
    door = Door()
    door.admit(*jobs(Service(room=0), MOST))
    assert door.take_excess(after_s=60) == []


def test_where_one_has_waited_for_long_the_last_are_deferred() -> None:
    door = Door()
    door.admit(*jobs(Service(room=0), MOST + 3))
    assert door.take_excess() == []
    assert door.take_excess(after_s=_LONG_S) == [MOST + 2, MOST + 1, MOST]
    assert door.take_excess() == []


def test_those_that_come_later_are_deferred_at_once() -> None:
    door, service = Door(), Service(room=0)
    door.admit(*jobs(service, MOST))
    door.take_excess(after_s=_LONG_S)
    door.admit(*jobs(service, 2, first=50))
    assert door.take_excess() == [51, 50]


def test_behind_a_service_that_is_merely_busy_nobody_does() -> None:
    door, service = Door(), Service(room=0)
    for _ in range(20):
        door.admit(*jobs(service, 2 * MOST))
        assert door.take_excess(after_s=_LONG_S / 2) == []
        service.room = 2 * MOST
        assert len(door.admit()) == 2 * MOST


def test_a_burst_is_deferred_and_then_a_trickle() -> None:
    door = Door()
    door.take_excess()
    door.admit(*jobs(Service(room=0), MOST + _BURST + 1000))
    assert len(door.take_excess(after_s=_LONG_S)) == _BURST
    assert len(door.take_excess(after_s=1.0)) == _PER_S
    assert sum(len(door.take_excess(after_s=0.25)) for _ in range(40)) == pytest.approx(10 * _PER_S, abs=1)


def test_what_waited_on_a_lost_connection_is_forgotten() -> None:
    door, service = Door(), Service(room=0)
    door.admit(*jobs(service, 3))
    door.buffer.clear()
    service.room = 5
    assert door.admit() == []
