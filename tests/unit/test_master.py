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
    monkeypatch.setattr(master_module, "_kill", lambda pid, signum: sent.append((pid, signum)))
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
        ("servicebus.runtime.master", logging.ERROR, "HUP: the configuration stays as it was")
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
