"""A loop whose turns callers take over: with real threads, over real socket pairs."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CodeType, FrameType
from typing import Any

import pytest
from loops import turning
from waiting import wait_until

from servicebus.errors import LifecycleError
from servicebus.transport.loop import nothing
from servicebus.transport.sharedloop import _LENT, SharedLoop
from servicebus.transport.stream import SocketStream


class Interrupted(Exception):
    """What a signal handler of the program raises."""


class Echo:
    """A stream to a peer that sends back what it gets, and those who wait for an answer from it."""

    def __init__(self, loop: SharedLoop, sock: socket.socket):
        self.loop = loop
        self.received = b""
        self.readers: list[int] = []
        self.lost: list[BaseException | None] = []
        self.on_data: Callable[[], None] = lambda: None
        self.stream = SocketStream(loop, sock, self)

    def connection_made(self, transport: Any) -> None: ...

    def eof_received(self) -> None: ...

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.readers.append(threading.get_ident())
        self.on_data()

    def ask(self, text: bytes) -> None:
        """As a caller does: the lead if it is to be had, else the thread; back when *text* has come back."""
        before = len(self.received)
        is_over = lambda: len(self.received) >= before + len(text)  # noqa: E731
        write = lambda: self.stream.write(text)  # noqa: E731
        self.loop.wait_for(write, lambda: self.loop.post(write), is_over)
        wait_until(is_over)

    def ask_until_led(self) -> None:
        """Until an answer is read by this thread itself."""

        def led() -> bool:
            self.ask(b"x")
            return self.readers[-1] == threading.get_ident()

        wait_until(led)


@pytest.fixture
def loop() -> Iterator[SharedLoop]:
    with turning(SharedLoop("test")) as loop:
        yield loop


@contextmanager
def echoing(loop: SharedLoop) -> Iterator[Echo]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def answer() -> None:
        with theirs, suppress(ConnectionError):  # where ours was cut
            while data := theirs.recv(65536):
                theirs.sendall(data)

    peer = threading.Thread(target=answer)
    peer.start()
    echo = Echo(loop, ours)
    loop.post(echo.stream.start)
    yield echo
    loop.post(echo.stream.abort)
    peer.join(5)
    assert not peer.is_alive()


@pytest.fixture
def echo(loop: SharedLoop) -> Iterator[Echo]:
    with echoing(loop) as echo:
        yield echo


def in_loop(loop: SharedLoop) -> int:
    """The thread that runs what is posted."""
    found: list[int] = []
    loop.post(lambda: found.append(threading.get_ident()))
    return wait_until(lambda: found)[0]


def test_a_lone_caller_reads_its_answers_itself(loop: SharedLoop, echo: Echo) -> None:
    echo.ask_until_led()


def test_what_others_post_is_done_by_the_loops_own_thread(loop: SharedLoop, echo: Echo) -> None:
    own = in_loop(loop)
    for _ in range(20):
        echo.ask_until_led()
        assert in_loop(loop) == own


def test_a_timer_that_is_due_is_run_by_the_loops_own_thread(loop: SharedLoop, echo: Echo) -> None:
    own = in_loop(loop)
    ran_in: list[int] = []

    def begin() -> None:
        loop.call_later(0.05, lambda: ran_in.append(threading.get_ident()))

    loop.post(begin)
    while not ran_in:
        echo.ask(b"x")
    assert ran_in == [own]


def test_a_loop_that_was_lent_goes_on_by_itself(loop: SharedLoop, echo: Echo) -> None:
    echo.ask_until_led()
    me = len(echo.readers)
    loop.post(lambda: echo.stream.write(b"y"))
    assert wait_until(lambda: echo.readers[me:]) == [in_loop(loop)]


def test_many_callers_get_all_their_answers(loop: SharedLoop, echo: Echo) -> None:
    done = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(50):
            with lock:  # the echo knows no ids: one question at a time, from changing threads
                echo.ask(b"abc")
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 8
    assert len(echo.received) == 8 * 50 * 3


def test_the_thread_that_reads_the_answers_must_not_wait_for_one(loop: SharedLoop, echo: Echo) -> None:
    answers: list[bool] = []
    begun: list[None] = []

    def ask() -> None:
        answers.append(loop.can_wait_here())
        with pytest.raises(LifecycleError, match="reads the answers"):
            loop.wait_for(lambda: begun.append(None), lambda: begun.append(None), lambda: False)

    echo.on_data = ask
    echo.ask_until_led()
    loop.post(ask)
    wait_until(lambda: len(answers) > len(echo.readers))
    assert set(answers) == {False}
    assert not begun
    assert loop.can_wait_here()


def test_while_one_leads_another_waits_for_nothing_but_its_answer(loop: SharedLoop, echo: Echo) -> None:
    echo.ask_until_led()
    me = threading.get_ident()
    submitted: list[int] = []

    def follow() -> None:
        loop.follow(lambda: submitted.append(threading.get_ident()), lambda: False)

    def interfere() -> None:
        if threading.get_ident() == me and not submitted:
            other = threading.Thread(target=follow)
            other.start()
            other.join(5)
            assert not other.is_alive()

    echo.on_data = interfere
    echo.ask_until_led()
    assert len(submitted) == 1


def raising(*_: object) -> None:
    raise Interrupted


@pytest.fixture
def handler() -> Iterator[Callable[[Callable[..., None]], None]]:
    """Sets the handler of SIGUSR1; the old one is back afterwards."""
    before = signal.getsignal(signal.SIGUSR1)

    def handle(function: Callable[..., None]) -> None:
        signal.signal(signal.SIGUSR1, function)

    yield handle
    signal.signal(signal.SIGUSR1, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_who_is_interrupted_while_it_waits_leaves_everything_whole(
    loop: SharedLoop, echo: Echo, handler: Callable[[Callable[..., None]], None]
) -> None:
    handler(raising)
    echo.ask_until_led()
    with pytest.raises(Interrupted):
        while True:
            threading.Timer(0.001, interrupt).start()
            loop.wait_for(lambda: None, lambda: None, lambda: False)
    echo.ask(b"still here")
    assert echo.lost == []


def test_who_is_interrupted_at_work_costs_the_connections_and_nothing_else(
    loop: SharedLoop, echo: Echo, handler: Callable[[Callable[..., None]], None]
) -> None:
    handler(raising)
    echo.ask_until_led()
    me = threading.get_ident()

    def strike() -> None:
        if threading.get_ident() == me:
            interrupt()

    echo.on_data = strike
    with pytest.raises(Interrupted):
        echo.ask_until_led()
    assert isinstance(wait_until(lambda: echo.lost)[0], ConnectionAbortedError)
    assert in_loop(loop) != me


def test_a_signal_handler_may_ask_while_its_thread_waits(
    loop: SharedLoop, echo: Echo, handler: Callable[[Callable[..., None]], None]
) -> None:
    asked: list[bool] = []

    def ask(*_: object) -> None:
        with suppress(LifecycleError):  # it was at work
            echo.ask(b"from a handler")
            asked.append(True)

    handler(ask)
    echo.ask_until_led()
    while not asked:
        threading.Timer(0.001, interrupt).start()
        loop.wait_for(lambda: None, lambda: None, lambda: bool(asked))
    assert echo.received.endswith(b"from a handler")
    echo.ask(b"and on")


def test_what_is_submitted_is_run_by_the_thread_that_runs_the_loop(loop: SharedLoop, echo: Echo) -> None:
    own, me = in_loop(loop), threading.get_ident()
    ran_in: list[int] = []
    loop.submit(lambda: ran_in.append(threading.get_ident()))
    assert wait_until(lambda: ran_in) == [own]
    echo.ask_until_led()
    loop.submit(lambda: ran_in.append(threading.get_ident()))
    assert wait_until(lambda: ran_in[1:]) == [own]  # it is taken back by itself

    def led() -> bool:
        echo.ask_until_led()
        count = len(ran_in)
        loop.submit(lambda: ran_in.append(threading.get_ident()))
        echo.ask(b"x")
        return ran_in[count:] == [me]

    wait_until(led)


def test_what_was_submitted_is_run_again_when_its_leader_was_interrupted(
    loop: SharedLoop, echo: Echo, handler: Callable[[Callable[..., None]], None]
) -> None:
    handler(raising)
    me, ran_in = threading.get_ident(), []

    def strike() -> None:
        ran_in.append(threading.get_ident())
        if threading.get_ident() == me:
            interrupt()

    def submit_and_lead() -> None:
        while True:
            echo.ask_until_led()
            loop.submit(strike)
            echo.ask(b"x")

    with pytest.raises(Interrupted):
        submit_and_lead()
    wait_until(lambda: ran_in[-2:] == [me, in_loop(loop)])
    assert wait_until(lambda: echo.lost)


def test_a_submission_does_not_overtake_what_was_posted_before(loop: SharedLoop, echo: Echo) -> None:
    ran: list[int] = []
    for number in range(0, 3000, 2):
        loop.post(lambda number=number: ran.append(number))  # type: ignore[misc]
        loop.submit(lambda number=number: ran.append(number + 1))  # type: ignore[misc]
        if not number % 100:
            echo.ask(b"x")
    wait_until(lambda: len(ran) == 3000)
    place = {number: index for index, number in enumerate(ran)}
    assert all(place[number] < place[number + 1] for number in range(0, 3000, 2))


LEADING = [
    function.__code__
    for function in (
        SharedLoop.wait_for,
        SharedLoop.lead,
        SharedLoop.follow,
        SharedLoop._read_streams,
        SharedLoop._call_back,
    )
]
LINES = sorted({(code, line) for code in LEADING for _, _, line in code.co_lines() if line}, key=lambda it: it[1])
ALWAYS_REACHED = {SharedLoop.wait_for.__code__, SharedLoop.lead.__code__, SharedLoop.follow.__code__}


def interrupted_at(code: CodeType, line: int, work: Callable[[], None]) -> bool:
    """Do *work*, and raise Interrupted in this thread as it comes to that line; False if it does not come there."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code is not code:
            return trace if frame.f_code in LEADING else None
        if event == "line" and frame.f_lineno == line:
            raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.fixture
