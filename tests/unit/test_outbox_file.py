from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from servicebus.client.outbox_file import OutboxFile, Stored
from servicebus.configuration import Configuration
from servicebus.errors import OutboxUnavailable
from servicebus.sender import Sender

NOW = 1_800_000_000_000
LATER = NOW + 60_000


def message(number: int, expires_ms: int = LATER, body: bytes = b"<event/>") -> Stored:
    return Stored(f"N.audit.record{number}", number, f"id-{number}", None, expires_ms, body)


def add(file: OutboxFile, *messages: Stored, node: str = "N", now_ms: int = NOW) -> list[bool]:
    with file.transaction():
        return [file.add(node, each, now_ms) for each in messages]


def numbers(file: OutboxFile, node: str = "N", limit: int = 100) -> list[int]:
    return [each.event_id for each in file.oldest(node, limit)]


def open_file(path: Path, max_messages: int = 100, max_bytes: int = 100_000) -> OutboxFile:
    return OutboxFile(path / "outbox", max_messages, max_bytes)


def test_messages_come_out_as_they_went_in_and_in_that_order(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    given = [Stored("N.a.b", 7, "x-7", NOW + 5, LATER, b"\0\xff"), message(2), message(1)]
    add(file, *given)
    found = file.oldest("N", 10)
    assert [each._replace(seq=0) for each in found] == given
    assert [each.seq for each in found] == sorted(each.seq for each in found)
    file.close()


def test_each_node_has_a_line_of_its_own(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    add(file, message(1), message(2), node="A")
    add(file, message(3), node="B")
    assert numbers(file, "A", limit=1) == [1]
    assert numbers(file, "B") == [3]
    assert file.counts() == {"A": 2, "B": 1}
    file.close()


def test_what_was_stored_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    add(file, message(1), message(2))
    with file.transaction():
        assert file.remove([file.oldest("N", 1)[0].seq]) == 1
    file.close()
    again = open_file(tmp_path)
    assert numbers(again) == [2]
    assert (again.count, again.bytes) == (1, len(b"<event/>"))
    again.close()


def test_it_is_bounded_in_count_and_in_bytes(tmp_path: Path) -> None:
    file = open_file(tmp_path, max_messages=3, max_bytes=20)
    assert add(file, message(1, body=b"x" * 21), message(2, body=b"x" * 18), message(3, body=b"x" * 3)) == [
        False, True, False,
    ]  # fmt: skip
    assert add(file, *[message(number, body=b"") for number in range(4, 7)]) == [True, True, False]
    file.close()


def test_what_has_expired_makes_room_and_is_counted(tmp_path: Path) -> None:
    file = open_file(tmp_path, max_messages=2)
    add(file, message(1, expires_ms=NOW + 10), message(2))
    assert add(file, message(3), now_ms=NOW + 9) == [False]
    assert add(file, message(3), now_ms=NOW + 10) == [True]
    assert numbers(file) == [2, 3]
    assert file.take_expired() == {"N": 1}
    assert file.take_expired() == {}
    file.close()


def test_a_transaction_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    add(file, message(1))
    with pytest.raises(OutboxUnavailable, match="cannot be written"), file.transaction():
        file.add("N", message(2), NOW)
        file._db.execute("INSERT INTO nonsense VALUES (1)")
    assert (file.count, numbers(file)) == (1, [1])
    assert add(file, message(3)) == [True]
    file.close()


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    add(file, message(1))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes) == {"outbox", "outbox-wal", "outbox-shm", "outbox.lock", "outbox.ends"}
    assert set(modes.values()) == {0o600}
    file.close()


def test_a_file_that_it_did_not_make_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "outbox").touch()
    (tmp_path / "outbox").chmod(0o644)
    open_file(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "outbox").stat().st_mode) == 0o644


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_file_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Run by root, an outbox named /dev/null made the device private to root."""
    make(tmp_path / "outbox")
    before = (tmp_path / "outbox").stat()
    with pytest.raises(OutboxUnavailable, match="is not a regular file"):
        open_file(tmp_path)
    after = (tmp_path / "outbox").stat()
    assert (after.st_mode, after.st_ctime_ns) == (before.st_mode, before.st_ctime_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["outbox"]


def test_a_second_one_on_the_same_path_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    first = open_file(tmp_path)
    with pytest.raises(OutboxUnavailable, match=f"{tmp_path}/outbox is in use by another Sender"):
        open_file(tmp_path)
    first.close()
    open_file(tmp_path).close()


def test_a_file_of_another_program_is_not_touched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "outbox") as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = (tmp_path / "outbox").read_bytes()
    with pytest.raises(OutboxUnavailable, match="written by another program"):
        open_file(tmp_path)
    assert (tmp_path / "outbox").read_bytes() == before


def test_a_damaged_file_is_refused_and_never_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_bytes(b"no database at all" * 100)
    with pytest.raises(OutboxUnavailable, match="damaged or no outbox"):
        open_file(tmp_path)
    with pytest.raises(OutboxUnavailable, match="damaged or no outbox"):
        open_file(tmp_path)  # the refusal has let go of the lock


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutboxUnavailable) as caught:
        OutboxFile(tmp_path / "missing" / "outbox", 1, 1)
    assert caught.value.reason == f"cannot be locked: the folder {tmp_path}/missing does not exist"


def test_the_status_of_a_sender_says_why_its_outbox_cannot_be_opened(tmp_path: Path) -> None:
    config = Configuration({"hosts": ["127.0.0.1:1"], "secret_token": "secret token of a test"})
    with Sender(config, outbox=tmp_path / "missing" / "outbox") as sender:
        assert sender.status()["outbox"] == {
            "path": f"{tmp_path}/missing/outbox",
            "problem": f"cannot be locked: the folder {tmp_path}/missing does not exist",
        }


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = OutboxFile("~/outbox", 1, 1024)
    assert file.path == tmp_path / "outbox"
    file.close()


def test_a_forked_child_neither_keeps_the_lock_nor_disturbs_its_parent(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    add(file, message(1))
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        os.read(read, 1)  # lives until the parent has closed its own
        os._exit(0)
    os.close(read)
    add(file, message(2))
    file.close()
    again = open_file(tmp_path)
    assert numbers(again) == [1, 2]
    again.close()
    os.close(write)
    assert os.waitpid(pid, 0)[1] == 0


def test_it_may_be_opened_in_one_thread_and_used_in_another(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.extend(add(file, message(1))))
    thread.start()
    thread.join()
    assert found == [True]
    file.close()


def test_the_disk_gets_its_room_back_when_much_is_gone(tmp_path: Path) -> None:
    file = open_file(tmp_path, max_bytes=10_000_000)
    add(file, *[message(number, body=b"x" * 100_000) for number in range(50)])
    with file.transaction():
        file.remove([each.seq for each in file.oldest("N", 100)] + [each.seq for each in file.oldest("N", 100)])
    with file.transaction():
        file.remove([each.seq for each in file.oldest("N", 100)])
    file.tidy()
    assert file.count == 0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 200_000
    file.close()


def test_ends_that_were_noted_for_another_outbox_end_nothing_in_this_one(tmp_path: Path) -> None:
    first = open_file(tmp_path)
    add(first, message(1), message(2))
    assert first.note_ended([1, 2]) == 2
    first.close()
    for path in tmp_path.glob("outbox*"):
        if path.suffix != ".ends":
            path.unlink()
    second = open_file(tmp_path)
    add(second, message(8), message(9))
    assert second.note_ended([2]) == 1
    second.close()
    third = open_file(tmp_path)
    assert numbers(third) == [8]
    third.close()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.write_text("of another program"), os.mkdir])
def test_a_file_of_ends_that_is_none_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(path := tmp_path / "outbox.ends")
    before = path.stat()
    with pytest.raises(OutboxUnavailable, match="cannot be opened"):
        open_file(tmp_path)
    assert (path.stat().st_mode, path.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    path.rmdir() if path.is_dir() else path.unlink()
    open_file(tmp_path).close()


@pytest.mark.parametrize("name", ["outbox", "outbox.lock"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_what_a_removed_file_would_take_is_refused_and_what_it_held_stays_readable(
    tmp_path: Path, name: str, is_replaced: bool
) -> None:
    """The next process opens another file: a message that was accepted now would be lost with this one."""
    file = open_file(tmp_path)
    add(file, message(1))
    (tmp_path / name).unlink()
    if is_replaced:
        (tmp_path / name).touch()
    with pytest.raises(OutboxUnavailable, match=rf"{name} was removed or replaced while in use; .* close the Sender"):
        add(file, message(2))
    assert numbers(file) == [1]
    assert file.count == 1
    assert file.note_ended([1]) == 1
    file.close()
    again = open_file(tmp_path)
    assert add(again, message(3)) == [True]
    again.close()


def test_what_a_quota_forbids_is_told_from_other_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, start: int, size: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    file = open_file(tmp_path, max_messages=10_000)
    add(file, *(message(number) for number in range(4000)))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OutboxUnavailable, match="the quota of its file system is used up: make room there, or give"):
        add(file, *(message(number) for number in range(100)))
    assert file.count == 4000
    file.close()


def test_it_takes_bytes_up_to_its_limit(tmp_path: Path) -> None:
    file = open_file(tmp_path, max_bytes=20)
    assert add(file, message(1, body=b"x" * 20), message(2, body=b"x")) == [True, False]
    file.close()


def test_a_batch_ends_behind_the_message_that_makes_it_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.client.outbox_file._BATCH_BYTES", 10)
    file = open_file(tmp_path)
    add(file, *[message(number, body=b"x" * 6) for number in (1, 2, 3)])
    assert numbers(file) == [1, 2]
    file.close()


def test_what_a_failed_transaction_has_purged_is_not_counted_as_expired(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    add(file, message(1, expires_ms=NOW))
    with pytest.raises(OutboxUnavailable), file.transaction():
        file.purge(NOW)
        raise OSError("the disk is full")
    assert file.take_expired() == {}
    file.close()


def test_an_end_is_noted_once(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    add(file, message(1), message(2))
    assert file.note_ended([1]) == 1
    assert file.note_ended([1]) == 0
    assert (file.count, numbers(file)) == (1, [2])
    file.close()


def test_room_is_not_given_back_while_something_is_kept(tmp_path: Path) -> None:
    file = open_file(tmp_path, max_bytes=10_000_000)
    add(file, *[message(number, body=b"x" * 1_000_000) for number in (1, 2, 3)])
    with file.transaction():
        file.remove([1, 2])
    size = (tmp_path / "outbox").stat().st_size
    file.tidy()
    assert (tmp_path / "outbox").stat().st_size == size
    with file.transaction():
        file.remove([3])
    file.tidy()
    assert (tmp_path / "outbox").stat().st_size < 200_000
    file.close()


def test_of_what_no_broker_takes_the_last_hundred_are_kept(tmp_path: Path) -> None:
    file = open_file(tmp_path, max_messages=200)
    add(file, *[message(number) for number in range(1, 103)])
    with file.transaction():
        assert [file.refuse(seq, "oversized") for seq in (*range(1, 103), 102)] == [1] * 102 + [0]
    kept = [seq for (seq,) in file._db.execute("SELECT seq FROM refused ORDER BY seq")]
    assert kept == list(range(3, 103)) and file.count == 0
    file.close()
