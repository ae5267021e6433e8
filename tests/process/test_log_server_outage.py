"""What becomes of records while the log server is down, frozen, killed, or has no room on its disk."""

from __future__ import annotations

import logging
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from logserver import RunningLogServer, connected_logger, handler_of, log_server
from waiting import Stopwatch, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningLogServer]:
    with log_server(tmp_path / "bus.log") as running:
        yield running


def numbered(word: str, count: int) -> list[str]:
    return [f"{word} {number}" for number in range(count)]


def test_warnings_wait_for_a_server_that_is_down_and_arrive_in_order(server: RunningLogServer) -> None:
    server.terminate()
    with connected_logger("patient", server.port) as logger:
        for number in range(500):
            logger.warning("warning %d", number)
        assert not handler_of(logger).flush(0.2)
        server.start()
        assert handler_of(logger).flush(10.0)
    assert server.messages() == numbered("warning", 500)
    assert server.statistics()["lost"] == 0


def test_chatter_beyond_the_backlog_is_dropped_for_the_warnings_and_counted_by_the_server(
    server: RunningLogServer,
) -> None:
    """Everything sent is written or counted as lost, whoever dropped it."""
    server.terminate()
    with connected_logger("flood", server.port, max_records=1000) as logger:
        for number in range(3000):
            logger.info("chatter %d", number)
            if number % 10 == 0:
                logger.warning("warning %d", number // 10)
        server.start()
        assert handler_of(logger).flush(10.0)
        counted = handler_of(logger).counters
    found = server.statistics()
    assert server.messages("warning ") == numbered("warning", 300)
    assert counted["dropped"] == found["lost"] > 1000
    assert found["written"] + found["lost"] == 3300
    server.terminate()
    assert f"{found['lost']} log records of process" in server.text()


def test_no_warning_is_lost_when_the_server_is_killed_and_started_anew_under_load(server: RunningLogServer) -> None:
    """What it had written but not acknowledged when it was killed is written again: every one at least once."""
    with connected_logger("loaded", server.port) as logger:
        for number in range(6000):
            logger.warning("warning %d", number)
            if number in (1500, 3000, 4500):
                wait_until(lambda: handler_of(logger).counters["acknowledged"] > 0)
                server.kill()
                server.start()
        assert handler_of(logger).flush(20.0)
    found = server.messages("warning ")
    assert list(dict.fromkeys(found)) == numbered("warning", 6000)
    assert len(found) < 12_000


def test_a_frozen_server_gets_everything_when_it_thaws(server: RunningLogServer) -> None:
    with connected_logger("frozen", server.port) as logger:
        logger.warning("warning 0")
        assert handler_of(logger).flush()
        server.signal(signal.SIGSTOP)
        for number in range(1, 5000):
            logger.warning("warning %d", number)
        assert not handler_of(logger).flush(0.5)
        server.signal(signal.SIGCONT)
        assert handler_of(logger).flush(20.0)
    assert server.messages() == numbered("warning", 5000)
    assert server.statistics()["refused"] == 0


def test_a_thing_on_the_port_that_never_answers_neither_blocks_nor_raises() -> None:
    """The caller goes on, and so does the end of the process after the time that it is given."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        with connected_logger("unheard", deaf.getsockname()[1], close_timeout_s=0.3) as logger:
            for number in range(1000):
                logger.error("error %d", number)
            watch = Stopwatch()
        assert watch.elapsed_s >= 0.3


def test_what_could_not_be_delivered_is_said_at_the_end(
    server: RunningLogServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.terminate()
    with connected_logger("undelivered", server.port) as logger:
        logger.error("nobody will read this")
        logger.error("nor this")
    said = f"servicebus: 2 log records were not delivered to 127.0.0.1:{server.port}: no answer\n"
    assert capsys.readouterr().err == said


def test_a_server_whose_disk_is_full_lets_the_records_wait(tmp_path: Path) -> None:
    """The limit of file sizes stands in for a disk: the write fails, the operator moves the file, and says HUP."""
    limit = 20_000
    path = tmp_path / "bus.log"
    server = RunningLogServer(path)
    server.start(preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    try:
        with connected_logger("full", server.port) as logger:
            for number in range(300):
                logger.warning("warning %d %s", number, "x" * 50)
            wait_until(lambda: path.stat().st_size == limit)
            assert not handler_of(logger).flush(0.3)
            path.rename(tmp_path / "moved")
            server.signal(signal.SIGHUP)
            assert handler_of(logger).flush(10.0)
            _, errors = server.terminate()
        text = (tmp_path / "moved").read_text() + path.read_text()
        assert [line.split()[3] for line in text.splitlines() if ":warning " in line] == [str(n) for n in range(300)]
        assert errors.count("cannot write") == 1
        assert "File too large; records wait" in errors
    finally:
        server.end()


def test_a_client_that_closes_while_the_server_is_up_has_delivered_all(server: RunningLogServer) -> None:
    for round_number in range(10):
        with connected_logger("short", server.port) as logger:
            logger.log(logging.INFO, "record %d", round_number)
    assert server.messages() == numbered("record", 10)
