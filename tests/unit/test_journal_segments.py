"""The rows of the shared log in mapped files: what was appended is read, what was not whole is not believed."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servicebus.runtime.journal import checkpointer, records, segments
from servicebus.runtime.journal import files as journal_files
from servicebus.runtime.journal import log as journal_log
from servicebus.runtime.journal.checkpointer import drop
from servicebus.runtime.journal.interface import Damaged, JournalUnavailable
from servicebus.runtime.journal.log import Log, Row
from servicebus.runtime.journal.records import Compaction, RowKind
from servicebus.runtime.journal.segments import FIRST_AT, BadSegment, Stream
from servicebus.runtime.journal.snapshot import Header
from servicebus.runtime.journal.state import State

NO_COMPACTION = records.PACK[RowKind.COMPACT](Compaction(1, 0, 0, 0, 0, 0))
ROWS_BYTES, ANSWERS_BYTES = 4096, 8192


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that are full soon."""
    monkeypatch.setattr(journal_files, "_ROWS_BYTES", ROWS_BYTES)
    monkeypatch.setattr(journal_files, "_ANSWERS_BYTES", ANSWERS_BYTES)


pytestmark = pytest.mark.usefixtures("small")


@contextlib.contextmanager
def opened(folder: Path, count: int = 1, *, is_alone: bool = True) -> Iterator[list[Log]]:
    logs = [Log(folder / "j", 0.05, is_alone=is_alone and number == 0) for number in range(count)]
    try:
        yield logs
    finally:
        for log in logs:
            log.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def answers(number: int, *texts: bytes) -> bytes:
    return b"".join(records.pack_finish(1, 2, 3, [(number + index, text) for index, text in enumerate(texts)]))


def head_of(data: bytes) -> bytes:
    *_, ends = records.unpack(RowKind.FINISH, data)
    head, _ = records.pack_finish(1, 2, 3, [(number, None) for number, _ in ends])
    return data[: len(head)]


def append(log: Log, *rows: tuple[int, bytes]) -> int:
    """With *rows* as ``whole()`` returns them."""
    heads = [head_of(data) if kind == RowKind.ANSWERS else data for kind, data in rows]
    return log.append(*[(kind, head, data[len(head) :]) for (kind, data), head in zip(rows, heads, strict=True)])


def known(row: Row) -> Row:
    """A row as whoever appended it would compare it: without answers, and without the place where they are."""
    seq, kind, data = row
    return (seq, kind, head_of(data)) if kind == RowKind.ANSWERS else row


def whole(log: Log, row: Row) -> tuple[int, int, bytes | None]:
    """A row that was read, as it was appended; None if its answers are gone."""
    seq, kind, data = row
    return (seq, kind, log.answer_row(records.unpack_place(data))) if kind == RowKind.ANSWERS else row


def rows_since(log: Log) -> list[Row]:
    """All since the last snapshot."""
    return log.load()[2]


def save(log: Log) -> int:
    """A row, and a snapshot that has taken it in; gives its number."""
    seq = append(log, (RowKind.COMPACT, NO_COMPACTION))
    assert log._end is not None
    log.checkpointer.hand_over(Header(log._identity, seq, log._end.rows.first, log._end.at), State())
    log.checkpointer.checkpoint()
    return seq


def files(folder: Path, stream: str) -> list[int]:
    return sorted(int(file.name.rpartition("-")[2]) for file in folder.glob(f"j.{stream}-*"))


def reboot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = folder / "boot"
    boot.write_text(f"another {os.urandom(8).hex()}")
    monkeypatch.setattr(segments, "_BOOT", boot)


