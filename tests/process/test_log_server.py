"""The log server and its clients as real processes."""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import os
import pickle
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from logserver import SECRET, RunningLogServer, connected_logger, handler_of, log_server
from waiting import wait_until

from servicebus.errors import ConfigurationError, ConnectFailed
from servicebus.logging_service import LoggingService
from servicebus.transport.udp import DatagramHandler
from servicebus.wire.logrecord import Datagram, DatagramKind, Record, encode_batch, encode_datagram
from servicebus.wire.signing import Keyring

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningLogServer]:
    with log_server(tmp_path / "bus.log") as running:
        yield running


def burst(port: int, process: int, count: int, start: Barrier) -> None:
    with connected_logger("burst", port, close_timeout_s=30.0) as logger:
        start.wait()
        for number in range(count):
            logger.info("burst %d/%d: a record as long as records of services are, about", process, number)


def test_a_burst_of_50000_records_from_8_processes_arrives(server: RunningLogServer) -> None:
    """Written plus counted as lost is what was sent, and at most 0.1 % is lost."""
    sent = 50_000
    start = FORK.Barrier(8)
    clients = [FORK.Process(target=burst, args=(server.port, number, sent // 8, start)) for number in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
        assert client.exitcode == 0
    found = server.statistics()
    assert found["written"] + found["lost"] == sent
    assert found["lost"] <= sent // 1000
    assert found["refused"] == 0
    assert found["processes"] == 8
    messages = server.messages("burst ")
    assert len(messages) == len(set(messages)) == found["written"]
    for process in range(8):
        numbers = [int(text.split("/")[1].split(":")[0]) for text in messages if text.startswith(f"burst {process}/")]
        assert numbers == sorted(numbers), "the records of one process stand in their order"


@pytest.mark.parametrize("character", ["x", "ä", "\x01"])
def test_a_record_of_one_mebibyte_arrives_whole(server: RunningLogServer, character: str) -> None:
    """Also where JSON needs six bytes for each."""
    message = character * ((1 << 20) // len(character.encode()))
    with connected_logger("long", server.port) as logger:
        logger.info("before")
        logger.info("%s", message)
        logger.info("after")
    assert server.statistics()["written"] == 3
    assert server.messages() == ["before", message.replace("\x01", "\\x01"), "after"]


def test_a_longer_record_is_cut_with_a_mark(server: RunningLogServer) -> None:
    with connected_logger("long", server.port) as logger:
        logger.info("x" * 3_000_000)
    [message] = server.messages()
    assert message == "x" * (1 << 20) + f" [cut here: {3_000_000 - (1 << 20)} of 3000000 bytes are missing]"


def forged_packets() -> list[bytes]:
    """A hello and a record, signed with another secret and not at all."""
    sender = b"0123456789abcdef"
    body = encode_batch(1, [Record(0.0, 50, "CRITICAL", "root", "main", "forged")])
    packets = [
        Datagram(DatagramKind.HELLO, sender, body=b'{"pid": 1, "name": "forger", "record": 1}'),
        Datagram(DatagramKind.RECORDS, sender, sender + b"-1", 1, 0, body),
    ]
    return [encode_datagram(packet, signer) for packet in packets for signer in (None, Keyring(["guessed"]))]


class Hostile:
    """Unpickled, this makes a folder."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._path),)


def test_garbage_forged_and_pickled_datagrams_are_refused_and_counted(server: RunningLogServer, tmp_path: Path) -> None:
    chance = random.Random(1)
    garbage = [chance.randbytes(chance.randrange(3000)) for _ in range(500)]
    hostile = pickle.dumps({"msg": Hostile(tmp_path / "owned")}, 1)
    old = logging.handlers.DatagramHandler("127.0.0.1", server.port)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for raw in [*garbage, *forged_packets(), struct.pack(">L", len(hostile)) + hostile]:
                stranger.sendto(raw, ("127.0.0.1", server.port))
        old.emit(logging.LogRecord("app", logging.INFO, "f.py", 1, "of an old program", None, None))
    finally:
        old.close()
    found = server.wait_for("refused", 506)
    assert found["refusals"] == {"malformed": 500, "signature": 4, "pickled": 2}
    assert found["written"] == 0
    assert not (tmp_path / "owned").exists()
    with connected_logger("honest", server.port) as logger:
        logger.info("still serving")
    assert server.messages() == ["still serving"]
    server.terminate()
    text = server.text()
    assert "refused=506 (malformed=500, pickled=2, signature=4)" in text
    assert text.count("pickled records of py-servicebus 2.x are refused by policy") == 1
    assert "forged" not in text


def test_garbage_cannot_fill_the_disk(server: RunningLogServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for number in range(20_000):
            stranger.sendto(b"garbage", ("127.0.0.1", server.port))
            if number % 500 == 0:
                server.statistics()  # so that the socket does not just overflow
    assert server.statistics()["refused"] > 10_000
    assert len(server.text()) < 2_000


def recorded_by(proxy: socket.socket, port: int, traffic: list[bytes], stop: threading.Event) -> None:
    """Stand between one client and the server, and keep what the client sends."""
    client = None
    proxy.settimeout(0.05)
    while not stop.is_set():
        try:
            raw, address = proxy.recvfrom(65536)
        except TimeoutError:
            continue
        if address[1] == port:
            if client is not None:
                proxy.sendto(raw, client)
        else:
            client = address
            traffic.append(raw)
            proxy.sendto(raw, ("127.0.0.1", port))


def test_datagrams_played_back_are_refused_also_by_the_next_server(server: RunningLogServer) -> None:
    traffic: list[bytes] = []
    stop = threading.Event()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as proxy,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief,
    ):
        proxy.bind(("127.0.0.1", 0))
        between = threading.Thread(target=recorded_by, args=(proxy, server.port, traffic, stop))
        between.start()
        try:
            with connected_logger("victim", proxy.getsockname()[1]) as logger:
                for number in range(5):
                    logger.info("said once %d", number)
                    assert handler_of(logger).flush()
        finally:
            stop.set()
            between.join()
        packets = [raw for raw in traffic if b" records " in raw.split(b"\n")[0]]
        assert len(packets) == 5
        for raw in traffic:
            thief.sendto(raw, ("127.0.0.1", server.port))
        found = server.wait_for("refused", len(packets))
        assert found["refusals"]["replayed"] >= len(packets)
        server.terminate()
        server.start()
        for raw in traffic:
            thief.sendto(raw, ("127.0.0.1", server.port))
        assert server.wait_for("refused", len(packets))["refusals"]["unknown-session"] >= len(packets)
    assert server.statistics()["written"] == 0
    assert len(server.messages("said once")) == 5


def test_a_server_without_secret_takes_records_without_and_no_signed_ones(tmp_path: Path) -> None:
    """Signed against unsigned is a mistake in somebody's configuration: it shows as refusals, not as silence."""
    with log_server(tmp_path / "open.log", secret=None) as server:
        with connected_logger("open", server.port, secret=None) as logger:
            logger.info("plain")
        with connected_logger("signed", server.port, secret="x", close_timeout_s=0.2) as logger:
            logger.info("signed")
        assert server.statistics()["refusals"].keys() == {"signature"}
        assert server.messages() == ["plain"]


def test_a_message_with_line_ends_cannot_forge_a_line(server: RunningLogServer) -> None:
    with connected_logger("multi", server.port) as logger:
        logger.info("first\n[2026-01-01 00:00:00,000 PID:1]CRITICAL:forged\r[2026-01-01 00:00:00,000 PID:1]INFO:forged")
        try:
            raise ValueError("reason")
        except ValueError:
            logger.exception("failed")
    assert server.messages() == ["first", "failed"]
    assert "\n    [2026-01-01 00:00:00,000 PID:1]CRITICAL:forged\\r[2026" in server.text()
    assert "\n    ValueError: reason\n" in server.text()


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text today")

    __repr__ = __str__


def test_nothing_that_a_record_holds_raises_into_the_caller(server: RunningLogServer) -> None:
    with connected_logger("odd", server.port) as logger:
        logger.info("%d", "no number")
        logger.info(Unprintable())
        logger.info("%s", Unprintable())
        logger.info("\ud800 half a character")
        assert handler_of(logger).flush()
        counted = handler_of(logger).counters
    assert (counted["accepted"], counted["dropped"]) == (3, 1)
    found = server.messages()
    assert found[0].startswith("'%d' (its arguments do not fit: TypeError: ")
    assert found[1] == "'%s' (its arguments do not fit: RuntimeError: no text today)"
    assert found[2] == "\\ud800 half a character"
    assert server.statistics()["lost"] == 1


def test_a_record_made_by_hand_of_odd_parts_costs_no_other_record(server: RunningLogServer) -> None:
    """Programs make records of their own, and formatters that give what they like."""
    odd: list[dict[str, Any]] = [
        {"created": float("nan"), "msg": "no time"},
        {"created": -1, "msg": "before the epoch"},
        {"levelno": 20, "levelname": None, "name": 7, "threadName": b"bytes", "msg": "no names"},
        {"created": "yesterday", "msg": "dropped, for it cannot be a number"},
    ]
    with connected_logger("odd", server.port) as logger:
        logger.info("before")
        for attributes in odd:
            logger.handle(logging.makeLogRecord({"levelno": 20, "levelname": "INFO", **attributes}))
        handler_of(logger).setFormatter(Blunt())
        logger.info("x")
    assert server.messages() == ["before", "no time", "before the epoch", "['a list']"]
    assert "]None:no names\n" in server.text()
    found = server.statistics()
    assert (found["written"], found["lost"], found["refused"]) == (5, 1, 0)


class Blunt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> Any:
        return ["a list"]


def log_and_leave(port: int, name: str) -> None:
    logging.getLogger(name).info("from the child %d", os.getpid())


def test_parent_and_forked_children_are_told_apart_and_nothing_is_doubled(server: RunningLogServer) -> None:
    """The child leaves at once, as children of multiprocessing do; its record arrives all the same."""
    with connected_logger("family", server.port) as logger:
        logger.info("parent before")
        children = [FORK.Process(target=log_and_leave, args=(server.port, "family")) for _ in range(3)]
        for child in children:
            child.start()
        logger.info("parent after")
        for child in children:
            child.join(10)
    messages = Counter(server.messages())
    assert messages == Counter(
        ["parent before", "parent after", *(f"from the child {child.pid}" for child in children)]
    )
    assert server.statistics()["processes"] == 4


def test_a_forked_child_that_leaves_by_os_exit_says_its_last_words_through_shutdown(server: RunningLogServer) -> None:
    with connected_logger("bare", server.port) as logger:
        logger.info("parent")
        assert handler_of(logger).flush()
        pid = os.fork()
        if pid == 0:
            logger.info("last words")
            logging.shutdown()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    assert Counter(server.messages()) == Counter(["parent", "last words"])


def log_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "servicebus-log"]


def test_a_process_that_must_stay_without_threads_does(server: RunningLogServer) -> None:
    with connected_logger("dull", server.port, threaded=False) as logger:
        for number in range(1000):
            logger.info("record %d", number)
        assert log_threads() == []

        def all_acknowledged() -> bool:
            handler_of(logger).pump()
            return handler_of(logger).counters["acknowledged"] == 1000

        wait_until(all_acknowledged)
    assert server.statistics()["written"] == 1000


def test_the_thread_goes_before_a_fork_and_comes_back(server: RunningLogServer) -> None:
    with connected_logger("sometimes", server.port) as logger:
        logger.info("one")
        assert log_threads() == ["servicebus-log"]
        handler_of(logger).set_threaded(False)
        assert log_threads() == []
        logger.info("two")
        handler_of(logger).set_threaded(True)
        logger.info("three")
        assert log_threads() == ["servicebus-log"]
    assert server.messages() == ["one", "two", "three"]


def test_statistics_say_which_link_is_broken(server: RunningLogServer) -> None:
    with pytest.raises(ConnectFailed, match="same secret") as silent:
        LoggingService.statistics(server.port, "another", timeout_s=0.3)
    assert silent.value.kind == "silent"
    server.terminate()
    with pytest.raises(ConnectFailed, match="refused") as refused:
        LoggingService.statistics(server.port, SECRET)
    assert refused.value.kind == "refused"


def test_the_secret_is_shown_nowhere(server: RunningLogServer) -> None:
    handler = DatagramHandler("127.0.0.1", server.port, [SECRET])
    assert SECRET not in repr(handler) + repr(vars(handler))
    handler.close()
    _, errors = server.terminate()
    assert SECRET not in server.text() + errors


def test_what_is_in_the_socket_is_written_before_the_server_ends(server: RunningLogServer) -> None:
    with connected_logger("last", server.port) as logger:
        logger.info("first")
        assert handler_of(logger).flush()
        server.signal(signal.SIGSTOP)
        for number in range(100):
            logger.info("record %d", number)
        wait_until(lambda: handler_of(logger).counters["sent"] == 101)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        assert server.wait(60.0)[0] == 0
        assert server.messages("record ") == [f"record {number}" for number in range(100)]
        assert handler_of(logger).flush(), "it acknowledged as well"


def run_logd(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "logging_service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_server_that_cannot_start_says_why_in_one_line_and_exits_3(server: RunningLogServer, tmp_path: Path) -> None:
    secret_file = tmp_path / "empty"
    secret_file.write_text("\n")
    cases = {
        ("--file", str(tmp_path / "b.log"), "--port", str(server.port)): "Address already in use",
        ("--file", str(tmp_path), "--port", "0"): "Is a directory",
        ("--port", "0"): "no file to write",
        ("--file", "x", "--secret-file", str(secret_file)): "holds no secret",
        ("--file", "x", "--secret-file", str(tmp_path / "none")): "No such file",
        ("--file", str(tmp_path / "b.log"), "--port", "0", "--format", "%(colour)s"): "has no field 'colour'",
        (str(tmp_path / "none.yaml"),): "cannot be read",
    }
    for arguments, reason in cases.items():
        ended = run_logd(*arguments)
        assert ended.returncode == 3, (arguments, ended)
        assert reason in ended.stderr
        assert ended.stderr.count("\n") == 1
    assert run_logd("--colour").returncode == 2


def test_the_server_takes_its_settings_from_a_file_and_options_win(tmp_path: Path) -> None:
    config = tmp_path / "log.yaml"
    config.write_text(f"logging:\n  file: {tmp_path}/from-file.log\n  port: 1\n  secret: {SECRET}\n")
    with log_server(tmp_path / "from-option.log", str(config), secret=None) as server:
        with connected_logger("configured", server.port) as logger:
            logger.warning("signed by the secret of the file")
        assert server.messages() == ["signed by the secret of the file"]
    assert not (tmp_path / "from-file.log").exists()


def test_a_host_that_means_nothing_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="cannot be resolved"):
        DatagramHandler("no host can have this name", 5500)
