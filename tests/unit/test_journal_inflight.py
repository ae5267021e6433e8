"""In-flight files: what only waited when its worker died is as if it had not been begun; in doubt, it was started."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_words import NOW, begin, finish, id_of, start, statuses

from servicebus.runtime.journal import (
    IdStatus,
    JournalUnavailable,
    Lookup,
    Release,
    SharedJournal,
    inflight,
    open_shared,
    segments,
)
from servicebus.runtime.journal.inflight import InFlightFile, InFlightFiles
from servicebus.runtime.journal.records import number_of

NEW = Lookup(IdStatus.NEW, None, 1, 0)
INTERRUPTED = Lookup(IdStatus.INTERRUPTED, None, 1, 1)

Open = Callable[[], SharedJournal]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "NODE-01.journal"


@pytest.fixture
def open_journal(path: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_one() -> SharedJournal:
            journal = open_shared(str(path))
            stack.callback(journal.close)
            return journal

        yield open_one


def box_files(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if ".box-" in file.name)


def noted(count: int) -> tuple[int, int, int]:
    return number_of(id_of(count)), 0, 0


class TestBox:
    """One worker's, and what others read of it."""

    @pytest.fixture
    def boxes(self, path: Path) -> InFlightFiles:
        return InFlightFiles(path.with_name("NODE-01.journal.box-"))

    @pytest.fixture
    def box(self, boxes: InFlightFiles) -> InFlightFile:
        return boxes.open(7)

    def waiting(self, boxes: InFlightFiles) -> list[int]:
        return sorted(number & 0xFFFF for number in boxes.waiting(7))

    def test_what_was_noted_waits_until_it_is_started_or_cleared(self, boxes: InFlightFiles, box: InFlightFile) -> None:
        box.note([noted(1), noted(2), noted(3), noted(2)])
        assert self.waiting(boxes) == [1, 2, 3]
        box.starter(noted(2)[0])()
        assert self.waiting(boxes) == [1, 3]
        box.note([noted(2), noted(4)])
        assert self.waiting(boxes) == [1, 3, 4], "what was started stays so"
        box.clear([noted(1)[0], noted(2)[0], noted(99)[0]])
        assert self.waiting(boxes) == [3, 4]
        box.clear_all_but([noted(4)[0]])
        assert self.waiting(boxes) == [4]

    def test_a_starter_works_from_any_thread_and_after_the_end(self, boxes: InFlightFiles, box: InFlightFile) -> None:
        box.note([noted(1), noted(2)])
        thread = threading.Thread(target=box.starter(noted(1)[0]))
        thread.start()
        thread.join()
        late = box.starter(noted(2)[0])
        box.close()
        assert self.waiting(boxes) == [2]
        late()
        assert self.waiting(boxes) == []

    def test_without_a_cell_an_id_counts_as_started(self, boxes: InFlightFiles, box: InFlightFile) -> None:
        box.note([noted(count) for count in range(1, 6000)])
        assert len(self.waiting(boxes)) == 4096
        assert 5999 not in self.waiting(boxes)
        box.starter(noted(5999)[0])()
        box.clear([noted(count)[0] for count in range(1, 6000)])
        box.note([noted(count) for count in range(6001, 10_000)])
        assert self.waiting(boxes) == list(range(6001, 10_000))

    @given(st.binary(max_size=24), st.integers(0, 24))
    def test_a_cell_that_is_half_written_is_a_free_one(self, old: bytes, written: int) -> None:
        """The state is the last byte that is written, and the one that is freed first."""
        slot = bytearray(old.ljust(24, b"\xff"))
        slot[16] = 0
        new = inflight._ENTRY.pack(1, 2, 1)
        slot[: min(written, 16)] = new[: min(written, 16)]
        assert inflight._ENTRY.unpack(slot)[2] == 0

    def test_after_a_restart_of_the_machine_everything_counts_as_started(
        self, boxes: InFlightFiles, box: InFlightFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        box.note([noted(1)])
        (tmp_path / "boot_id").write_text("another one")
        monkeypatch.setattr(segments, "_BOOT", tmp_path / "boot_id")
        assert InFlightFiles(tmp_path / "NODE-01.journal.box-").waiting(7) == []
        monkeypatch.setattr(segments, "_BOOT", tmp_path / "nowhere")
        unknown = InFlightFiles(tmp_path / "NODE-01.journal.box-")
        unknown.open(7).note([noted(1)])
        assert unknown.waiting(7) == []
        assert self.waiting(boxes) == []

    @pytest.mark.parametrize("damage", [b"", b"sbusbox1", b"\0" * 98_352, b"\x01" * 98_352])
    def test_a_file_that_cannot_be_believed_says_nothing(
        self, boxes: InFlightFiles, box: InFlightFile, path: Path, damage: bytes
    ) -> None:
        box.note([noted(1)])
        file = path.with_name(box_files(path)[0])
        assert file.stat().st_size == 98_352
        file.unlink()
        assert self.waiting(boxes) == []
        file.write_bytes(damage)
        assert self.waiting(boxes) == []

    def test_a_number_that_is_used_again_starts_with_an_empty_box(
        self, boxes: InFlightFiles, box: InFlightFile
    ) -> None:
        box.note([noted(1)])
        box.close()
        again = boxes.open(7)
        assert self.waiting(boxes) == []
        again.note([noted(2)])
        assert self.waiting(boxes) == [2]

    def test_an_old_in_flight_file_that_cannot_be_removed_is_not_taken_for_ours(
        self, boxes: InFlightFiles, path: Path
    ) -> None:
        path.with_name("NODE-01.journal.box-7").mkdir()
        with pytest.raises(JournalUnavailable, match=r"box-7: cannot be removed"):
            boxes.open(7)

    def test_without_room_for_a_box_the_worker_works_on_and_all_counts_as_started(
        self, boxes: InFlightFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: Path
    ) -> None:
        def be_full(*_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.posix_fallocate", be_full)
        box = boxes.open(7)
        assert "No space left on device; what only waits when this worker dies will count as started" in caplog.text
        box.note([noted(1)])
        box.starter(noted(1)[0])()
        box.clear([noted(1)[0]])
        box.close()
        assert box_files(path) == []


class TestDeath:
    @pytest.fixture(autouse=True)
    def workers(self, open_journal: Open) -> None:
        self.ours, self.other, self.third = open_journal(), open_journal(), open_journal()

    def test_all_that_only_waited_is_new_whoever_asks_and_what_was_started_is_not(self) -> None:
        begin(self.other, 1, 2, 3, 4, 5)
        start(self.other, 2, 4)
        assert set(statuses(self.ours, 1, 2, 3)) == {IdStatus.RUNNING}
        self.other.close()
        assert begin(self.ours, 1, 2, 3) == [NEW, INTERRUPTED, NEW]
        assert begin(self.third, 1, 4, 5, rerun=True) == [
            Lookup(IdStatus.RUNNING, None, 1, 0),
            Lookup(IdStatus.NEW, None, 2, 1),
            NEW,
        ]

    def test_an_attempt_that_only_waited_does_not_count_and_those_before_do(self) -> None:
        begin(self.other, 1, rerun=True)
        start(self.other, 1)
        self.other.release_many([id_of(1)], Release.FAILED)
        assert begin(self.other, 1, rerun=True) == [Lookup(IdStatus.NEW, None, 2, 0)]
        self.other.close()
        assert begin(self.ours, 1, rerun=True) == [Lookup(IdStatus.NEW, None, 2, 0)]
        start(self.ours, 1)
        self.ours.close()
        assert begin(self.third, 1, rerun=True) == [Lookup(IdStatus.NEW, None, 3, 1)]

    def test_who_took_over_and_only_waited_adds_no_death(self, open_journal: Open) -> None:
        begin(self.other, 1, 2)
        start(self.other, 1, 2)
        self.other.close()
        assert begin(self.ours, 1, 2, rerun=True) == [Lookup(IdStatus.NEW, None, 2, 1)] * 2
        self.ours.close()
        assert begin(self.third, 1, rerun=True) == [Lookup(IdStatus.NEW, None, 2, 1)]
        assert begin(self.third, 2) == [INTERRUPTED], "it was started once, by the first"

    def test_of_two_who_find_it_dead_at_once_one_gets_what_waited(self) -> None:
        """Both have looked into the box before either has written."""
        begin(self.other, 1, 2)
        self.other.close()
        append = self.ours._replica.log.append

        def be_late(*rows: tuple[int, bytes, bytes]) -> int:
            self.ours._replica.log.append = append  # type: ignore[method-assign]
            assert begin(self.third, 1) == [NEW]
            return append(*rows)

        self.ours._replica.log.append = be_late  # type: ignore[method-assign]
        assert begin(self.ours, 1, 2) == [Lookup(IdStatus.RUNNING, None, 1, 0), NEW]
        finish(self.third, 1)
        assert statuses(self.ours, 1, 2) == [IdStatus.FINISHED, IdStatus.RUNNING]

    def test_who_finds_the_box_gone_reads_what_was_found_in_it(self) -> None:
        """Between its look at the dead and its look into the box another one has settled all of it."""
        begin(self.other, 1, 2)
        start(self.other, 2)
        statuses(self.ours, 1, 2)
        self.other.close()
        waiting = self.ours._files.waiting

        def be_late(owner: int) -> list[int]:
            self.third.tick(NOW)
            return waiting(owner)

        self.ours._files.waiting = be_late  # type: ignore[method-assign, assignment]
        assert begin(self.ours, 1, 2) == [NEW, INTERRUPTED]

    def test_the_box_of_a_dead_worker_goes_whether_anybody_asks_for_its_ids_or_not(self, path: Path) -> None:
        begin(self.other, 1, 2)
        start(self.other, 2)
        self.other.close()
        self.third.close()
        assert box_files(path) == ["NODE-01.journal.box-1", "NODE-01.journal.box-2"], "of the third nothing is left"
        self.ours.tick(NOW)
        assert box_files(path) == ["NODE-01.journal.box-1"]
        assert begin(self.ours, 1, 2) == [NEW, INTERRUPTED]

    def test_what_others_had_first_does_not_stay_in_the_box(self) -> None:
        begin(self.other, 1, 2)
        begin(self.ours, 1, 2, 3)
        assert list(self.ours._in_flight.entries) == [number_of(id_of(3))]
        finish(self.ours, 3)
        assert not self.ours._in_flight.entries

    def test_its_box_is_nobody_elses_business(self, path: Path) -> None:
        modes = {stat.S_IMODE(path.with_name(name).stat().st_mode) for name in box_files(path)}
        assert modes == {0o600}


class TestFailure:
    def fail_once(self, journal: SharedJournal, what: str) -> None:
        good = getattr(journal._replica, what)

        def fail(*_: object) -> None:
            setattr(journal._replica, what, good)
            raise JournalUnavailable("here", "on purpose")

        setattr(journal._replica, what, fail)

    def test_a_begin_that_fails_half_way_has_given_out_nothing(self, open_journal: Open) -> None:
        ours, other = open_journal(), open_journal()
        begin(other, 2)
        start(other, 2)
        statuses(ours, 2)
        other.close()
        waiting = ours._files.waiting

        def look_and_fail_next(owner: int) -> list[int]:
            self.fail_once(ours, "catch_up")
            return waiting(owner)

        ours._files.waiting = look_and_fail_next  # type: ignore[method-assign, assignment]
        with pytest.raises(JournalUnavailable, match="on purpose"):
            # 1 is ours already when the dead owner of 2 is found.
            begin(ours, 1, 2)
        ours._files.waiting = waiting  # type: ignore[method-assign]
        third = open_journal()
        assert begin(ours, 1) == [NEW], "asked again, it is ours"
        ours.release_many([id_of(1)], Release.NOT_RUN)
        assert begin(third, 1) == [NEW]

    def test_what_was_begun_and_never_told_is_released_a_second_later(self, open_journal: Open) -> None:
        ours, other = open_journal(), open_journal()
        begin(ours, 5)
        begin(other, 9)
        # The row is in the log; reading what comes before it fails.
        self.fail_once(ours, "catch_up")
        with pytest.raises(JournalUnavailable, match="on purpose"):
            begin(ours, 1)
        assert statuses(other, 1) == [IdStatus.RUNNING]
        ours.tick(NOW)
        assert begin(other, 1) == [NEW]
        assert statuses(other, 5) == [IdStatus.RUNNING]


def test_a_journal_that_is_moved_takes_the_in_flight_files_with_it(path: Path, open_journal: Open) -> None:
    """The numbers of workers start anew with it."""
    for count in (1, 2, 3):
        journal = open_journal()
        begin(journal, count)
        journal.close()
    path.write_bytes(b"no database at all" * 100)
    path.with_name(path.name + "-wal").unlink(missing_ok=True)
    assert len(box_files(path)) == 3
    journal = open_journal()
    assert box_files(path) == ["NODE-01.journal.box-1"]
    assert begin(journal, 1, 2, 3) == [NEW] * 3
