"""What the log server makes of what it inherits, of its own standard streams, and of secrets that do not protect."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from logserver import SECRET, connected_logger, handler_of
from waiting import wait_until

from servicebus.errors import ConnectFailed
from servicebus.logging_service import LoggingService
from servicebus.testing.ports import free_ports


def is_up(port: int, secret: str | None) -> bool:
    try:
        return bool(LoggingService.statistics(port, secret))
    except ConnectFailed:
        return False


def waits_in_socket(port: int) -> bool:
    """Something was sent to the server and is not read."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and int(row[4].partition(":")[2], 16) for row in rows)


@contextmanager
def running(*arguments: str, **about: Any) -> Iterator[subprocess.Popen[Any]]:
    with subprocess.Popen([sys.executable, "-m", "logging_service", *arguments], **about) as process:
        try:
            yield process
        finally:
            process.kill()


def block_signals() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD})


def close_streams() -> None:
    for number in (0, 1, 2):
        os.close(number)


def take_all_rights() -> None:
    os.umask(0o777)


@pytest.mark.parametrize("spoil", [block_signals, close_streams, take_all_rights])
def test_it_serves_and_drains_whatever_it_inherits(tmp_path: Path, spoil: Callable[[], None]) -> None:
    path, secret, port = tmp_path / "folder" / "log", tmp_path / "secret", free_ports(1)[0]
    secret.write_text(SECRET)
    # preexec_fn runs after subprocess has put the streams in place.
    command = ["--file", str(path), "--port", str(port), "--secret-file", str(secret)]
    with running(*command, preexec_fn=spoil) as process:
        wait_until(lambda: is_up(port, SECRET), 20)
        streams = [str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in (0, 1, 2)]
        assert not any("socket" in stream for stream in streams)
        with connected_logger("first", port) as logger:
            logger.info("first")
            assert handler_of(logger).flush()
            process.send_signal(signal.SIGSTOP)
            for number in range(20):
                logger.info("record %d", number)
            wait_until(lambda: waits_in_socket(port))
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    text = path.read_text()
    found = re.findall(r"record \d+", text)  # the others it never got
    assert found
    assert found == [f"record {number}" for number in range(len(found))]
    assert f"log server stops: written={1 + len(found)} lost=0" in text
    assert path.stat().st_mode & 0o600 == 0o600


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_its_own_streams_are_written_and_never_rotated(tmp_path: Path, stream: str, kind: str) -> None:
    secret, port, taken = tmp_path / "secret", free_ports(1)[0], tmp_path / "taken"
    secret.write_text(SECRET)
    link = Path("/dev") / stream
    before = link.readlink()
    command = ["--file", str(link), "--port", str(port), "--secret-file", str(secret), "--max-bytes", "4096"]
    with taken.open("wb") as file:
        streams = {stream: subprocess.PIPE if kind == "pipe" else file}
        with running(*command, **streams) as process:
            wait_until(lambda: is_up(port, SECRET), 20)
            with connected_logger("many", port) as logger:
                for number in range(200):
                    logger.info("record %d %s", number, "x" * 40)
                assert handler_of(logger).flush()
            process.send_signal(signal.SIGHUP)
            process.terminate()
            said = (getattr(process, stream).read() if kind == "pipe" else b"").decode()
            assert process.wait(20) == 0
    text = said or taken.read_text()
    assert re.findall(r"record (\d+)", text) == [str(number) for number in range(200)]
    assert link.readlink() == before


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (None, "records are not signed"),
        ("for trying out only", "the one of the samples"),
        ("tiny tiny", "shorter than 16 bytes"),
        (SECRET, ""),
    ],
)
def test_it_says_at_its_start_that_a_secret_does_not_protect(tmp_path: Path, secret: str | None, said: str) -> None:
    path, port = tmp_path / "log", free_ports(1)[0]
    command = ["--file", str(path), "--port", str(port)]
    if secret is not None:
        (tmp_path / "secret").write_text(secret)
        command += ["--secret-file", str(tmp_path / "secret")]
    with running(*command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: is_up(port, secret), 20)
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert errors.count("\n") == bool(said)
    assert said in errors
    assert secret is None or secret not in errors
    assert (said in path.read_text()) and ("WARNING" in path.read_text()) is bool(said)
