"""The pure parts of the shared journal: rows as bytes, and the state that they add up to."""

from __future__ import annotations

import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from servicebus.runtime.journal import Limits, Release, snapshot
from servicebus.runtime.journal.ledger import COMPACT_IDS, AnswerIndex, Ledger
from servicebus.runtime.journal.records import (
    PACK,
    PLACE_BYTES,
    Compaction,
    RowKind,
    answer_in,
    number_of,
    pack_finish,
    place_of,
    segment_and_at,
    unpack,
    unpack_place,
)
from servicebus.runtime.journal.snapshot import Header
from servicebus.runtime.journal.state import CHUNK_IDS, State

SENDER = 0x00C0FFEE << 64
numbers = st.builds(lambda high, low: high << 64 | low, st.integers(0, 2**64 - 1), st.integers(1, 10**18 - 1))
seconds = st.integers(0, 2**32 - 1)
owners = st.integers(1, 2**63 - 1)


def test_an_id_is_its_incarnation_and_its_count() -> None:
    assert number_of("00000000000000ff-4711") == 255 << 64 | 4711


class TestRecords:
    @given(owners, st.lists(st.tuples(numbers, seconds, seconds), max_size=5))
    def test_begins_come_back(self, owner: int, starts: list[tuple[int, int, int]]) -> None:
        assert unpack(RowKind.BEGIN, PACK[RowKind.BEGIN](owner, starts)) == (owner, starts)

    @given(owners, seconds, seconds, st.dictionaries(numbers, st.none() | st.binary(max_size=50), max_size=5))
    def test_answers_come_back_each_to_its_id(
        self, owner: int, now: int, until: int, ends: dict[int, bytes | None]
    ) -> None:
        data = b"".join(pack_finish(owner, now, until, list(ends.items())))
        sizes = [(number, -1 if answer is None else len(answer)) for number, answer in ends.items()]
        assert unpack(RowKind.FINISH, data) == (owner, now, until, sizes)
        assert {number: answer_in(data, number) for number in ends} == ends
        assert answer_in(data, 0) is None

    @given(st.integers(1, 2**63), st.integers(0, 2**32 - 1))
    def test_a_finish_without_its_answers_has_the_place_of_them(self, first: int, at: int) -> None:
        row, answers = pack_finish(1, 2, 3, [(7, b"answer"), (8, None)])
        data = row + place_of(first, at).to_bytes(PLACE_BYTES, "little")
        assert segment_and_at(unpack_place(data)) == (first, at)
        assert unpack(RowKind.FINISH, data) == unpack(RowKind.FINISH, row + answers)
        assert len(data) == 20 + 2 * 20 + 12

    @given(owners)
    def test_owners_come_back(self, owner: int) -> None:
        assert unpack(RowKind.OWNER, PACK[RowKind.OWNER](owner)) == (owner,)

    @given(owners, st.sampled_from(Release), st.lists(numbers, max_size=5))
    def test_releases_come_back(self, owner: int, why: Release, released: list[int]) -> None:
        assert unpack(RowKind.RELEASE, PACK[RowKind.RELEASE](owner, why, released)) == (owner, why, released)

    @given(owners, st.lists(st.tuples(numbers, owners, seconds, seconds), max_size=5))
    def test_take_overs_come_back(self, owner: int, orphaned: list[tuple[int, int, int, int]]) -> None:
        assert unpack(RowKind.TAKE_OVER, PACK[RowKind.TAKE_OVER](owner, orphaned)) == (owner, orphaned)

    def test_compactions_come_back(self) -> None:
        compaction = Compaction(1, 2, 3, 4, 5, 6)
        assert unpack(RowKind.COMPACT, PACK[RowKind.COMPACT](compaction)) == (compaction,)


class TestAnswerIndex:
    def test_an_answer_that_nobody_may_ask_for_any_more_does_not_go_early(self) -> None:
        """A call's id is good for minutes, so an answer that makes room after an hour costs nothing."""
        index = AnswerIndex(max_bytes=10, keep_s=3600)
        index.add(1, "here", now=0, until=100, ends=[(7, 5), (8, -1)])
        assert (index.place_of(7), index.place_of(8), index.first_place) == ("here", None, "here")
        assert index.overdue(100) == (0, 0)
        assert index.overdue(101) == (2, 0)
        index.drop_before(2)
        assert (index.place_of(7), index.size, index.count, index.first_place) == (None, 0, 0, None)

    def test_what_is_too_much_goes_oldest_first_and_counts_as_early(self) -> None:
        index = AnswerIndex(max_bytes=3200, keep_s=3600)
        for seq in range(1, 51):
            index.add(seq, 8 * seq, now=seq, until=10**6, ends=[(seq, 100)])
        keep_from, early = index.overdue(51)
        assert (keep_from, early) == (19, 18)
        index.drop_before(keep_from)
        assert (index.size, index.count) == (3200, 32)
        assert [seq for seq in range(1, 51) if index.place_of(seq) == 8 * seq] == list(range(19, 51))
        assert index.first_place == 8 * 19