def short_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.transport.sharedloop._LOST_LEAD_S", 0.02)


@pytest.mark.usefixtures("short_loss")
def test_who_is_interrupted_at_any_line_leaves_a_loop_that_runs(loop: SharedLoop) -> None:
    reached: set[tuple[CodeType, int]] = set()
    for code, line in LINES:
        with echoing(loop) as echo:

            def work(echo: Echo = echo) -> None:
                for _ in range(10):
                    echo.ask(b"x")

            if interrupted_at(code, line, work):
                reached.add((code, line))
        with echoing(loop) as echo:  # the connections of the one before may have been cut
            echo.ask(b"still here")
            assert echo.received == b"still here"
            assert in_loop(loop) != threading.get_ident()
    assert {code for code, _ in reached} >= ALWAYS_REACHED
    assert len(reached) > len(LINES) / 2


@pytest.mark.usefixtures("short_loss")
def test_who_is_interrupted_again_before_it_has_left_leaves_a_loop_that_runs(loop: SharedLoop, echo: Echo) -> None:
    echo.ask_until_led()

    never: Any = raising

    def led() -> bool:
        echo.ask(b"x")
        return loop.lead(raising, never)  # the second one comes while it ends

    with pytest.raises(Interrupted):
        wait_until(led)
    assert wait_until(lambda: echo.lost), "it may have been reading"
    with echoing(loop) as again:
        again.ask_until_led()


