from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from servicebus.transport.logbacklog import Backlog
from servicebus.wire.logrecord import Record


def record(level: int = logging.INFO, message: str = "text") -> Record:
    return Record(0.0, level, logging.getLevelName(level), "app", "main", message)


def test_when_it_is_full_of_chatter_there_is_still_room_for_what_matters() -> None:
    backlog = Backlog(max_records=10, max_bytes=1 << 20)
    assert [backlog.put(record()) for _ in range(12)] == [True] * 10 + [False] * 2
    assert [backlog.put(record(logging.WARNING)) for _ in range(12)] == [True] * 10 + [False] * 2
    assert (backlog.accepted, backlog.dropped, len(backlog)) == (20, 4, 20)


def test_long_records_are_bounded_by_their_bytes() -> None:
    backlog = Backlog(max_records=1000, max_bytes=10_000)
    long = record(message="x" * 6000)
    assert [backlog.put(long) for _ in range(3)] == [True, True, False]
    backlog.take(1)
    assert backlog.put(long)


def test_drops_at_the_end_are_told_by_an_empty_batch() -> None:
    backlog = Backlog(max_records=1, max_bytes=1 << 20)
    backlog.put(record())
    backlog.put(record())
    assert backlog.take(1000) == (2, [record()])
    assert not backlog.has_news
    backlog.count_dropped()
    assert backlog.has_news
    assert backlog.take(1000) == (4, [])
    assert not backlog.has_news


@given(
    st.lists(st.tuples(st.sampled_from([logging.INFO, logging.ERROR]), st.integers(0, 400)) | st.none(), max_size=80)
)
def test_every_record_has_its_number_once_and_the_gaps_are_the_drops(steps: list[tuple[int, int] | None]) -> None:
    """``None`` takes a batch, the others put a record: accepted plus dropped is what the numbers end with."""
    backlog = Backlog(max_records=4, max_bytes=1500)
    taken: list[int] = []
    for step in steps + [None] * 40:
        if step is not None:
            backlog.put(record(step[0], "x" * step[1]))
            continue
        first, records = backlog.take(300)
        taken += range(first, first + len(records))
    assert taken == sorted(set(taken))
    assert len(taken) == backlog.accepted
    assert backlog.next_number - 1 == backlog.accepted + backlog.dropped
