"""The shared journal where workers meet: what one does between another's look and its row, and files that went bad."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journal_words import NOW, begin, finish, id_of, start, statuses
from waiting import wait_until

from servicebus.runtime.journal import (
    MEMORY,
    IdRecord,
    IdState,
    IdStatus,
    Limits,
    Lookup,
    MemoryJournal,
    Release,
    SharedJournal,
    Start,
    checkpointer,
    open_shared,
)
from servicebus.runtime.journal import open_journal as open_named
from servicebus.runtime.journal.interface import Damaged, JournalUnavailable
from servicebus.runtime.journal.records import RowKind
from servicebus.runtime.journal.segments import pack_ends
from servicebus.runtime.state_folder import default_path

Open = Callable[..., SharedJournal]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "NODE-01.journal"


@pytest.fixture
def open_journal(path: Path) -> Iterator[Open]:
    opened = []

    def open_one(**limits: Any) -> SharedJournal:
        journal = open_shared(str(path), Limits(**limits), lock_wait_s=0.05)
        opened.append(journal)
        return journal

    yield open_one
    for journal in opened:
        journal.close()


def before_its_next_row(journal: SharedJournal, act: Callable[[], object]) -> None:
    """Have somebody else *act* after *journal* has looked and before its row is written: the tightest race there is."""
    log = journal._replica.log
    append = log.append

    def act_first(*rows: tuple[int, bytes, bytes]) -> int:
        log.append = append  # type: ignore[method-assign]
        act()
        return append(*rows)

    log.append = act_first  # type: ignore[method-assign]


@contextlib.contextmanager
def write_lock_of(journal: SharedJournal) -> Iterator[None]:
    """As if it were writing a row."""
    lock = journal._replica.log._lock
    lock.take()
    yield
    lock.drop()


def update(journal: SharedJournal, ended: list[int], begun: list[int]) -> list[Lookup]:
    starts = [Start(id_of(count), NOW + 60) for count in begun]
    return journal.update([(id_of(count), b"done") for count in ended], starts, NOW)


class TestTogether:
    @pytest.fixture(autouse=True)
    def workers(self, open_journal: Open) -> None:
        self.ours, self.other, self.third = open_journal(), open_journal(), open_journal()

    def test_an_id_that_another_begins_first_is_running_there(self) -> None:
        before_its_next_row(self.ours, lambda: begin(self.other, 2))
        assert statuses(self.ours, 1, 2, 3) == [IdStatus.NEW, IdStatus.RUNNING, IdStatus.NEW]

    def test_an_id_that_another_begins_and_finishes_first_is_finished(self) -> None:
        def be_quick() -> None:
            begin(self.other, 1)
            finish(self.other, 1, answer=b"quick")

        before_its_next_row(self.ours, be_quick)
        assert begin(self.ours, 1) == [Lookup(IdStatus.FINISHED, b"quick")]

    def test_an_id_that_another_begins_first_and_dies_with_is_interrupted(self) -> None:
        def be_unlucky() -> None:
            begin(self.other, 1, 2)
            start(self.other, 1, 2)
            self.other.close()

        before_its_next_row(self.ours, be_unlucky)
        assert statuses(self.ours, 1) == [IdStatus.INTERRUPTED]
        assert begin(self.ours, 2, rerun=True) == [Lookup(IdStatus.NEW, None, 2, 1)]

    def test_what_waits_for_its_service_is_told_from_what_runs(self) -> None:
        begin(self.other, 1, 2)
        start(self.other, 2)
        for _ in range(2):
            found = self.ours.look_up([id_of(1), id_of(2)])
            assert found == [IdRecord(IdState.QUEUED, 1), IdRecord(IdState.RUNNING, 1)]
        self.other.close()
        assert self.ours.look_up([id_of(1)]) == [IdRecord(IdState.QUEUED, 1)], "it is run when it comes again"
        assert statuses(self.ours, 1, 2) == [IdStatus.NEW, IdStatus.INTERRUPTED]

    def test_what_another_takes_over_first_runs_there(self) -> None:
        begin(self.third, 1, 2)
        start(self.third, 1, 2)
        statuses(self.ours, 1)
        self.third.close()
        statuses(self.ours, 1)
        before_its_next_row(self.ours, lambda: begin(self.other, 1, rerun=True))
        assert begin(self.ours, 1, 2, rerun=True) == [
            Lookup(IdStatus.RUNNING, None, 2, 1),
            Lookup(IdStatus.NEW, None, 2, 1),
        ]

    def test_what_another_lets_go_of_meanwhile_is_ours(self) -> None:
        begin(self.other, 1)
        statuses(self.ours, 1)
        before_its_next_row(self.ours, lambda: self.other.release_many([id_of(1)], Release.NOT_RUN))
        assert statuses(self.ours, 1, 2) == [IdStatus.NEW] * 2

    def test_who_has_not_looked_for_long_knows_as_much_as_the_others(self) -> None:
        """Rows that were put away are gone from the log: the state is read anew."""
        begin(self.ours, 1)
        for count in range(10, 30):
            begin(self.other, count)
            finish(self.other, count, answer=b"x" if count % 2 else None)
            self.other.tick(NOW + count * 11)
        assert statuses(self.ours, 40) == [IdStatus.NEW]
        assert set(statuses(self.ours, *range(10, 30))) == {IdStatus.FINISHED}
        assert statuses(self.other, 1, 40) == [IdStatus.RUNNING] * 2
        finish(self.ours, 1, 40)
        assert statuses(self.other, 1, 40) == [IdStatus.FINISHED] * 2

    def be_busy(self) -> None:
        """Another worker begins and ends so much that we are put away."""
        for count in range(10, 30):
            begin(self.other, count)
            finish(self.other, count)
            self.other.tick(NOW + count * 11)

    def test_who_was_declared_dead_between_look_and_row_still_gets_what_it_asked_for(self) -> None:
        begin(self.ours, 1)
        before_its_next_row(self.ours, self.be_busy)
        assert statuses(self.ours, 2, 15) == [IdStatus.NEW, IdStatus.FINISHED]
        finish(self.ours, 1, 2)
        assert statuses(self.third, 1, 2) == [IdStatus.FINISHED] * 2

    def test_an_iteration_is_told_in_one_transaction_and_known_to_all(self) -> None:
        begin(self.ours, 1)
        assert update(self.ours, [1], [2, 3]) == [Lookup(IdStatus.NEW, None, 1, 0)] * 2
        rows = self.other._replica.log.load()[2][3:]  # behind those of three owners
        assert [kind for _, kind, _ in rows] == [RowKind.BEGIN, RowKind.ANSWERS, RowKind.BEGIN]
        assert begin(self.other, 1, 2, 4) == [
            Lookup(IdStatus.FINISHED, b"done"),
            Lookup(IdStatus.RUNNING, None, 1, 0),
            Lookup(IdStatus.NEW, None, 1, 0),
        ]

    def test_what_another_begins_before_our_iteration_is_told_runs_there(self) -> None:
        begin(self.ours, 1)
        before_its_next_row(self.ours, lambda: begin(self.other, 2))
        assert [known.status for known in update(self.ours, [1], [2, 3])] == [IdStatus.RUNNING, IdStatus.NEW]
        assert statuses(self.other, 1, 3) == [IdStatus.FINISHED, IdStatus.RUNNING]

    def test_an_iteration_of_one_who_was_declared_dead_meanwhile_holds(self) -> None:
        begin(self.ours, 1)
        before_its_next_row(self.ours, self.be_busy)
        assert [known.status for known in update(self.ours, [1], [2, 15])] == [IdStatus.NEW, IdStatus.FINISHED]
        assert statuses(self.third, 1, 2) == [IdStatus.FINISHED, IdStatus.RUNNING]

    def test_an_iteration_that_cannot_be_told_may_be_told_again(self) -> None:
        begin(self.ours, 1)
        with write_lock_of(self.other), pytest.raises(JournalUnavailable, match="has kept it locked"):
            update(self.ours, [1], [2])
        assert update(self.ours, [1], [2]) == [Lookup(IdStatus.NEW, None, 1, 0)]
        assert begin(self.other, 1, 2) == [Lookup(IdStatus.FINISHED, b"done"), Lookup(IdStatus.RUNNING, None, 1, 0)]

    def test_all_who_compact_and_all_who_read_on_know_the_same(self) -> None:
        for count in range(1, 400):
            worker = (self.ours, self.other, self.third)[count % 3]
            begin(worker, count, count * 5000)
            finish(worker, count)
            worker.tick(NOW + count)
        for worker in (self.ours, self.other, self.third):
            worker.tick(NOW + 400)
        states = [
            (worker._replica.ledger.state.chunks, worker._replica.ledger.entries)
            for worker in (self.ours, self.other, self.third)
        ]
        assert states[0] == states[1] == states[2] == (_reopened(self.ours)._replica.ledger.state.chunks, states[0][1])

    def test_a_compaction_that_has_to_wait_too_long_is_tried_again(self, caplog: pytest.LogCaptureFixture) -> None:
        begin(self.ours, 1, 2)
        finish(self.ours, 1)
        with write_lock_of(self.other):
            self.ours.tick(NOW + 100)
        assert "has kept it locked" in caplog.text
        assert statuses(self.ours, 1, 2) == [IdStatus.FINISHED, IdStatus.RUNNING]
        self.ours.tick(NOW + 106)
        assert self.ours._replica.ledger.pending == 0


def _reopened(journal: SharedJournal) -> SharedJournal:
    journal._replica.ledger = journal._replica.load()
    return journal


def test_what_was_forgotten_early_is_logged_and_counted_over_restarts(
    open_journal: Open, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal(max_entries=5)
    ids = [id_of(1, f"{sender:016x}") for sender in range(20)]
    for number, id in enumerate(ids):
        journal.begin(id, NOW, NOW + 1000 + 100 * number)
        journal.finish(id, None)
    journal.tick(NOW + 11)
    assert "15 ids or answers were forgotten early, 15 and 0 in all" in caplog.text
    journal.close()
    journal = open_journal()
    assert journal.snapshot()["forgotten_early"] == 15
    assert journal.begin(ids[-1], NOW, NOW + 9)[0] is IdStatus.FINISHED


def test_its_files_are_nobody_elses_business(path: Path, open_journal: Open) -> None:
    begin(open_journal(), 1)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_segments_that_are_not_needed_any_more_are_removed(
    path: Path, open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "_LINGER_S", 0.0)
    journal = open_journal(max_answer_bytes=200_000)
    for round in range(120):
        counts = range(round * 500 + 1, round * 500 + 501)
        begin(journal, *counts)
        finish(journal, *counts, answer=b"x" * 100)
        journal.tick(NOW + round * 11)
    assert max(segments(path, "rows")) > 1
    assert max(segments(path, "answers")) > 1

    def are_gone() -> bool:
        journal._checkpoint_at = 0
        journal.tick(NOW + 120 * 11)
        return len(segments(path, "rows")) <= 4 and len(segments(path, "answers")) <= 2

    wait_until(are_gone, what="them to go")
    journal.close()
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 8_000_000
    last = 120 * 500
    assert statuses(open_journal(max_answer_bytes=200_000), 1, last, last + 1) == [
        IdStatus.FINISHED,
        IdStatus.FINISHED,
        IdStatus.NEW,
    ]


def segments(path: Path, stream: str) -> list[int]:
    return [int(file.name.rpartition("-")[2]) for file in path.parent.glob(f"{path.name}.{stream}-*")]


class TestBadFiles:
    @pytest.mark.parametrize("content", [b"no journal at all", b"\0" * 5000, b""])
    def test_a_file_that_is_no_journal_any_more_is_moved(
        self, path: Path, open_journal: Open, caplog: pytest.LogCaptureFixture, content: bytes
    ) -> None:
        open_journal().close()
        path.write_bytes(content)
        assert statuses(open_journal(), 1) == [IdStatus.NEW]
        aside = [file for file in path.parent.iterdir() if ".broken-" in file.name]
        assert content in [file.read_bytes() for file in aside]
        record = next(record for record in caplog.records if record.levelno == logging.ERROR)
        assert min(file.name for file in aside) in record.getMessage()

    @pytest.mark.parametrize(
        ("seq", "kind", "data"),
        [(3, 99, b"\0"), (3, 1, b"\0\x11"), (3, 3, b"\0\x11"), (3, 7, b"\0\x11"), (4711, 1, b"\0" * 8)],
    )
    def test_rows_that_make_no_sense_are_moved(
        self, path: Path, open_journal: Open, seq: int, kind: int, data: bytes
    ) -> None:
        journal = open_journal()
        begin(journal, 1)
        self.plant(journal, seq, kind, data)
        journal.close()
        assert statuses(open_journal(), 1) == [IdStatus.NEW]
        aside = [file.name for file in path.parent.iterdir() if ".broken-" in file.name]
        assert {name.partition(".broken-")[2].lstrip("0123456789") for name in aside} >= {"", ".head", ".rows-1"}

    @pytest.mark.parametrize("damage", ["cut", "longer", "wrong"])
    def test_a_snapshot_that_makes_no_sense_is_moved_with_its_rows(
        self, path: Path, open_journal: Open, damage: str
    ) -> None:
        journal = open_journal()
        begin(journal, 1)
        journal.close()
        content = path.read_bytes()
        path.write_bytes({"cut": content[:-1], "longer": content + b"\0", "wrong": content[:-20] + b"x" * 20}[damage])
        assert statuses(open_journal(), 1) == [IdStatus.NEW]
        assert any(".broken-" in file.name for file in path.parent.iterdir())

    @staticmethod
    def plant(journal: SharedJournal, seq: int, kind: int, data: bytes) -> None:
        """Publish a row as no journal would write it."""
        log = journal._replica.log
        end = log._end
        assert end is not None
        end.rows.put(end.at, seq, kind, data)
        log._publish(end.rows.first, end.answers_first, pack_ends(end.at, end.answers_at))

    def test_a_journal_that_is_in_use_is_not_moved(self, path: Path, open_journal: Open) -> None:
        first = open_journal()
        begin(first, 1)
        self.plant(first, 3, 99, b"\0")
        with pytest.raises(JournalUnavailable, match="row 3 is of kind 99; replaced when the last"):
            open_journal()
        first.close()
        assert statuses(open_journal(), 1) == [IdStatus.NEW]

    def test_a_lock_file_that_was_removed_makes_nobody_dead(self, path: Path, open_journal: Open) -> None:
        """It looks left behind. The next worker to open the journal ran again what others were running."""
        journal = open_journal()
        assert statuses(journal, 1, 2) == [IdStatus.NEW] * 2
        path.with_name(path.name + ".lock").unlink()
        other = open_journal()
        for _ in range(3):
            other.tick(NOW)
        assert statuses(other, 1, 2) == [IdStatus.RUNNING] * 2
        finish(journal, 1)
        assert statuses(other, 1, 2) == [IdStatus.FINISHED, IdStatus.RUNNING]
        journal.close()
        other.tick(NOW)
        assert statuses(other, 2) == [IdStatus.NEW]

    def test_a_newer_format_is_refused_and_left_alone(self, path: Path, open_journal: Open) -> None:
        open_journal().close()
        content = path.read_bytes()
        path.write_bytes(content[:8] + b"\5\0\0\0" + content[12:])
        with pytest.raises(JournalUnavailable, match="has format 5, this servicebus knows 4"):
            open_journal()
        assert not any(".broken-" in file.name for file in path.parent.iterdir())

    @pytest.mark.parametrize("has_head", [False, True])
    def test_the_former_format_is_refused_with_what_to_do_and_left_alone(
        self, path: Path, open_journal: Open, has_head: bool
    ) -> None:
        """Developers have such files; they were never released."""
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE chunks (id)")
        if has_head:
            path.with_name(path.name + ".head").write_bytes(b"sbushead".ljust(4096))
        content = path.read_bytes()
        with pytest.raises(JournalUnavailable, match="stop the agent, remove it and all files whose names begin"):
            open_journal()
        assert path.read_bytes() == content

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(JournalUnavailable, match=r"nowhere/x: cannot be opened: No such file"):
            open_shared(str(tmp_path / "nowhere" / "x"))

    def test_a_journal_that_was_cut_short_while_in_use_is_not_believed(self, path: Path, open_journal: Open) -> None:
        journal = open_journal()
        begin(journal, 1, 2)
        open_journal()._replica.log._publish(1, 0, 0)
        with pytest.raises(JournalUnavailable, match="was replaced or cut short"):
            begin(journal, 3)

    def test_a_segment_that_is_gone_while_in_use_is_damage(self, path: Path, open_journal: Open) -> None:
        journal, other = open_journal(), open_journal()
        begin(journal, 1)
        path.with_name(path.name + ".rows-1").unlink()
        with pytest.raises(JournalUnavailable, match="is gone"):
            open_journal()
        journal.close()
        other.close()
        assert statuses(open_journal(), 1) == [IdStatus.NEW]

    def test_rows_of_another_journal_are_not_believed(self, path: Path, open_journal: Open) -> None:
        """The file itself was removed by somebody, and not what belongs to it."""
        journal = open_journal()
        begin(journal, 1)
        finish(journal, 1, answer=b"x")
        path.unlink()
        with pytest.raises(JournalUnavailable, match="is gone, or of another journal, while it is in use"):
            open_journal()
        journal.close()
        assert statuses(open_journal(), 1) == [IdStatus.NEW]

    @pytest.mark.parametrize(("content", "text"), [(b"\xff" * 200, "is no journal"), (b"", "is no"), (None, "is gone")])
    def test_a_snapshot_that_is_damaged_while_in_use_is_noticed_in_the_next_seconds(
        self, path: Path, open_journal: Open, content: bytes | None, text: str
    ) -> None:
        journal = open_journal()
        begin(journal, 1)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        journal._replica.log.checkpointer.ask()

        def notices() -> bool:
            try:
                journal.tick(NOW)
            except Damaged as error:
                return text in str(error)
            return False

        wait_until(notices, what="the damage to be noticed")

    @pytest.mark.parametrize("what", ["folder", "files", "head", "moved"])
    def test_files_that_are_removed_while_in_use_are_noticed_and_nothing_new_is_begun_before_all_have_ended(
        self, tmp_path: Path, what: str
    ) -> None:
        """The next worker took itself to be alone, began a new journal, and ran again what others were running."""
        folder = tmp_path / "state"
        folder.mkdir()
        path = folder / "NODE-01.journal"
        first, second = open_shared(str(path)), open_shared(str(path))
        begin(first, 1)
        if what == "folder":
            shutil.rmtree(folder)
        elif what == "moved":
            folder.rename(tmp_path / "aside")
        else:
            for file in list(folder.iterdir()):
                if what == "files" or file.name.endswith(".head"):
                    file.unlink()
        for journal in (first, second, first):
            with pytest.raises(Damaged, match=r"removed or replaced while it is in use; stop the agent"):
                journal.tick(NOW)
        with pytest.raises(Damaged):
            begin(first, 2)
        for journal in (second, first):
            with pytest.raises(JournalUnavailable, match="when the last worker that uses it has ended"):
                open_shared(str(path))
            journal.close()
        with contextlib.closing(open_shared(str(path))) as new:
            assert statuses(new, 1) == [IdStatus.NEW]

    def test_a_lock_file_that_was_removed_is_made_again(self, path: Path, open_journal: Open) -> None:
        journal = open_journal()
        lock = path.with_name(path.name + ".lock")
        for _ in range(3):
            lock.unlink()
            journal.tick(NOW)
            assert lock.exists()
        begin(journal, 1)
        assert statuses(open_journal(), 1) == [IdStatus.RUNNING]


class TestWhere:
    def test_a_word_a_path_or_a_url_says_which_journal_it_is(self, tmp_path: Path) -> None:
        assert isinstance(open_named(MEMORY, "NODE-01"), MemoryJournal)
        shared = open_named(str(tmp_path / "x"), "NODE-01")
        assert isinstance(shared, SharedJournal)
        shared.close()
        with pytest.raises(JournalUnavailable, match=r"redis://127\.0\.0\.1:1"):
            open_named("redis://127.0.0.1:1/0", "NODE-01")

    def test_limits_hold_for_the_one_in_memory_too(self) -> None:
        journal = open_named(MEMORY, "NODE-01", Limits(max_entries=2, max_answer_bytes=20, reply_keep_s=5))
        for sender in range(1, 5):
            journal.begin(id_of(1, f"{sender:016x}"), NOW, NOW + 100 * sender)
            journal.finish(id_of(1, f"{sender:016x}"), b"x" * 8)
        journal.tick(NOW + 11)
        found = journal.snapshot()
        assert (found["chunks"], found["forgotten_early"], found["answers_forgotten_early"]) == (2, 2, 2)

    def test_without_a_word_it_is_kept_where_services_keep_their_state(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        home = {"HOME": str(tmp_path / "home")}
        assert default_path("NODE-01", home) == f"{tmp_path}/home/.local/state/servicebus/NODE-01.journal"
        xdg = {**home, "XDG_STATE_HOME": str(tmp_path / "state")}
        assert default_path("a/../b", xdg) == f"{tmp_path}/state/servicebus/a%2F..%2Fb.journal"
        systemd = {**xdg, "STATE_DIRECTORY": f"{tmp_path}/lib:{tmp_path}/other"}
        assert default_path("NODE-01", systemd) == f"{tmp_path}/lib/NODE-01.journal"
        assert stat.S_IMODE((tmp_path / "lib").stat().st_mode) == 0o700

    @pytest.mark.parametrize("char", ["x", "ü", "語", "\U0001f68c"])
    def test_a_long_node_name_has_a_journal_of_its_own(self, tmp_path: Path, char: str) -> None:
        names = [char * 50, char * 100, char * 99 + "y", "y" + char * 99]
        paths = [Path(default_path(name, {"STATE_DIRECTORY": str(tmp_path)})) for name in names]
        assert len({*paths}) == 4
        for path in paths:
            Path(f"{path}{'.' + 'z' * 49}").touch()  # longer than anything that stands beside it

    def test_a_place_that_cannot_be_is_named_with_the_key_to_set(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        (tmp_path / "file").touch()
        with pytest.raises(JournalUnavailable, match="Not a directory; say where with the key journal"):
            default_path("NODE-01", {"HOME": str(tmp_path / "file")})

    def test_a_link_names_the_same_journal_as_the_file(self, path: Path, open_journal: Open, tmp_path: Path) -> None:
        begin(open_journal(), 1)
        link = tmp_path / "elsewhere" / "link"
        link.parent.mkdir()
        link.symlink_to(path)
        linked = open_shared(str(link))
        assert statuses(linked, 1, 2) == [IdStatus.RUNNING, IdStatus.NEW]
        linked.close()
        assert [file.name for file in link.parent.iterdir()] == ["link"]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("text", "is a file of something else, and is left alone"),
        ("link to a text", "is a file of something else, and is left alone"),
        ("fifo", "is no regular file"),
        ("folder", "is no regular file"),
        ("foreign link", "is a link that another user has made"),
        ("foreign folder", "its folder belongs to another user"),
        ("foreign file", "belongs to another user"),
    ],
)
def test_an_odd_place_is_refused_and_nothing_of_others_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, why: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "NODE-01.journal"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif "link" in kind:
        (folder / "other").write_text("of another program\n" if "text" in kind else "")
        path.symlink_to(folder / "other")
    elif kind != "foreign folder":
        path.write_text("of another program\n" if kind == "text" else "")
    if "foreign" in kind:
        if os.geteuid():
            pytest.skip("only root makes files of other users")
        other, own = 1, 2
        if kind != "foreign folder":
            os.chown(folder, own, -1)
        os.chown({"foreign folder": folder}.get(kind, path), other, -1, follow_symlinks=False)
        monkeypatch.setattr(os, "geteuid", lambda: own)
    before = {each.name: each.lstat().st_mtime_ns for each in folder.iterdir()}
    with pytest.raises(JournalUnavailable, match=why):
        open_shared(str(path))
    assert {each.name: each.lstat().st_mtime_ns for each in folder.iterdir()} == before
