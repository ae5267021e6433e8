"""CallFuture, which ``call_async()`` and ``send_async()`` return, and Receipt, the result of ``send()``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from contextlib import suppress
from threading import current_thread, main_thread
from typing import Any

from servicebus._durations import to_seconds
from servicebus.transport import forks
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)


class Receipt(int):
    """The event id, which also says where the message is now."""

    confirmed_by: str | None = None
    """The broker that has it in a durable queue; None if it is in the outbox."""
    in_outbox: bool = False
    """No broker took it; it is on disk, and delivered when one does."""

    def __new__(cls, event_id: int, confirmed_by: str | None = None, in_outbox: bool = False) -> Receipt:
        receipt = super().__new__(cls, event_id)
        receipt.confirmed_by = confirmed_by
        if in_outbox:
            receipt.in_outbox = True
        return receipt

    def __getnewargs__(self) -> tuple[Any, ...]:
        return int(self), self.confirmed_by, self.in_outbox


LOOK_S = 1.0
"""How often a thread that waits makes sure that something will still end its waiting."""
_OVER = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})

_claim = threading.RLock()
"""Guards whether a CallFuture ends or gets its condition first. Held for a few steps; one for all, so that a fork can
renew it; reentrant, since a signal handler may interrupt its holder."""


class CallFuture(Future[Any]):
    """The Future of a request. Cancelling it cancels the request.

    Once it has ended it refers to the request by its id only: objects in a circle are freed by the garbage collector
    alone, and a program that keeps the futures of a million calls would keep a million requests.

    A Future makes a condition, which costs more than all the rest of it, and two lists. Most futures are asked for
    their result after they have ended. So this one makes its own when a thread waits or adds a callback before.
    """

    wire_id = ""
    on_cancel: Callable[[str], None] | None = None
    on_wait: Callable[[Callable[[], bool]], None] | None = None
    """Called by a thread that waits, with a function that returns whether this is done; it may return sooner."""

    is_overdue: Callable[[], bool] | None = None
    """Asked now and then by a thread that waits without a timeout: whether nothing will end this any more."""

    _made: threading.Condition | None = None

    # Attributes of Future. Its methods hold the condition whenever they touch the lists.
    _result = None
    _exception = None
    _waiters: list[Any]
    _done_callbacks: list[Callable[[Future[Any]], Any]]

    def __init__(self) -> None:
        self._state = PENDING

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        with _claim:
            if self._made is None:
                self._waiters, self._done_callbacks = [], []
                self._made = threading.Condition()
            return self._made

    def set_result(self, result: Any) -> None:
        with _claim:
            if self._made is None and self._state == PENDING:  # no thread waits, has cancelled it, or added a callback
                self._result = result
                self._state = FINISHED
                return
        super().set_result(result)

    # The state is set last, so a thread that reads it needs no lock for the rest.

    def done(self) -> bool:
        return self._state in _OVER

    @property
    def was_cancelled(self) -> bool:
        return self._state == CANCELLED

    def result(self, timeout: float | None = None) -> Any:
        if timeout is not None:
            timeout = to_seconds("timeout", timeout)
        if self._state == FINISHED and self._exception is None:
            return self._result
        if timeout is None:
            self._await_end()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if timeout is not None:
            return super().exception(to_seconds("timeout", timeout))
        self._await_end()
        return super().exception()

    def _await_end(self) -> None:
        """Wait for as long as something may end this; what nothing ends is ended by ``is_overdue()``."""
        if self.on_wait is not None and not self.done():
            self.on_wait(self.done)
        while (is_overdue := self.is_overdue) is not None and not self.done() and not is_overdue():
            with suppress(FutureTimeoutError, CancelledError):
                super().exception(LOOK_S)

    def _invoke_callbacks(self) -> None:
        """As Future's, but an exception of one of them ends neither the thread nor the others (SystemExit, too)."""
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
                    raise  # Ctrl-C, in the thread of a caller
                with suppress(Exception):  # the program's own filters and handlers
                    LOG.error("a callback of the future of %s failed", self.wire_id, exc_info=error)

    def cancel(self) -> bool:
        is_cancelled = super().cancel()
        on_cancel, self.on_cancel, self.is_overdue = self.on_cancel, None, None
        if is_cancelled and on_cancel is not None:
            on_cancel(self.wire_id)
        return is_cancelled


def _renew_claim_in_child() -> None:
    global _claim
    _claim = threading.RLock()  # another thread may have held it at the moment of the fork


forks.after_in_child(_renew_claim_in_child)