class TestSegment:
    @pytest.fixture
    def stream(self, folder: Path) -> Stream:
        return Stream(folder / "s-", b"i" * 16, ROWS_BYTES)

    def test_a_row_is_found_where_it_was_put_and_nothing_is_behind_it(self, stream: Stream) -> None:
        segment = stream.create(7)
        end = segment.put(FIRST_AT, 7, 3, b"data")
        found = segment.find(FIRST_AT)
        assert found is not None
        assert (found[:2], segment.data(found[2], found[3]), found[4]) == ((7, 3), b"data", end)
        assert (end % 8, segment.find(end)) == (0, None)
        again = stream.open(7)
        assert again.find(FIRST_AT) == found

    def test_what_comes_after_a_row_can_be_made_none(self, stream: Stream) -> None:
        segment = stream.create(7)
        ends = [FIRST_AT]
        for seq in (7, 9, 12):
            ends.append(segment.put(ends[-1], seq, 3, b"data"))
        segment.end_after(20)
        segment.end_after(10)
        assert [segment.find(at) is not None for at in ends] == [True, True, False, False]
        segment.end_after(0)
        assert segment.find(FIRST_AT) is None

    @given(st.integers(0, 39), st.integers(0, 7))
    def test_a_row_with_one_wrong_bit_is_none(self, byte: int, bit: int) -> None:
        with tempfile.TemporaryDirectory() as name:
            segment = Stream(Path(name) / "s-", b"i" * 16, ROWS_BYTES).create(1)
            end = segment.put(FIRST_AT, 1, 3, b"some data, as it may be.")
            assert end == FIRST_AT + 40
            segment._memory[FIRST_AT + byte] ^= 1 << bit
            assert segment.find(FIRST_AT) is None

    def test_a_row_that_is_larger_than_a_segment_gets_one_of_its_own(self, stream: Stream) -> None:
        data = b"x" * 100_000
        assert stream.create(1, len(data)).put(FIRST_AT, 1, 1, data)
        assert not stream.create(2).put(FIRST_AT, 2, 1, b"x" * (ROWS_BYTES - FIRST_AT))

    def test_a_segment_that_is_there_is_made_larger_and_not_replaced_as_others_may_have_mapped_it(
        self, stream: Stream
    ) -> None:
        small = stream.create(1)
        large = stream.create(1, 100_000)
        assert (small.size, large.size >= 100_000) == (ROWS_BYTES, True)
        large.put(FIRST_AT, 1, 1, b"x")
        assert small.find(FIRST_AT) is not None

    def test_files_are_nobody_elses_business_and_have_their_room(self, stream: Stream, folder: Path) -> None:
        stream.create(12)
        found = (folder / "s-12").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_size, found.st_blocks * 512 >= ROWS_BYTES) == (
            0o600,
            ROWS_BYTES,
            True,
        )
        assert stream.firsts() == [12]

    @pytest.mark.parametrize("content", [b"", b"x" * 10, b"x" * 5000])
    def test_what_is_no_segment_of_this_stream_is_said(self, stream: Stream, folder: Path, content: bytes) -> None:
        (folder / "s-1").write_bytes(content)
        with pytest.raises(BadSegment):
            stream.open(1)
        stream.create(2)
        with pytest.raises(BadSegment, match="no segment of this journal"):
            Stream(folder / "s-", b"j" * 16, ROWS_BYTES).open(2)
        with pytest.raises(FileNotFoundError):
            stream.open(3)

    def test_a_symbolic_link_is_not_followed(self, stream: Stream, folder: Path) -> None:
        stream.create(1)
        (folder / "s-2").symlink_to(folder / "s-1")
        with pytest.raises(OSError, match="symbolic"):
            stream.open(2)


Rows = list[tuple[int, bytes]]
ROWS = st.lists(
    st.one_of(
        st.tuples(st.just(int(RowKind.BEGIN)), st.binary(max_size=300)),
        st.builds(lambda size: (int(RowKind.BEGIN), bytes(size)), st.integers(0, 9000)),
        st.builds(
            lambda number, sizes: (int(RowKind.ANSWERS), answers(number, *(b"a" * size for size in sizes))),
            st.integers(1, 99),
            st.lists(st.sampled_from([0, 1, 300, 3000, 20_000]), min_size=1, max_size=3),
        ),
    ),
    min_size=1,
    max_size=2,
)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["append", "append", "append", "die", "read", "save", "open"]),
        ROWS,
    ),
    max_size=40,
)


