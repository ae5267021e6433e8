"""Promise: the Future that a caller gets who does not wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from typing import Any

from servicebus.durations import to_seconds

_OVER = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})

_claim = threading.RLock()
"""Who has it decides whether a Promise is kept before anybody looks. Held for a few steps; one for all, so that a fork
can renew it; reentrant, since a signal handler may interrupt its holder."""


class Promise(Future[Any]):
    """The caller's end of a request. Who cancels it has given up, which the engine is told.

    It knows the request by its id only: two objects that know each other would have to be collected as garbage.

    A Future makes a condition, which costs more than all the rest of it, and most are waited for by nobody: their
    callers come when they are kept. So this one makes its own when somebody comes sooner.
    """

    wire_id = ""
    on_cancel: Callable[[str], None] | None = None
    on_wait: Callable[[Callable[[], bool]], None] | None = None
    """What a thread does that waits, given a function that says whether this is done; it may come back sooner."""

    _made: threading.Condition | None = None

    # What Future's own methods know of it, but for the condition.
    def __init__(self) -> None:
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters = []
        self._done_callbacks: list[Callable[[Future[Any]], Any]] = []

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        with _claim:
            if self._made is None:
                self._made = threading.Condition()
            return self._made

    def set_result(self, result: Any) -> None:
        with _claim:
            if self._made is None and self._state == PENDING:  # nobody waits, has cancelled it, or left a callback
                self._result = result
                self._state = FINISHED
                return
        super().set_result(result)

    # Whoever sees the state needs no lock for what was set before it.

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
        if timeout is None and self.on_wait is not None and not self.done():
            self.on_wait(self.done)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(None if timeout is None else to_seconds("timeout", timeout))

    def cancel(self) -> bool:
        is_cancelled = super().cancel()
        on_cancel, self.on_cancel = self.on_cancel, None
        if is_cancelled and on_cancel is not None:
            on_cancel(self.wire_id)
        return is_cancelled


def _renew_claim_in_child() -> None:
    global _claim
    _claim = threading.RLock()  # another thread may have held it at the moment of the fork


os.register_at_fork(after_in_child=_renew_claim_in_child)
