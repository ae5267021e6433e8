"""Rotation under load: every line is in one of the files, once, and whole."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

from logserver import LINE, connected_logger, handler_of, log_server
from waiting import wait_until

FORK = multiprocessing.get_context("fork")
PROCESSES = 4
RECORDS = 3000


def chatter(port: int, process: int, records: int) -> None:
    with connected_logger("chatter", port, close_timeout_s=30.0) as logger:
        for number in range(records):
            logger.info("chatter %d/%d", process, number)
            if number % 100 == 0:
                handler_of(logger).flush()  # so that the load lasts through many rotations


def load(port: int) -> list[multiprocessing.process.BaseProcess]:
    clients = [FORK.Process(target=chatter, args=(port, number, RECORDS)) for number in range(PROCESSES)]
    for client in clients:
        client.start()
    return list(clients)


def ended(clients: list[multiprocessing.process.BaseProcess]) -> bool:
    for client in clients:
        client.join(60)
    return [client.exitcode for client in clients] == [0] * len(clients)


def all_records() -> list[str]:
    return sorted(f"chatter {process}/{number}" for process in range(PROCESSES) for number in range(RECORDS))


def test_rotation_by_size_under_load_loses_no_line(tmp_path: Path) -> None:
    limit = 20_000
    with log_server(tmp_path / "bus.log", "--max-bytes", str(limit), "--keep", "1000") as server:
        assert ended(load(server.port))
        assert sorted(server.messages("chatter ")) == all_records()
        assert server.statistics()["rotations"] > 10
    files = [entry for entry in tmp_path.iterdir() if entry.name.startswith("bus.log")]
    assert all(entry.stat().st_size <= limit for entry in files)
    assert all(LINE.fullmatch(line) for entry in files for line in entry.read_text().splitlines())


def move_again_and_again(path: Path, pid: int, stop: Event, moved: list[Path]) -> None:
    """As logrotate does: move the file away, tell the server by HUP, wait for the new one."""
    while not stop.is_set():
        target = path.with_name(f"bus.log.{len(moved):04d}")
        path.rename(target)
        moved.append(target)
        os.kill(pid, signal.SIGHUP)
        wait_until(path.exists)


def test_a_file_moved_under_load_and_reopened_by_hup_loses_no_line(tmp_path: Path) -> None:
    with log_server(tmp_path / "bus.log") as server:
        stop = FORK.Event()
        moved: list[Path] = []
        clients = load(server.port)
        mover = threading.Thread(target=move_again_and_again, args=(server.path, server.pid, stop, moved))
        mover.start()
        try:
            assert ended(clients)
        finally:
            stop.set()
            mover.join()
        assert sorted(server.messages("chatter ")) == all_records()
        assert len(moved) > 5


def test_a_file_of_yesterday_is_rotated_by_the_first_record_of_today(tmp_path: Path) -> None:
    """Rotation by time, as far as a test can wait: the file's own date tells what day its records are of."""
    path = tmp_path / "bus.log"
    path.write_text("yesterday's\n")
    yesterday = time.time() - 86_400
    os.utime(path, (yesterday, yesterday))
    with log_server(path) as server:
        with connected_logger("today", server.port) as logger:
            logger.info("today's")
        server.terminate()
        assert server.messages() == ["today's"]
    [old] = [entry for entry in tmp_path.iterdir() if entry.name.startswith("bus.log.")]
    assert old.read_text() == "yesterday's\n"
    assert "yesterday" not in path.read_text()


def test_a_deleted_file_is_made_again_within_seconds_without_a_signal(tmp_path: Path) -> None:
    with log_server(tmp_path / "bus.log") as server:
        server.path.unlink()
        wait_until(server.path.exists, 5.0)
        with connected_logger("after", server.port) as logger:
            logger.info("after the file was deleted")
        assert server.messages() == ["after the file was deleted"]
