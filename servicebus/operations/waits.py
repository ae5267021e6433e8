"""Waits: what a thread waits for that the loop's thread brings: each ends once, with an answer or with a reason."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from servicebus.errors import TransportError

__all__ = ["Waits"]


class Waits:
    """Of one channel. Any thread may begin one; only the loop's ends them.

    Args:
        why_gone: why nothing can be answered any more, for those that have no reason of their own.
    """

    def __init__(self, why_gone: Callable[[], TransportError]):
        self._why_gone = why_gone
        self._futures: set[Future[Any]] = set()

    def begin(self) -> Future[Any]:
        future: Future[Any] = Future()
        self._futures.add(future)
        return future

    def end(self, future: Future[Any], answer: Any) -> None:
        self._futures.discard(future)
        if not future.done():
            future.set_result(answer)

    def fail(self, future: Future[Any], error: TransportError | None = None) -> None:
        self._futures.discard(future)
        if not future.done():
            future.set_exception(error or self._why_gone())

    def fail_all(self) -> None:
        for future in list(self._futures):
            self.fail(future)