@pytest.mark.usefixtures("short_loss")
def test_a_lead_that_was_taken_for_lost_leads_nothing_when_its_holder_goes_on(loop: SharedLoop, echo: Echo) -> None:
    def take() -> bool:
        echo.ask(b"x")
        return loop._lead_state is _LENT and loop._lead.lock.acquire(blocking=False)

    wait_until(take)
    lead, begun = loop._lead, []
    own = in_loop(loop)  # after the loop has taken it back
    assert own != threading.get_ident()
    assert not loop.lead(lambda: begun.append(True), lambda: True, lead)
    assert begun == []
    echo.ask_until_led()
    assert echo.lost == []


@pytest.mark.usefixtures("short_loss")
def test_a_leader_that_is_slow_is_not_taken_for_lost(loop: SharedLoop, echo: Echo) -> None:
    me, threads = threading.get_ident(), []
    paused = threading.Event()

    def be_slow() -> None:
        threads.append(threading.get_ident())
        if threads[-1] == me:
            loop.post(lambda: threads.append(threading.get_ident()))
            paused.wait(0.2)  # ten times as long as a lost lead is waited for
            assert threads[-1] == me

    echo.on_data = be_slow
    while threads.count(me) < 3:
        echo.ask(b"x")
    assert echo.lost == []


def test_a_leader_leaves_for_what_it_waits_for_itself(loop: SharedLoop, echo: Echo) -> None:
    own, other = socket.socketpair()
    other.sendall(b"x")

    def led() -> bool:
        echo.ask(b"x")
        return loop.lead(nothing, lambda: False, None, own.fileno())

    with own, other:
        wait_until(led)
        echo.ask_until_led()  # nothing of it is left
