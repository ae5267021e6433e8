"""advice(): why nothing can be written, which the errors of SQLite do not say."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from servicebus.transport.disk_space import advice

ROOM = {"f_flag": 0, "f_bavail": 1024, "f_frsize": 4096, "f_files": 100, "f_favail": 50}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, ""),
        ({"f_flag": os.ST_RDONLY}, "its file system is read-only: mount it writable, or move it"),
        ({"f_bavail": 511}, "its file system is full: make room there, or move it"),
        ({"f_bavail": 512}, ""),
        ({"f_favail": 0}, "its file system is full: make room there, or move it"),
        ({"f_files": 0, "f_favail": 0}, ""),
    ],
)
def test_a_file_system_that_takes_nothing_is_told_by_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, int], said: str
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _folder: SimpleNamespace(**{**ROOM, **found}))
    assert advice(tmp_path / "file", "move it") == said


@pytest.mark.parametrize(("number", "is_quota"), [(errno.EDQUOT, True), (errno.EOPNOTSUPP, False)])
def test_a_quota_is_found_by_asking_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_quota: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "statvfs", lambda _folder: SimpleNamespace(**ROOM))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert ("quota" in advice(tmp_path / "file", "move it")) is is_quota


def test_of_a_folder_that_is_not_there_nothing_is_said(tmp_path: Path) -> None:
    assert advice(tmp_path / "missing" / "file", "move it") == ""