def finished(ledger: Ledger, counts: range, expires: int = 1000) -> None:
    taken = [SENDER | count for count in counts]
    ledger.begin(1, [(number, expires, 1) for number in taken])
    ledger.finish(1, [(number, -1) for number in taken])


def count_finished(ledger: Ledger) -> int:
    return sum((value >> 64).bit_count() for value in ledger.state.chunks.values())


class TestLedger:
    def test_it_is_compacted_after_so_many_ids_or_so_much_time_in_either_direction(self) -> None:
        ledger = Ledger(Limits())
        ledger.state.compacted_at = 1000
        due = {}
        for pending in (0, 1, COMPACT_IDS - 1, COMPACT_IDS):
            ledger.pending = pending
            due[pending] = [ledger.is_compaction_due(now) for now in (990, 991, 1000, 1009, 1010)]
        sometimes = [True, False, False, False, True]
        assert due == {0: [False] * 5, 1: sometimes, COMPACT_IDS - 1: sometimes, COMPACT_IDS: [True] * 5}

    def test_two_who_take_over_at_once_are_told_apart_by_the_order_of_their_rows(self) -> None:
        ledger = Ledger(Limits())
        ledger.begin(1, [(SENDER, 1000, 1)])
        ledger.take_over(2, [(SENDER, 1, 1000, 1)])
        ledger.take_over(3, [(SENDER, 1, 1000, 1)])
        assert ledger.entries[SENDER] == (2, 2, 1, 1000, 1)

    def test_what_another_worker_has_by_now_is_not_finished_by_the_former_one(self) -> None:
        ledger = Ledger(Limits())
        ledger.begin(1, [(SENDER | 1, 1000, 1)])
        ledger.take_over(2, [(SENDER | 1, 1, 1000, 1)])
        ledger.finish(1, [(SENDER | 1, -1)])
        assert not ledger.is_finished(SENDER | 1)
        assert ledger.entries[SENDER | 1] == (2, 2, 1, 1000, 1)

    def test_an_answer_may_take_half_of_the_room_and_no_more(self) -> None:
        ledger = Ledger(Limits(max_answer_bytes=20))
        _, _, ends, sizes = ledger.ending([(1, b"x" * 10), (2, b"x" * 11), (3, None)])
        assert ends == [(1, b"x" * 10), (2, None), (3, None)]
        assert sizes == [(1, 10), (2, -1), (3, -1)]
        assert ledger.large_answers == 1

    def test_a_hundred_thousand_ids_of_one_sender_fit_in_a_few_kilobytes(self) -> None:
        """So ten million do in a few megabytes; benchmarks/journal.py measures those."""
        ledger = Ledger(Limits())
        finished(ledger, range(1, 513))
        tracemalloc.start()
        try:
            for first in range(513, 100_000, 512):
                finished(ledger, range(first, first + 512))
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert grown < 100_000
        assert len(ledger.state.chunks) == 100_352 // CHUNK_IDS + 1
        assert count_finished(ledger) == 100_352
        assert ledger.is_finished(SENDER | 99_999)
        assert not ledger.is_finished(SENDER | 100_353)

    def test_too_many_senders_push_out_those_that_were_signed_first_and_are_counted(self) -> None:
        """Not those that expire first: a flood of messages would push out all calls, and calls would be refused."""
        ledger = Ledger(Limits(max_entries=10))
        for sender in range(20):
            number = sender << 64 | 1
            ledger.begin(1, [(number, 20_000 - sender, 5000 + sender)])
            ledger.finish(1, [(number, -1)])
        ledger.begin(1, [(7, 10_000, 1)])
        ledger.compact(ledger.plan(1000))
        assert [sender for sender in range(20) if ledger.is_finished(sender << 64 | 1)] == list(range(11, 20))
        assert (ledger.state.forgotten, ledger.state.forgotten_until) == (11, 5010)
        assert ledger.entries == {7: (1, 1, 0, 10_000, 1)}, "what is not finished stays"
        assert ledger.plan(1001).forgotten_until == 5010

    def test_what_does_not_say_when_it_was_signed_goes_before_what_does_and_by_its_expiry(self) -> None:
        """Calls of version 1 take a chunk each, and cannot be refused: they must not push messages out."""
        ledger = Ledger(Limits(max_entries=10))
        for sender in range(20):
            ledger.begin(1, [(sender << 64 | 1, 10_000 + 2 * sender, 5000 * (sender < 8))])
            ledger.finish(1, [(sender << 64 | 1, -1)])
        ledger.compact(ledger.plan(1000))
        kept = [sender for sender in range(20) if ledger.is_finished(sender << 64 | 1)]
        assert kept == [*range(8), 18, 19]
        assert (ledger.state.forgotten, ledger.state.forgotten_until) == (10, 0)

    def test_what_was_released_keeps_the_expiry_that_it_was_begun_with(self) -> None:
        """Else a copy that is good for longer than the next one would be run again when that is forgotten."""
        ledger = Ledger(Limits())
        for why in (Release.NOT_RUN, Release.DEAD_LETTERED):
            ledger.begin(1, [(8, 5000, 70)])
            ledger.release(1, why, [8])
            assert (ledger.entries, ledger.is_finished(8)) == ({}, False)
            ledger.begin(1, [(8, 50, 7)])
            ledger.finish(1, [(8, -1)])
            ledger.compact(ledger.plan(0))
            assert ledger.state.chunks == {0: 1 << 8 + 64 | 70 << 32 | 5000}
            ledger = Ledger(Limits())

    def test_what_is_over_goes_without_being_counted(self) -> None:
        ledger = Ledger(Limits())
        finished(ledger, range(1, 100), expires=1000)
        finished(ledger, range(100_000, 100_100), expires=100_000)
        ledger.begin(1, [(1, 1000, 1), (2, 100_000, 1), (3, 1000, 1)])
        ledger.release(1, Release.FAILED, [1, 2])
        ledger.compact(ledger.plan(5000))
        assert (count_finished(ledger), ledger.state.forgotten, list(ledger.entries)) == (100, 0, [2, 3]), (
            "what waits goes, and what is held stays"
        )

    def test_a_chunk_is_remembered_as_long_as_the_last_of_its_ids(self) -> None:
        ledger = Ledger(Limits())
        finished(ledger, range(1, 2), expires=1000)
        ledger.compact(ledger.plan(500))
        finished(ledger, range(2, 3), expires=50_000)
        ledger.compact(ledger.plan(20_000))
        assert ledger.is_finished(SENDER | 1)
        ledger.compact(ledger.plan(53_700))
        assert not ledger.state.chunks

    def test_two_who_plan_at_once_forget_no_more_than_one(self) -> None:
        """Nobody keeps others from writing while it plans; each has the other's row before or behind its own."""
        ledger = Ledger(Limits(max_entries=10))
        for sender in range(20):
            number = sender << 64 | 1
            ledger.begin(1, [(number, 20_000, 5000 + sender)])
            ledger.finish(1, [(number, -1)])
        early, late = ledger.plan(1000), ledger.plan(1001)
        ledger.compact(late)
        known = ledger.state.copy()
        ledger.compact(early)
        assert ledger.state == replace(known, compacted_at=1000)
        assert (ledger.state.forgotten, ledger.state.forgotten_until) == (10, 5009)


