"""CallFuture of ``call_async()`` and ``send_async()``, Receipt of ``send()``, and how a request is awaited."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from contextlib import suppress
from contextvars import Context
from operator import attrgetter
from threading import Lock, current_thread, main_thread
from typing import Any

from servicebus._durations import to_seconds
from servicebus.client.request_state import RequestState
from servicebus.errors import CallTimeout, SendUnconfirmed
from servicebus.transport import forks
from servicebus.transport.loggers import get_logger
from servicebus.wire.address import Address
from servicebus.wire.envelope import MESSAGE, Kind

LOG = get_logger(__name__)


class Receipt(int):
    """The event id, which also says where the message is now."""

    confirmed_by: str | None = None
    """The broker that has it in a durable queue; None if it is in the outbox, or nowhere."""
    in_outbox: bool = False
    """No broker took it; it is on disk, and delivered when one does."""
    subscribers: bool | None = None
    """Of an event: True if ``confirmed_by`` has stored it for at least one subscription; False if the brokers that were
    asked know of none, and it is stored nowhere. None if that is not known yet, and for a message."""

    def __new__(
        cls,
        event_id: int,
        confirmed_by: str | None = None,
        in_outbox: bool = False,
        subscribers: bool | None = None,
    ) -> Receipt:
        receipt = super().__new__(cls, event_id)
        receipt.confirmed_by = confirmed_by
        if in_outbox:
            receipt.in_outbox = True
        if subscribers is not None:
            receipt.subscribers = subscribers
        return receipt

    def __getnewargs__(self) -> tuple[Any, ...]:
        return int(self), self.confirmed_by, self.in_outbox, self.subscribers


LOOK_S = 1.0
"""How often a thread that waits makes sure that something will still end its waiting."""
_OVER = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})

_end_lock = threading.RLock()
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
        with _end_lock:
            if self._made is None:
                self._waiters, self._done_callbacks = [], []
                self._made = threading.Condition()
            return self._made

    def set_result(self, result: Any) -> None:
        with _end_lock:
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
        """As Future's, but an exception of one of them ends neither the thread nor the others (SystemExit, too).

        The contextvars are empty: those of the thread belong to whatever it was doing, perhaps to another request.
        """
        for callback in self._done_callbacks:
            try:
                Context().run(callback, self)
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


MARGIN_S = 10.0
"""The I/O thread ends a request at its deadline, or a little later where an outbox has to be written. A caller waits
for so long after its deadline, then it stops by itself."""


class Awaited:
    """The caller's end of a request: it waits here (``wait()``), or holds a ``future()``. Base of PendingRequest."""

    __slots__ = (
        "_answer",
        "_error",
        "_forks",
        "_future",
        "_has_ended",
        "_is_abandoned",
        "_on_end",
        "_waiter",
        "address",
        "attempts",
        "deadline",
        "id",
        "kind",
        "started_at",
        "state",
    )

    # Set by PendingRequest, which is made for every call: in one constructor.
    _answer: Any
    _error: BaseException | None
    _forks: int
    _has_ended: bool
    _is_abandoned: bool
    _future: CallFuture | None
    _on_end: Callable[[Awaited], None] | None
    _waiter: Lock | None
    address: Address
    attempts: tuple[tuple[str, str], ...]
    deadline: float
    id: str
    kind: Kind
    started_at: float
    state: RequestState

    @property
    def is_done(self) -> bool:
        """Answered, failed, or given up by its caller."""
        if self._has_ended or self._is_abandoned or self.state is RequestState.DONE:
            return True
        return self._future is not None and self._future.was_cancelled

    def future(self) -> CallFuture:
        """A Future for its end; only before it is given to the engine."""
        if self._future is None:
            self._future = CallFuture()
            self._future.wire_id, self._future.is_overdue = self.id, self.is_overdue
        return self._future

    def on_end(self, callback: Callable[[Awaited], None]) -> None:
        """Call *callback* once when it has ended, in the thread that ends it; only before it is given to the engine."""
        self._on_end = callback

    def wait(self) -> Any:
        """Wait for its end, in the one thread that asked; gives the answer or raises what it failed with."""
        if not self._has_ended:
            # Cheaper than a Future. Who ends it sets the flag first and looks for us then, we do it the other way.
            waiter = Lock()
            waiter.acquire()
            self._waiter = waiter
            while not self._has_ended and not waiter.acquire(timeout=LOOK_S):
                if self.is_overdue():
                    break
        try:
            if self._error is not None:
                raise self._error
            return self._answer
        finally:
            del self  # an error's traceback refers to this frame, and the frame to the error

    def is_overdue(self) -> bool:
        """Whether the thread that ends requests has missed this one; if so it is ended here. For any thread."""
        is_gone = self._forks != forks.notice() or sys.is_finalizing()
        if not is_gone and time.monotonic() < self.deadline + MARGIN_S:
            return False
        waited_s = time.monotonic() - self.started_at
        address, did = str(self.address), "the I/O thread of this process did not end it"
        if self.kind is MESSAGE:
            self.fail(SendUnconfirmed(address, [*self.attempts, ("this process:", did)]))
        else:
            self.fail(CallTimeout(address, waited_s, [*self.attempts, ("this process:", did)]))
        return True

    def abandon(self) -> bool:
        """The thread that waited does not any more; False if it has ended."""
        self._is_abandoned = not self._has_ended
        return self._is_abandoned

    # The future first: the thread that runs the loop may be interrupted anywhere; what has not ended is ended again,
    # by its deadline at the latest.

    def dropped(self) -> None:
        """Its caller has given up."""
        self.state = RequestState.DONE

    def complete(self, answer: Any) -> None:
        if not self._has_ended:
            if self._future is not None:
                try:  # noqa: SIM105 - suppress() takes longer than all the rest of this
                    self._future.set_result(answer)
                except InvalidStateError:  # cancelled by its caller, who does not want to know
                    pass
            self._answer = answer
            self._end()

    def fail(self, error: BaseException) -> None:
        if not self._has_ended:
            if self._future is not None:
                with suppress(InvalidStateError):
                    self._future.set_exception(error)
            self._error = error
            self._end()

    def _end(self) -> None:
        self.state = RequestState.DONE
        self._has_ended = True
        if self._future is not None:
            self._future.is_overdue = None
        if self._waiter is not None:
            self._waiter.release()
        elif self._on_end is not None:
            self._on_end(self)


has_ended: Callable[[Awaited], bool] = attrgetter("_has_ended")
"""Whether a request was answered or has failed; for any thread. Asked several times for every call."""


def _renew_lock_in_child() -> None:
    global _end_lock
    _end_lock = threading.RLock()  # another thread may have held it at the moment of the fork


forks.after_in_child(_renew_lock_in_child)