class _Model:
    """All rows as a list, and two handles that append and read."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: list[tuple[int, int, bytes]] = []
        self.logs = [Log(folder / "j", 0.05, is_alone=number == 0) for number in (0, 1)]
        self.saved = 0
        for log in self.logs:
            assert rows_since(log) == []
        self.read_to = [0, 0]

    def step(self, number: int, what: str, rows: Rows) -> None:
        log = self.logs[number]
        if what == "append":
            self.append(log, rows)
        elif what == "die":
            self.die(log, rows)
        elif what == "save":
            seq = save(log)
            assert seq == len(self.rows) + 1
            self.rows.append((seq, int(RowKind.COMPACT), NO_COMPACTION))
            self.saved = seq
        elif what == "open":
            log.close()
            self.logs[number] = log = Log(self.folder / "j", 0.05, is_alone=False)
            assert [whole(log, row) for row in rows_since(log)] == self.rows[self.saved :]
            self.read_to[number] = len(self.rows)
        self.check(number)

    def append(self, log: Log, rows: Rows) -> None:
        last = append(log, *rows)
        self.rows += [(len(self.rows) + index, kind, data) for index, (kind, data) in enumerate(rows, 1)]
        assert last == len(self.rows)

    def die(self, log: Log, rows: Rows) -> None:
        """As if by a kill: all is written, segments are made, and nothing is published."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(journal_log, "ROW_UNIT", 0)
            with pytest.raises(ZeroDivisionError):
                append(log, rows[0], rows[-1])

    def check(self, number: int) -> None:
        """What came since it last read."""
        log, after = self.logs[number], self.read_to[number]
        found = log.read(after)
        assert found is not None
        assert [whole(log, row) for row in found] == self.rows[after:]
        self.read_to[number] = len(self.rows)

    def close(self) -> None:
        for log in self.logs:
            assert [whole(log, row) for row in rows_since(log)] == self.rows[self.saved :]
            answered = {seq: bytes(data) for seq, _, data in log.answer_rows(0, len(self.rows) + 1)}
            for seq, kind, data in self.rows:
                assert kind != RowKind.ANSWERS or answered[seq] == data
            log.close()


