"""came_from_a_signal(): which exceptions are the program's, because one of its signal handlers raised them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from servicebus.transport.interrupts import came_from_a_signal


class Enough(Exception):
    pass


def handle(_signum: int, _frame: FrameType | None) -> None:
    raise Enough


class Handler:
    def method(self, _signum: int, _frame: FrameType | None) -> None:
        raise Enough

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        raise Enough


@pytest.fixture(params=[handle, Handler().method, Handler()], ids=["function", "method", "object"])
def handler(request: pytest.FixtureRequest) -> Iterator[Callable[[int, FrameType | None], None]]:
    former = signal.signal(signal.SIGUSR1, request.param)
    yield request.param
    signal.signal(signal.SIGUSR1, former)


@pytest.mark.usefixtures("handler")
def test_what_a_signal_handler_raises_is_the_programs() -> None:
    with pytest.raises(Enough) as caught:
        signal.raise_signal(signal.SIGUSR1)
    assert came_from_a_signal(caught.value)


@pytest.mark.usefixtures("handler")
def test_what_our_code_raises_is_ours() -> None:
    with pytest.raises(OverflowError) as caught:
        raise OverflowError
    assert not came_from_a_signal(caught.value)


def test_in_another_thread_no_signal_handler_runs(handler: Callable[[int, FrameType | None], None]) -> None:
    found: list[bool] = []

    def run() -> None:
        try:
            handler(signal.SIGUSR1, None)
        except Enough as error:
            found.append(came_from_a_signal(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
