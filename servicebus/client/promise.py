"""Promise: the Future that a caller gets who does not wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Promise(Future[Any]):
    """The caller's end of a request. Who cancels it has given up, which the engine is told.

    It knows the request by its id only: two objects that know each other would have to be collected as garbage.
    """

    wire_id = ""
    on_cancel: Callable[[str], None] | None = None
    on_wait: Callable[[Callable[[], bool]], None] | None = None
    """What a thread does that waits, given a function that says whether this is done; it may come back sooner."""

    was_cancelled = False
    _has_ended = False
    _is_answered = False
    _answer: Any = None

    # A Future takes its lock for each of these; who sees the flag needs none for what was set before it.

    def set_result(self, result: Any) -> None:
        super().set_result(result)
        self._answer = result
        self._is_answered = self._has_ended = True

    def set_exception(self, exception: BaseException | None) -> None:
        super().set_exception(exception)
        self._has_ended = True

    def done(self) -> bool:
        return self._has_ended or super().done()

    def has_ended(self) -> bool:
        """As ``done()``, sooner; seen a moment later."""
        return self._has_ended

    def result(self, timeout: float | None = None) -> Any:
        if self._is_answered:
            return self._answer
        if timeout is None and self.on_wait is not None and not self.done():
            self.on_wait(self.has_ended)
        return super().result(timeout)

    def cancel(self) -> bool:
        is_cancelled = super().cancel()
        self.was_cancelled = self.was_cancelled or is_cancelled
        self._has_ended = self._has_ended or is_cancelled
        on_cancel, self.on_cancel = self.on_cancel, None
        if is_cancelled and on_cancel is not None:
            on_cancel(self.wire_id)
        return is_cancelled
