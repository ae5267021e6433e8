"""The calls that a sender of the rig makes, each told to the history."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from servicebus.errors import RemoteError
from tests.chaos.history import answer
from tests.chaos.load import Load, one_of, params_for
from tests.chaos.rude import raise_something
from tests.chaos.services import CALLS, LARGE, RUDE_CALLS, TELLING

if TYPE_CHECKING:
    from servicebus.sender import Sender

__all__ = ["ASYNC_SHARE", "CALLERS", "CallLoad"]

CALLERS = 3
ASYNC_SHARE = 0.75
"""Of the calls, by call_async: these go on at their pace while others wait."""
_TIMEOUTS_S = (1.0, 10.0)
"""Some end before a Sender goes elsewhere, so that their copy on a frozen broker is the only one."""
_RUDE_SHARE = 0.02
"""Of the calls by call_async: with a callback that raises, before the one that tells the history."""


class CallLoad(Load):
    def __init__(self, *shared: Any):
        super().__init__(*shared)
        self.under_way: set[int] = set()
        self._lock = threading.Lock()

    def call(self, sender: Sender, pace: Iterable[int], rng: random.Random) -> None:
        """Call at that *pace*, each time until it is over."""
        for _ in pace:
            target, op, params, timeout_s = self._next(rng)
            try:
                id, value = sender.call(target, params, timeout=timeout_s)
            except Exception as error:
                self._call_failed(op, error)
            else:
                self._replied(op, id, value)

    def call_without_waiting(self, sender: Sender, pace: Iterable[int], rng: random.Random) -> None:
        for _ in pace:
            target, op, params, timeout_s = self._next(rng)
            with self._lock:
                self.under_way.add(op)
            try:
                future = sender.call_async(target, params, timeout=timeout_s)
            except Exception as error:
                self._call_failed(op, error)
                self._is_over(op)
            else:
                if rng.random() < _RUDE_SHARE:
                    # What is raised is ours to bear if the call has ended already: it is raised here then.
                    with contextlib.suppress(BaseException):
                        future.add_done_callback(raise_something)
                future.add_done_callback(self._on_done(op))

    def _on_done(self, op: int) -> Callable[[Future[Any]], None]:
        def done(future: Future[Any]) -> None:
            error = future.exception()
            if error is None:
                self._replied(op, *future.result())
            else:
                self._call_failed(op, error)
            self._is_over(op)

        return done

    def _is_over(self, op: int) -> None:
        with self._lock:
            self.under_way.discard(op)

    def _next(self, rng: random.Random) -> tuple[str, int, dict[str, Any], float]:
        service = one_of(rng, CALLS | RUDE_CALLS | TELLING)
        target = f"{rng.choice(self._nodes)}.work.{service}"
        op = self.next_op()
        timeout_s = rng.uniform(*_TIMEOUTS_S)
        params = params_for(rng, op, service)
        if service == "large" and rng.random() < 0.5:
            params["pad"], params["text"] = LARGE, ""
        deadline = time.monotonic() + timeout_s
        self._history.invoked(op, "call", target, deadline, idempotent=service == "idem")
        self._counts["calls"] += 1
        return target, op, params, timeout_s

    def _replied(self, op: int, id: object, value: Any) -> None:
        self._history.replied(op, id, str(value).rstrip("x") == answer(op), t=time.monotonic())
        self._counts["answered"] += 1

    def _call_failed(self, op: int, error: BaseException) -> None:
        is_fault = isinstance(error, RemoteError)
        self._history.failed(op, error, fault=is_fault, t=time.monotonic())
        if is_fault:
            self._counts["answered"] += 1
        else:
            self.failed(error)
