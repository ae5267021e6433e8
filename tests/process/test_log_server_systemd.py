"""What the log server tells systemd, in a unit of ``Type=notify``."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from logserver import RunningLogServer, connected_logger, log_server
from waiting import wait_until


class Systemd:
    """The other end of the socket."""

    def __init__(self, folder: Path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.socket.setblocking(False)
        self.heard: list[str] = []

    def lines(self) -> list[str]:
        while True:
            try:
                self.heard += self.socket.recv(65536).decode().splitlines()
            except BlockingIOError:
                return self.heard


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    found = Systemd(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    yield found
    found.socket.close()


@pytest.fixture
def server(systemd: Systemd, tmp_path: Path) -> Iterator[RunningLogServer]:
    with log_server(tmp_path / "bus.log") as server:
        yield server


def test_it_tells_start_watchdog_reload_and_stop(server: RunningLogServer, systemd: Systemd) -> None:
    wait_until(lambda: systemd.lines().count("WATCHDOG=1") > 1, 20)
    assert systemd.lines()[:2] == ["READY=1", f"STATUS=writing {server.path}"]
    assert systemd.lines().count("READY=1") == 1

    server.signal(signal.SIGHUP)
    wait_until(lambda: systemd.lines().count("READY=1") == 2, 20)
    told = [line.partition("=")[0] for line in systemd.lines() if not line.startswith("WATCHDOG")]
    assert told == ["READY", "STATUS", "RELOADING", "MONOTONIC_USEC", "READY"]

    assert server.terminate()[0] == 0
    assert systemd.lines()[-1] == "STOPPING=1"


def test_a_full_disk_is_no_reason_to_restart_it(systemd: Systemd, tmp_path: Path) -> None:
    """It waits for room, and a new process would find no more of it. The limit of file sizes stands in for a disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    server = RunningLogServer(tmp_path / "bus.log")
    server.start(preexec=limit)
    try:
        with connected_logger("full", server.port, close_timeout_s=0.1) as logger:
            for number in range(400):
                logger.info("record %d %s", number, "x" * 100)
            wait_until(lambda: server.path.stat().st_size >= 20_000, 20)
            before = systemd.lines().count("WATCHDOG=1")
            wait_until(lambda: systemd.lines().count("WATCHDOG=1") > before + 3, 20)
    finally:
        server.end()
