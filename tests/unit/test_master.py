"""The master's decisions, without workers: forks that fail, and what HUP makes of children in every state."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servicebus.configuration import BrokerHost, Configuration
from servicebus.runtime import master as master_module
from servicebus.runtime.child import Child
from servicebus.runtime.master import Master
from servicebus.runtime.signals import EXIT_ASKED, EXIT_BOOT, EXIT_FAILED


def config(*hosts: str) -> Configuration:
    return Configuration({"hosts": list(hosts), "secret_token": "of a unit test only", "node_name": "N"})


def not_run(_host: BrokerHost, _heartbeat_fd: int, _parent_death_fd: int) -> int:
    raise AssertionError("no worker is forked here")


def make(*hosts: str, read_again: Callable[[], Configuration] | None = None) -> Master:
    return Master(config(*hosts), not_run, lambda: None, read_again=read_again)


def child(master: Master, name: str) -> Child:
    return next(each for each in master._children if each.host.host == name)


def start(each: Child, pid: int) -> None:
    heartbeat_read, heartbeat_write = os.pipe()
    parent_death_read, parent_death_write = os.pipe()
    os.close(heartbeat_write)
    os.close(parent_death_read)
    each.started(pid, heartbeat_read, parent_death_write, time.monotonic())


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The signals that the master sent; no process gets them."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(Child, "kill", lambda child, signum: sent.append((child.pid, signum)))
    yield sent


@pytest.mark.parametrize("where", ["fork", "pipe"])
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_worker_that_cannot_be_forked_is_tried_again_later(
    where: str, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the agent: the other workers, and the one that was to be replaced."""
    master = make("a:1")
    (a,) = master._children

    def fail() -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, where, fail)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        a._spawn_at = 0.0
        master._spawn_missing()
        assert not a.is_due(time.monotonic() - 1.0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not a.is_alive
    what = "worker a:1#1: could not be started (look at the limits of processes, open files and memory)"
    assert [record.getMessage() for record in caplog.records] == [
        f"{what}: [Errno {number}] {os.strerror(number)}; next try in {pause} s" for pause in ("0.25", "0.50", "1.00")
    ]


def test_what_a_service_writes_among_the_heartbeats_harms_nobody() -> None:
    """It took the number of the pipe for that of a file of its own, and ended the agent."""
    each = Child(config("a:1").hosts[0], 1)
    read, write = os.pipe()
    each.started(1001, read, os.open(os.devnull, os.O_RDONLY), time.monotonic())
    for line in (b"12", b"null", b'["healthy"]', b"[" * 30_000, b"\xff\xfe", b"{", b""):
        os.write(write, line + b"\n")
        each.read_heartbeats(time.monotonic())
        assert each.state["state"] == "starting"
    os.write(write, b'{"state": "consuming"}\n')
    each.read_heartbeats(time.monotonic())
    assert each.state == {"state": "consuming"}
    os.close(write)
    each.close_fds()


@pytest.mark.parametrize("error", [KeyError("hosts"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_the_programs_function_raises_at_hup_the_agent_goes_on_as_it_was(
    error: BaseException, killed: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    def read_again() -> Configuration:
        raise error

    master = make("a:1", read_again=read_again)
    start(child(master, "a"), 1001)
    master._handle(signal.SIGHUP)
    master._roll()
    assert killed == []
    assert caplog.record_tuples == [
        ("servicebus.runtime.reloading", logging.ERROR, "HUP: the configuration stays as it was")
    ]
    assert caplog.records[0].exc_info


def test_a_worker_that_could_not_boot_is_tried_again_after_hup(killed: list[tuple[int, int]]) -> None:
    """Its configuration may be the one that was mended."""
    master = make("a:1", "b:1", read_again=lambda: config("a:1", "b:1"))
    start(child(master, "a"), 1001)
    child(master, "b").is_retired = True
    master._handle(signal.SIGHUP)
    assert child(master, "b").is_due(time.monotonic())


def test_hup_that_removes_the_host_whose_worker_is_being_replaced_goes_on_with_the_others(
    killed: list[tuple[int, int]],
) -> None:
    """No worker was replaced any more, by this HUP or by a later one."""
    given = ["a:1", "b:1", "c:1"]
    master = make(*given, read_again=lambda: config(*given))
    a, b, c = master._children
    for each, pid in ((a, 1001), (b, 1002), (c, 1003)):
        start(each, pid)
    master._handle(signal.SIGHUP)
    master._roll()
    assert killed == [(1001, signal.SIGTERM)]
    del given[0]
    master._handle(signal.SIGHUP)
    killed.clear()
    a.ended(time.monotonic(), as_asked=True)
    master._roll()
    assert killed == [(1002, signal.SIGTERM)]
    master._roll()
    assert killed == [(1002, signal.SIGTERM)]
    b.ended(time.monotonic(), as_asked=True)
    start(b, 1004)
    b.state["healthy"] = True
    master._roll()
    master._roll()
    assert killed == [(1002, signal.SIGTERM), (1003, signal.SIGTERM)]
    for each in (a, b, c):
        each.close_fds()


def test_a_worker_that_the_same_signal_has_ended_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the whole process group: the worker has gone before the master has looked."""

    class Pipe:
        def __init__(self) -> None:
            self.signums = [signal.SIGTERM]

        def take(self) -> list[int]:
            taken, self.signums = self.signums, []
            return list(taken)

        def fileno(self) -> int:
            return sys.stderr.fileno()

        def close(self) -> None: ...

    master = make("a:1")
    monkeypatch.setattr(master_module, "SignalPipe", Pipe)
    monkeypatch.setattr(master, "_spawn", lambda *_: pytest.fail("a worker was started"))
    assert master.run() == 0
    assert master.is_stopping


# -- signals and silence, by a clock that the test turns -----------------------------------------------------------


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(master_module, "time", clock)
    return clock


def start_now(each: Child, pid: int, clock: Clock) -> Child:
    start(each, pid)
    each.started_at = each.heartbeat_at = clock.now
    return each


def test_the_same_signal_again_within_a_second_is_the_same_order(clock: Clock) -> None:
    master = make("a:1")
    orders: list[int | None] = []
    for pause_s, signum in ((0.0, signal.SIGTERM), (0.9, signal.SIGTERM), (0.2, signal.SIGTERM), (0.1, signal.SIGINT)):
        clock.now += pause_s
        master._stop_signal = None
        master._handle(signum)
        orders.append(master._stop_signal)
    assert orders == [signal.SIGTERM, None, signal.SIGTERM, signal.SIGINT]


def test_nothing_is_read_again_by_an_agent_that_stops(clock: Clock) -> None:
    read: list[bool] = []

    def read_again() -> Configuration:
        read.append(True)
        return config("a:1")

    master = make("a:1", read_again=read_again)
    master._handle(signal.SIGTERM)
    master._handle(signal.SIGHUP)
    assert read == []


def test_a_silent_worker_is_aborted_and_killed_two_seconds_later(clock: Clock, killed: list[tuple[int, int]]) -> None:
    master = make("a:1")
    a = start_now(child(master, "a"), 1001, clock)
    a.has_sent_heartbeat = True
    sent = []
    for _ in range(14):
        clock.now += 1.0
        master._retire_silent()
        sent.append([signum for _, signum in killed])
        killed.clear()
    assert sent[:10] == [[]] * 9 + [[signal.SIGABRT]]
    assert sent[10:] == [[], [], [signal.SIGKILL], [signal.SIGKILL]]
    a.close_fds()


def test_a_worker_that_starts_has_longer(clock: Clock, killed: list[tuple[int, int]]) -> None:
    master = make("a:1")
    a = start_now(child(master, "a"), 1001, clock)
    for _ in range(60):
        assert killed == []
        clock.now += 1.0
        master._retire_silent()
    assert killed == [(1001, signal.SIGABRT)]
    a.close_fds()


def test_after_a_pause_of_the_whole_machine_no_worker_counts_as_silent(
    clock: Clock, killed: list[tuple[int, int]]
) -> None:
    master = make("a:1")
    a = start_now(child(master, "a"), 1001, clock)
    a.has_sent_heartbeat = True
    clock.now += 600.0
    master._retire_silent()
    clock.now += 1.0
    master._retire_silent()
    assert killed == []
    a.close_fds()


def test_a_worker_that_could_not_boot_is_not_started_again() -> None:
    master = make("a:1")
    a = child(master, "a")
    start(a, 1001)
    master._ended(a, EXIT_BOOT)
    assert a.is_retired and not a.is_due(time.monotonic() + 3600.0)


def test_the_next_worker_is_not_replaced_while_the_first_drains(killed: list[tuple[int, int]]) -> None:
    """It is alive and healthy, but it is the old one still."""
    master = make("a:1", "b:1")
    for pid, each in enumerate(master._children, 1001):
        start(each, pid)
        each.state["healthy"] = True
    master._handle(signal.SIGHUP)
    for _ in range(3):
        master._roll()
    assert killed == [(1001, signal.SIGTERM)]
    for each in master._children:
        each.close_fds()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, EXIT_FAILED), (signal.SIGINT, EXIT_ASKED)])
def test_only_a_stop_in_order_fails_with_a_worker_that_fails(
    signum: int, code: int, killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    master = make("a:1")
    a = child(master, "a")
    start(a, 1001)

    def reap() -> list[int]:
        a.ended(time.monotonic())
        return [EXIT_FAILED]

    monkeypatch.setattr(master, "_wait", lambda _timeout_s: None)
    monkeypatch.setattr(master, "_reap", reap)
    assert master._stop(signum) == code
    assert killed == [(1001, signum)]