@settings(deadline=None, max_examples=150)
@given(STEPS)
@example(
    [
        (0, "die", [(1, bytes(4017))]),
        (0, "append", [(1, b""), (1, b"")]),
        (1, "append", [(1, bytes(4025)), (1, b"x" * 4033)]),
    ]
)
def test_two_who_append_and_read_see_the_same_rows_in_the_same_order(steps: list[tuple[int, str, Rows]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        model = _Model(Path(name))
        for step in steps:
            model.step(*step)
        model.close()


class TestLog:
    def test_what_was_read_of_answers_has_the_place_where_they_are(self, folder: Path) -> None:
        data = answers(1, b"x" * 5000, b"y")
        with opened(folder, 2) as (log, other):
            assert append(log, (RowKind.ANSWERS, data)) == 1
            (row,) = rows_since(other)
            assert known(row) == (1, RowKind.ANSWERS, head_of(data))
            assert whole(other, row) == (1, RowKind.ANSWERS, data)

    def test_an_answer_as_large_as_they_may_be(self, folder: Path) -> None:
        data = answers(1, os.urandom(32 * 1024 * 1024))
        with opened(folder, 2) as (log, other):
            append(log, (RowKind.BEGIN, b"before"))
            append(log, (RowKind.ANSWERS, data), (RowKind.BEGIN, b"after"))
            assert append(log, (RowKind.ANSWERS, answers(2, b"small"))) == 4
            found = [whole(other, row) for row in rows_since(other)]
            assert [found[1][2], found[3][2]] == [data, answers(2, b"small")]

    def test_answers_are_found_among_many_wherever_they_stand(self, folder: Path) -> None:
        with opened(folder, 2) as (log, other):
            for number in range(1, 1001):
                append(log, (RowKind.BEGIN, b"%d" % number))
                append(log, (RowKind.ANSWERS, answers(number, b"%d" % number)))
            found = [(seq, bytes(data)) for seq, _, data in other.answer_rows(20, 1990)]
            assert found == [(2 * number, answers(number, b"%d" % number)) for number in range(11, 995)]
            rows = rows_since(other)
            for number in (1000, 1, 500, 64, 65, 66, 999):
                assert whole(other, rows[2 * number - 1])[2] == answers(number, b"%d" % number)
            assert len(files(folder, "answers")) > 5

    @pytest.mark.parametrize("size", [0, 1, 5000])
    def test_answers_of_a_writer_that_died_are_not_taken_for_those_that_came_after_it(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        """It had made a segment; another one, with a row of the same number, is made later."""
        with opened(folder, 2) as (log, other):
            never = RowKind.ANSWERS, answers(1, b"never" * size)
            with monkeypatch.context() as dying, pytest.raises(ZeroDivisionError):
                dying.setattr(journal_log, "ROW_UNIT", 0)
                append(log, never, never)
            append(log, (RowKind.BEGIN, b""), (RowKind.ANSWERS, answers(1, b"x")))
            found = [(seq, bytes(data)) for seq, _, data in other.answer_rows(0, 3)]
            assert found == [(2, answers(1, b"x"))]

    def test_an_answer_that_was_not_published_is_none(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A writer was killed that had made a segment for it; those that come later are in another one."""
        with opened(folder, 2) as (log, other):
            append(log, (RowKind.ANSWERS, answers(1, b"x" * 5000)))
            with monkeypatch.context() as dying, pytest.raises(ZeroDivisionError):
                dying.setattr(journal_log, "ROW_UNIT", 0)
                append(log, (RowKind.ANSWERS, answers(2, b"never" * 1000)))
            assert files(folder, "answers") == [1, 2]
            assert append(log, (RowKind.ANSWERS, answers(3, b"y"))) == 2
            assert append(log, (RowKind.ANSWERS, answers(4, b"z" * 5000))) == 3
            assert files(folder, "answers") == [1, 3], "what nobody wrote to any more is gone"
            assert [bytes(data) for _, _, data in other.answer_rows(0, 9)] == [
                answers(1, b"x" * 5000),
                answers(3, b"y"),
                answers(4, b"z" * 5000),
            ]

    def test_rows_are_read_on_as_far_as_asked_and_none_where_some_are_left_out(self, folder: Path) -> None:
        with opened(folder, 2) as (log, other):
            assert rows_since(other) == []
            for number in range(1, 301):
                append(log, (RowKind.BEGIN, b"%d" % number))
            assert len(files(folder, "rows")) > 1
            for after, before in ((0, 10), (9, 10), (20, 300), (299, None), (300, None)):
                end = 301 if before is None else before
                assert [seq for seq, _, _ in other.read(after, before) or []] == list(range(after + 1, end))
            assert other.read(299) is None

    def test_segments_go_when_a_snapshot_has_their_rows_and_nobody_needs_them(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checkpointer, "_LINGER_S", 0.0)
        with opened(folder, 2) as (log, other):
            for number in range(1, 301):
                append(log, (RowKind.ANSWERS, answers(number, b"x" * 50)))
            rows_since(other)
            places = [place for _, place, _ in log.answer_rows(0, 301)]
            before = files(folder, "rows"), files(folder, "answers")
            log.checkpointer.answers_from, _ = records.segment_and_at(places[99])
            seq = save(log)
            assert files(folder, "rows") == before[0][-1:]
            assert before[1][0] < files(folder, "answers")[0] <= 100
            assert [each for each, _, _ in other.answer_rows(99, seq)] == list(range(100, 301))
            for _ in range(302, 500):
                append(log, (RowKind.BEGIN, b"y" * 50))
            assert [each for each, _, _ in other.read(300) or []] == list(range(301, 500))
            log.checkpointer.answers_from = log._pointer.position()[2]
            save(log)
            assert len(files(folder, "answers")) == 1
            # Who has not looked for so long has to begin with the snapshot.
            assert append(log, (RowKind.BEGIN, b"new")) == 501
            assert [row[0] for row in rows_since(other)] == [501]

    def test_rows_linger_for_those_who_lag_behind(self, folder: Path) -> None:
        with opened(folder, 2) as (log, other):
            rows_since(other)
            for _ in range(300):
                append(log, (RowKind.BEGIN, b"x" * 50))
            save(log)
            assert [row[0] for row in other.read(0) or []] == list(range(1, 302))

    def test_who_lags_behind_for_longer_begins_with_the_snapshot(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checkpointer, "_LINGER_S", 0.0)
        with opened(folder, 2) as (log, other):
            rows_since(other)
            for _ in range(300):
                append(log, (RowKind.BEGIN, b"x" * 50))
            save(log)
            append(log, (RowKind.BEGIN, b"new"))
            assert other.read(0) is None
            seq, _, rows = other.load()
            assert (seq, rows) == (301, [(302, RowKind.BEGIN, b"new")])

    def test_who_waits_in_vain_waits_once_and_is_told_for_whom(self, folder: Path) -> None:
        with opened(folder, 2) as (log, other):
            log._lock.take()
            for _ in range(2):
                with pytest.raises(JournalUnavailable, match=f"process {os.getpid()} has kept it locked") as raised:
                    append(other, (RowKind.BEGIN, b"x"))
                assert raised.value.holder == os.getpid()
            log._lock.drop()
            assert append(other, (RowKind.BEGIN, b"x")) == 1

    def test_a_log_that_was_closed_says_so(self, folder: Path) -> None:
        with opened(folder) as (log,):
            log.close()
            with pytest.raises(JournalUnavailable, match="cannot be locked"):
                append(log, (RowKind.BEGIN, b"x"))


class TestRestartOfTheMachine:
    """Nobody has the log open then, and the boot is another one."""

    def test_all_that_is_whole_is_known_and_new_rows_follow(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = [
            (RowKind.ANSWERS if number % 3 else RowKind.BEGIN, answers(number, b"x" * number))
            for number in range(1, 99)
        ]
        with opened(folder) as (log,):
            for row in rows:
                append(log, row)
        for _ in range(3):
            reboot(folder, monkeypatch)
            with opened(folder, 2) as (log, other):
                assert [whole(other, row) for row in rows_since(other)] == [
                    (seq, *row) for seq, row in enumerate(rows, 1)
                ]
                rows.append((RowKind.ANSWERS, answers(len(rows), b"new")))
                assert append(other, rows[-1]) == len(rows)

    def test_the_head_of_another_boot_is_not_believed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened(folder) as (log,):
            for number in range(10):
                append(log, (RowKind.BEGIN, b"%d" % number))
        with (folder / "j.head").open("r+b") as head:
            head.seek(16 * 8)
            head.write(os.urandom(256))
        reboot(folder, monkeypatch)
        with opened(folder) as (log,):
            assert [seq for seq, _, _ in rows_since(log)] == list(range(1, 11))

    def test_a_machine_that_does_not_say_which_boot_it_is_is_looked_at_each_time(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segments, "_BOOT", folder / "nowhere")
        with opened(folder, 2) as (log, other):
            append(log, (RowKind.BEGIN, b"x"))
            assert append(other, (RowKind.BEGIN, b"y")) == 2
        (folder / "j.head").write_bytes(os.urandom(4096))
        with opened(folder, 2) as (log, other):
            assert [row[2] for row in rows_since(other)] == [b"x", b"y"]
            assert append(log, (RowKind.BEGIN, b"z")) == 3

    @pytest.mark.parametrize("damage", ["garbage", "zeros", "cut"])
    @pytest.mark.parametrize("stream", ["rows", "answers"])
    def test_wherever_something_is_lost_the_rows_before_it_are_known_and_none_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str, damage: str
    ) -> None:
        rows = [
            (int(RowKind.ANSWERS) if number % 2 else int(RowKind.BEGIN), answers(number, b"%d" % number * 9))
            for number in range(1, 13)
        ]
        original = tmp_path / "original"
        original.mkdir()
        saved = 5
        with opened(original) as (log,):
            for row in rows[: saved - 1]:
                append(log, row)
            assert save(log) == saved
            for row in rows[saved - 1 :]:
                append(log, row)
        written = [rows[: saved - 1], [(int(RowKind.COMPACT), NO_COMPACTION)], rows[saved - 1 :]]
        all_rows = [(seq, *row) for seq, row in enumerate([row for part in written for row in part], 1)]
        heads = [known(row) for row in all_rows]
        contents = {file.name: file.read_bytes() for file in original.iterdir()}
        found_lasts = set()
        for offset in range(0, len(contents[f"j.{stream}-1"].rstrip(b"\0")) + 24, 7):
            folder = tmp_path / f"{offset}"
            folder.mkdir()
            for name, content in contents.items():
                (folder / name).write_bytes(content)
            spoil(folder / f"j.{stream}-1", offset, damage)
            reboot(folder, monkeypatch)
            with opened(folder, 2) as (log, other):
                found = rows_since(other)
                last = saved + len(found)
                found_lasts.add(last)
                assert [known(row) for row in found] == heads[saved:last]
                if stream == "answers":
                    assert last == len(all_rows), "a row whose answer is lost is known all the same"
                for found_row in found:
                    seq, kind, data = all_rows[found_row[0] - 1]
                    may_be = [data] if stream == "rows" else [data, None]
                    assert whole(other, found_row) in [(seq, kind, each) for each in may_be]
                answered = {seq: bytes(data) for seq, _, data in other.answer_rows(0, 99)}
                kept = {seq: data for seq, kind, data in all_rows if kind == RowKind.ANSWERS and seq <= last}
                assert answered.items() <= kept.items() if stream == "answers" else answered == kept
                new = answers(77, b"new")
                assert append(log, (RowKind.ANSWERS, new)) == last + 1
                assert [whole(other, row) for row in other.read(last) or []] == [(last + 1, RowKind.ANSWERS, new)]
            reboot(folder, monkeypatch)
            with opened(folder) as (log,):
                found = rows_since(log)
                assert [known(row) for row in found] == [*heads[saved:last], (last + 1, RowKind.ANSWERS, head_of(new))]
                assert whole(log, found[-1])[2] == new
                assert [seq for seq, _, _ in log.answer_rows(last, 99)] == [last + 1]
        assert found_lasts == (set(range(saved, len(all_rows) + 1)) if stream == "rows" else {len(all_rows)})

    def test_a_segment_that_was_lost_ends_what_is_known(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened(folder) as (log,):
            for number in range(1, 501):
                append(log, (RowKind.ANSWERS, answers(number, b"x")))
        second = files(folder, "rows")[1]
        (folder / f"j.rows-{second}").unlink()
        reboot(folder, monkeypatch)
        with opened(folder) as (log,):
            assert [seq for seq, _, _ in rows_since(log)] == list(range(1, second))
            assert files(folder, "rows") == [1, second]
            assert append(log, (RowKind.BEGIN, b"new")) == second
            assert max(seq for seq, _, _ in log.answer_rows(0, 10**6)) < second


PAGE = 4096


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**9), st.integers(1, 120), st.integers(0, 120), st.integers(0, 60))
def test_whatever_pages_the_kernel_had_written_no_row_is_wrong_and_none_is_lost_that_was_on_the_disk(
    seed: int, early: int, later: int, saved: int
) -> None:
    """All was brought to the disk once; of what was written since, any page may be there or not."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        folder = Path(name) / "live"
        folder.mkdir()
        rows: list[tuple[int, int, bytes]] = []
        with opened(folder) as (log,):
            write_some(log, rng, rows, early, saved)
            on_disk, had = contents_of(folder), len(rows)
            write_some(log, rng, rows, later, saved)
            in_memory = contents_of(folder)
        after = Path(name) / "after"
        after.mkdir()
        for file, content in mixed(rng, on_disk, in_memory).items():
            (after / file).write_bytes(content)
        reboot(after, monkeypatch)
        with opened(after, 2) as (log, other):
            saved_at, _, found = other.load()
            last = saved_at + len(found)
            assert [known(row) for row in found] == [known(row) for row in rows[saved_at:last]]
            assert last >= had
            for row in found:
                written = rows[row[0] - 1]
                assert whole(other, row) in ((written,) if row[0] <= had else (written, (*written[:2], None)))
            answered = {seq: bytes(data) for seq, _, data in other.answer_rows(0, last + 1)}
            kept = {seq: data for seq, kind, data in rows if kind == RowKind.ANSWERS}
            assert answered.items() <= kept.items()
            assert {seq for seq in kept if seq <= had} <= answered.keys()
            new = answers(1, b"new")
            assert append(log, (RowKind.ANSWERS, new)) == last + 1
            assert [whole(other, row) for row in other.read(last) or []] == [(last + 1, RowKind.ANSWERS, new)]


def write_some(log: Log, rng: random.Random, rows: list[tuple[int, int, bytes]], count: int, save_at: int) -> None:
    for number in range(count):
        size = rng.choice([1, 50, 500, 5000])
        row = (
            (int(RowKind.ANSWERS), answers(number, rng.randbytes(size)))
            if rng.random() < 0.4
            else (int(RowKind.BEGIN), rng.randbytes(size))
        )
        rows.append((append(log, row), *row))
        if number == save_at:
            seq = save(log)
            rows.append((seq, int(RowKind.COMPACT), NO_COMPACTION))


def contents_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def mixed(rng: random.Random, on_disk: dict[str, bytes], in_memory: dict[str, bytes]) -> dict[str, bytes]:
    """What the disk may show."""
    found = dict(rng.choice([on_disk, in_memory]))
    for name, content in in_memory.items():
        if ".rows-" not in name and ".answers-" not in name and ".head" not in name:
            continue
        if name not in on_disk and rng.random() < 0.2:
            found.pop(name, None)
            continue
        old = on_disk.get(name, bytes(len(content)))
        pages = [rng.choice([old, content])[at : at + PAGE] for at in range(0, len(content), PAGE)]
        found[name] = b"".join(pages)
    return found


def spoil(file: Path, offset: int, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[:offset]
    else:
        content[offset : offset + 16] = b"\0" * 16 if damage == "zeros" else os.urandom(16)
    file.write_bytes(content)


class TestDamage:
    def test_a_row_that_is_not_whole_without_a_restart_is_damage(self, folder: Path) -> None:
        with opened(folder, 2) as (log, other):
            for number in range(5):
                append(log, (RowKind.BEGIN, b"%d" % number))
            log._end.rows._memory[FIRST_AT + 40] ^= 1  # type: ignore[union-attr]
            with pytest.raises(Damaged, match="row 2 is not where it should be"):
                rows_since(other)

    def test_a_head_that_says_nonsense_is_damage(self, folder: Path) -> None:
        with opened(folder, 2) as (log, other):
            append(log, (RowKind.BEGIN, b"x"))
            with (folder / "j.head").open("r+b") as head:
                head.seek(16 * 8)
                head.write(b"\xff" * 256)
            for act in (lambda: append(log, (RowKind.BEGIN, b"x")), lambda: rows_since(other)):
                with pytest.raises(Damaged):
                    act()
            assert files(folder, "rows") == [1]

    def test_segments_of_a_journal_that_was_begun_anew_are_not_removed(self, folder: Path) -> None:
        """By the thread of a worker that waited for the disk for too long."""
        with opened(folder) as (log,):
            for _ in range(300):
                append(log, (RowKind.BEGIN, b"x" * 50))
            ours = log.checkpointer._files.rows
        for file in folder.glob("j*"):
            file.unlink()
        with opened(folder) as (log,):
            for _ in range(300):
                append(log, (RowKind.BEGIN, b"x" * 50))
            before = files(folder, "rows")
            drop(ours, 301)
            assert files(folder, "rows") == before
            drop(log.checkpointer._files.rows, 301)
            assert files(folder, "rows") == before[-1:]
