from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_service.writer import LogFile, next_midnight
from servicebus.errors import ConfigurationError

NOON = time.mktime((2026, 11, 20, 12, 0, 0, 0, 0, -1))
DAY_S = 86_400.0


def rotated(path: Path) -> list[Path]:
    """The rotated files, oldest first."""
    return sorted(entry for entry in path.parent.iterdir() if entry.name.startswith(path.name + "."))


def everything(path: Path) -> bytes:
    return b"".join(entry.read_bytes() for entry in [*rotated(path), path])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.log"


def dated_to_noon(path: Path) -> LogFile:
    """A file whose last record is of NOON."""
    path.write_bytes(b"before\n")
    os.utime(path, (NOON, NOON))
    return LogFile(str(path))


def test_the_file_and_its_folder_are_made_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "agent.log"
    file = LogFile(str(path))
    file.write([b"one\n", b"two\n"], NOON)
    file.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o007 == 0


def test_a_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path}.* cannot be opened: Is a directory"):
        LogFile(str(tmp_path))


def test_what_was_there_before_stays(path: Path) -> None:
    path.write_bytes(b"before\n")
    file = LogFile(str(path))
    file.write([b"after\n"], time.time())
    file.close()
    assert path.read_bytes() == b"before\nafter\n"


def test_the_first_record_after_midnight_begins_a_new_file(path: Path) -> None:
    file = dated_to_noon(path)
    midnight = next_midnight(NOON)
    file.write([b"late\n"], midnight - 0.1)
    file.write([b"early\n"], midnight + 0.1)
    file.close()
    [old] = rotated(path)
    assert old.name == "agent.log.2026-11-21_00-00-00"
    assert old.read_bytes() == b"before\nlate\n"
    assert path.read_bytes() == b"early\n"


def test_midnight_comes_without_a_record_too(path: Path) -> None:
    file = dated_to_noon(path)
    file.tick(NOON)
    assert rotated(path) == []
    file.tick(NOON + DAY_S)
    assert len(rotated(path)) == 1
    file.tick(NOON + 2 * DAY_S)
    file.close()
    assert len(rotated(path)) == 1, "an empty file is not rotated"


@pytest.mark.parametrize("day", [(2026, 3, 29), (2026, 10, 25), (2026, 12, 31), (2028, 2, 29)])
def test_midnight_is_midnight_on_days_of_23_and_25_hours_too(day: tuple[int, int, int]) -> None:
    zone = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    try:
        now = time.mktime((*day, 0, 30, 0, 0, 0, -1))
        found = time.localtime(next_midnight(now))
        assert (found.tm_hour, found.tm_min, found.tm_sec) == (0, 0, 0)
        assert 22 * 3600 < next_midnight(now) - now < 25 * 3600
    finally:
        os.environ.pop("TZ")
        if zone is not None:
            os.environ["TZ"] = zone
        time.tzset()


@settings(max_examples=50, deadline=None)
@given(
    records=st.lists(st.integers(1, 300), min_size=1, max_size=60), chunk=st.integers(1, 20), limit=st.integers(1, 200)
)
def test_rotation_by_size_loses_nothing_and_cuts_no_record(
    tmp_path_factory: pytest.TempPathFactory, records: list[int], chunk: int, limit: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "agent.log"
    file = LogFile(str(path), at_midnight=False, max_bytes=limit, keep=1000)
    lines = [b"%d:%s\n" % (index, b"x" * length) for index, length in enumerate(records)]
    for at in range(0, len(lines), chunk):
        file.write(lines[at : at + chunk], NOON)
    file.close()
    assert everything(path) == b"".join(lines)
    for each in [*rotated(path), path]:
        content = each.read_bytes()
        assert content.endswith(b"\n")
        assert len(content) <= limit or content.count(b"\n") == 1


def test_only_the_newest_rotated_files_stay_and_files_of_others_are_not_touched(path: Path) -> None:
    foreign = [path.with_name(name) for name in ("agent.log.1", "agent.log.2026-11-20", "agent.logs")]
    for each in foreign:
        each.write_bytes(b"not ours")
    file = LogFile(str(path), at_midnight=False, max_bytes=10, keep=3)
    for number in range(50):
        file.write([b"record %2d\n" % number], NOON)
    file.close()
    ours = [each for each in rotated(path) if each not in foreign]
    assert [each.read_bytes() for each in ours] == [b"record %2d\n" % number for number in (46, 47, 48)]
    assert path.read_bytes() == b"record 49\n"
    assert all(each.read_bytes() == b"not ours" for each in foreign)


def test_after_the_file_was_moved_reopening_makes_a_new_one(path: Path) -> None:
    file = LogFile(str(path))
    file.write([b"one\n"], time.time())
    moved = path.rename(path.with_name("moved"))
    file.write([b"two\n"], time.time())
    file.reopen()
    file.write([b"three\n"], time.time())
    file.close()
    assert (moved.read_bytes(), path.read_bytes()) == (b"one\ntwo\n", b"three\n")


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_a_file_that_was_moved_or_deleted_without_a_word_is_noticed(path: Path, how: str) -> None:
    file = LogFile(str(path))
    file.write([b"one\n"], time.time())
    if how == "moved":
        path.rename(path.with_name("moved"))
        path.write_bytes(b"")
    else:
        path.unlink()
    file.tick(time.time())
    file.write([b"two\n"], time.time())
    file.close()
    assert path.read_bytes() == b"two\n"


def test_a_relative_path_is_meant_from_where_the_server_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = LogFile("agent.log")
    monkeypatch.chdir("/")
    file.reopen()
    file.write([b"one\n"], time.time())
    file.close()
    assert (tmp_path / "agent.log").read_bytes() == b"one\n"


def test_a_disk_that_is_full_keeps_the_records_for_the_next_write(path: Path) -> None:
    """/dev/full answers every write as a full disk does."""
    file = LogFile(str(path), at_midnight=False)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file._fd)
    os.close(full)
    with pytest.raises(OSError, match="No space left"):
        file.write([b"one\n", b"two\n"], NOON)
    null = os.open("/dev/null", os.O_WRONLY)
    reading, writing = os.pipe()
    os.dup2(writing, file._fd)
    file.write([b"three\n"], NOON)
    assert os.read(reading, 100) == b"one\ntwo\nthree\n"
    for each in (null, reading, writing):
        os.close(each)
    file.close()


def test_a_rotation_that_fails_is_told_and_the_file_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LogFile(str(path), at_midnight=False, max_bytes=10)
    file.write([b"0123456789\n"], NOON)

    def refuse(self: Path, target: object) -> Path:
        raise PermissionError(13, "Permission denied")  # as root no folder refuses, so the refusal is made here

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        file.write([b"more\n", b"and more\n"], NOON)
    assert file.rotation_error == f"{path}: Permission denied"
    assert path.read_bytes() == b"0123456789\nmore\nand more\n"
    file.write([b"soon\n"], NOON + 1)
    assert rotated(path) == [], "not tried again at once"
    file.write([b"later\n"], NOON + 61)
    file.close()
    assert file.rotation_error is None
    assert path.read_bytes() == b"later\n"


@pytest.mark.parametrize("kind", ["fifo", "read fifo", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once_and_left_alone(tmp_path: Path, kind: str) -> None:
    """A FIFO without a reader blocks who opens it, and rotation would rename a device."""
    path = tmp_path / "log"
    reader = -1
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if kind == "read fifo" else -1
    before = path.stat()
    with pytest.raises(ConfigurationError, match="log cannot be opened"):
        LogFile(str(path))
    assert path.stat().st_ino == before.st_ino
    if reader >= 0:
        os.close(reader)
