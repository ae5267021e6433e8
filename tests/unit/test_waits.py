"""What a caller waits for has an end, whatever has become of the thread that should end it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from waiting import wait_until

import servicebus.client.future
import servicebus.client.session
from servicebus.client.future import CallFuture
from servicebus.client.request import PendingRequest
from servicebus.configuration import Configuration
from servicebus.errors import CallError, CallTimeout, NoBrokerAvailable, SendUnconfirmed
from servicebus.sender import Sender
from servicebus.transport.iothread import client_loop
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind

NOWHERE = Configuration(
    {"hosts": ["127.0.0.1:1"], "secret_token": "a secret of sixteen", "node_name": "N", "path_wait": 0.1}
)
ENDS = [SystemExit, KeyboardInterrupt, GeneratorExit, ValueError]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicebus.client.future, "MARGIN_S", 0.1)
    monkeypatch.setattr(servicebus.client.future, "LOOK_S", 0.02)


def request_of(kind: Kind) -> PendingRequest:
    return PendingRequest(1, "0123456789abcdef-1", Address.parse("N.a.b"), kind, b"1", body=b"<x/>", timeout_s=0.1)


@pytest.mark.parametrize(("kind", "error"), [(Kind.CALL, CallTimeout), (Kind.MESSAGE, SendUnconfirmed)])
@pytest.mark.parametrize("way", ["wait", "result", "exception"])
def test_a_caller_stops_waiting_for_a_thread_that_is_dead(
    impatient: None, kind: Kind, error: type[Exception], way: str
) -> None:
    request = request_of(kind)
    future = request.future()
    future.is_overdue = request.is_overdue
    with pytest.raises(error, match="the I/O thread of this process did not end it"):
        if way == "wait":
            request.wait()
        elif way == "result":
            future.result()
        else:
            raise future.exception()  # type: ignore[misc]


@pytest.mark.parametrize("error", ENDS)
def test_nothing_that_a_callback_raises_ends_the_thread_that_calls_it(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    def bad(_future: Future[Any]) -> None:
        called.append("bad")
        raise error

    def settle() -> None:
        future.set_result(1)
        called.append("went on")

    future = CallFuture()
    future.add_done_callback(bad)
    future.add_done_callback(lambda _future: called.append("good"))
    thread = threading.Thread(target=settle)
    thread.start()
    thread.join(10)
    assert called == ["bad", "good", "went on"]
    assert "a callback of the future" in caplog.text


@pytest.mark.parametrize("error", ENDS)
def test_the_io_thread_outlives_whatever_gets_out_of_its_loop(error: type[BaseException]) -> None:
    loop, done = client_loop(), threading.Event()

    def bad() -> None:
        raise error

    for _ in range(3):
        loop.post(bad)
    loop.post(done.set)
    assert done.wait(10)
    with Sender(NOWHERE) as sender, pytest.raises(NoBrokerAvailable):
        sender.call("N.a.b", timeout=5)


def test_a_callback_may_close_its_sender_without_waiting_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.client.session._CLOSE_S", 600.0)
    sender, closed = Sender(NOWHERE), threading.Event()

    def close(_future: Future[Any]) -> None:
        sender.close()
        closed.set()

    future = sender.call_async("N.a.b", timeout=0.2)
    future.add_done_callback(close)
    with pytest.raises((NoBrokerAvailable, CallError)):
        future.result(10)
    assert closed.wait(20), "it waits for a loop that it keeps from turning"


def test_a_signal_handler_may_use_the_sender_whose_locks_its_thread_holds() -> None:
    errors: list[Exception] = []
    sender = Sender(NOWHERE)

    def handler(_number: int, _frame: Any) -> None:
        try:
            sender.call("N.a.b", timeout=5)
        except Exception as error:
            errors.append(error)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with servicebus.client.session._session_lock:
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
        sender.close()
    assert [type(error) for error in errors] == [NoBrokerAvailable]


@pytest.mark.parametrize("way", ["call", "call_async", "send", "ping", "close"])
def test_a_child_that_python_was_not_told_of_has_a_sender_of_its_own(way: str) -> None:
    """As of uWSGI: forked in C, so that no hook of Python's runs."""
    with Sender(NOWHERE) as sender:
        with pytest.raises(NoBrokerAvailable):
            sender.call("N.a.b", timeout=5)
        with io_thread_at_rest():
            child = ctypes.PyDLL(None).fork()
            if child == 0:
                os._exit(in_child(sender, way))
        ended: list[tuple[int, int]] = []

        def has_ended() -> bool:
            ended.append(os.waitpid(child, os.WNOHANG))
            return ended[-1][0] != 0

        wait_until(has_ended)
        assert os.waitstatus_to_exitcode(ended[-1][1]) == 7


@contextmanager
def io_thread_at_rest() -> Iterator[None]:
    """It waits for no interpreter lock, which the child would hand over to a thread that it does not have.

    That is Python's, and no Sender can mend it: who forks in C holds that lock, and a thread that asks for it longer
    than 5 ms has it handed over at once.
    """
    began, gate = threading.Event(), threading.Event()
    client_loop().post(lambda: (began.set(), gate.wait(60)))  # type: ignore[func-returns-value,arg-type]
    assert began.wait(10)
    time.sleep(0.02)
    yield
    gate.set()


def in_child(sender: Sender, way: str) -> int:
    signal.alarm(20)
    try:
        if way == "close":
            sender.close()
        elif way == "ping":
            return 7 if not sender.ping("N", 0.3) else 1
        elif way == "call_async":
            sender.call_async("N.a.b", timeout=2).result(10)
        else:
            getattr(sender, way)("N.a.b", timeout=2)
    except NoBrokerAvailable:
        return 7
    except BaseException:
        return 2
    return 7 if way == "close" else 1