Event = tuple[str, int, int, int]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "finish", "release", "take over", "compact"]),
        st.integers(1, 3),
        st.sampled_from([1, 2, 3, 5000, 5001, SENDER | 1, SENDER | 2]),
        st.integers(1, 3000),
    ),
    max_size=60,
)


@given(EVENTS, st.integers(0, 60))
def test_a_snapshot_and_the_rows_since_give_what_all_rows_give(events: list[Event], taken_at: int) -> None:
    """Whoever starts later knows the same: all forget the same, and what the snapshot has nobody else changes."""
    limits = Limits(max_entries=3)
    first, late = Ledger(limits), None
    for seq, (what, owner, number, time) in enumerate(events, 1):
        compaction = first.plan(time)
        for ledger in filter(None, (first, late)):
            if what == "compact":
                ledger.compact(compaction)
            else:
                _tell(ledger, what, owner, number, time)
        if seq == taken_at:
            late = Ledger(limits, seq, _written_and_read(seq, first.state.copy()))
    if late is not None:
        assert late.state == first.state


def _written_and_read(seq: int, state: State) -> State:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot"
        header = Header(b"i" * 16, seq, seq, 64)
        snapshot.write(path, header, state, lambda: True, lambda: None)
        assert snapshot.read_header(path) == header
        found = snapshot.read(path)
        assert found == (header, state)
        return found[1]


def _tell(ledger: Ledger, what: str, owner: int, number: int, time: int) -> None:
    if what == "begin":
        ledger.begin(owner, [(number, time, time % 7)])
    elif what == "finish":
        ledger.finish(owner, [(number, -1)])
    elif what == "release":
        ledger.release(owner, list(Release)[time % 3], [number])
    else:
        ledger.take_over(owner, [(number, time % 3 + 1, time, time % 7)])
