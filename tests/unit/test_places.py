"""Places that an agent or a test broker makes: what is there and is not ours stays, and is not believed."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from servicebus.runtime.status import StatusSocket
from servicebus.testing.layout import make_erlang_home


def make(path: Path) -> StatusSocket:
    status = StatusSocket(str(path), lambda: {"node": "N"})
    status.open()
    return status


def regular(path: Path) -> None:
    path.write_text("precious")


def link(path: Path) -> None:
    regular(path.parent / "target")
    path.symlink_to(path.parent / "target")


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def link_to_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path.parent / "target"))
    path.symlink_to(path.parent / "target")


@pytest.mark.parametrize("plant", [regular, link, dangling, link_to_socket, Path.mkdir, os.mkfifo])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_no_socket_is_refused_and_stays(
    tmp_path: Path, plant: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "status"
    plant(path)
    before = [(each.name, each.lstat().st_ino, each.lstat().st_mode) for each in sorted(tmp_path.iterdir())]
    status = make(path)
    assert status.watched() == []
    status.close()
    assert before == [(each.name, each.lstat().st_ino, each.lstat().st_mode) for each in sorted(tmp_path.iterdir())]
    assert f"no status socket at {path}: something that is no socket is there and stays" in caplog.text


def test_what_a_killed_agent_left_is_replaced_and_another_agents_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "status"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    status = make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(path))
        status.serve(None)
        assert json.loads(asking.recv(100)) == {"node": "N"}
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        status.close()
        assert path.is_socket()


def test_a_path_that_is_too_long_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert make(tmp_path / ("ü" * 90)).watched() == []
    assert "AF_UNIX path too long" in caplog.text


def test_an_erlang_cookie_that_others_planted_or_can_read_is_refused(tmp_path: Path) -> None:
    make_erlang_home(tmp_path)
    cookie = tmp_path / ".erlang.cookie"
    text = cookie.read_text()
    assert (len(text), stat.S_IMODE(cookie.stat().st_mode)) == (32, 0o400)
    make_erlang_home(tmp_path)
    assert cookie.read_text() == text
    cookie.chmod(0o440)
    with pytest.raises(RuntimeError, match="is not believed"):
        make_erlang_home(tmp_path)
    cookie.rename(tmp_path / "planted")
    cookie.symlink_to("planted")
    with pytest.raises(RuntimeError, match="is not believed"):
        make_erlang_home(tmp_path)
