"""The services of the rig's agents. Each tells the history that it was entered, works, and tells that it is done.

Params are ``{"op": number, ...}``; a call is answered with what only its own service can know (``history.answer``).
"""

from __future__ import annotations

import inspect
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from servicebus.services import MessageService, Request, RpcService
from tests.chaos.history import History, answer
from tests.chaos.rude import make_child, spoil_logging

__all__ = ["CALLS", "HUGE", "LARGE", "MESSAGES", "RUDE_CALLS", "RUDE_MESSAGES", "SMALL_LIMIT", "add_services"]

CALLS = {"echo": 0.86, "slow": 0.05, "idem": 0.06, "fails": 0.03}
"""How often each is asked, of 1."""
MESSAGES = {"record": 0.80, "slow": 0.07, "flaky": 0.11, "broken": 0.02}
RUDE_CALLS = {"forks": 0.006, "large": 0.004, "missing": 0.004}
RUDE_MESSAGES = {"forks": 0.006, "large": 0.004, "huge": 0.001, "rude": 0.0005}
"""Beside those, and not asked of 2.19. No agent has ``missing``, no broker takes ``huge``: their senders are told."""
SMALL_LIMIT = 100_000
"""Bytes that the broker with small limits takes."""
LARGE = SMALL_LIMIT + 50_000
HUGE = 9_000_000
RETRY_SCHEDULE_S = (0.2, 0.5, 1.0)
"""Shortened, so that a run of two minutes can drain."""


class Failure(Exception):
    """What the services raise on purpose."""


class _Entered:
    """The part that all services share: what the history is told, and that nothing forged comes this far."""

    def __init__(self, history: History):
        self.history = history

    def work(self, request: Request, do: Callable[[dict[str, Any]], None] = lambda params: None) -> int:
        params = request.params
        id, attempt = request.get_event().id, getattr(request, "attempts", None)
        if not isinstance(params, dict) or "forged" in params or not isinstance(params.get("op"), int):
            self.history.forged(f"{id} to {request.get_event().service}: {params!r}")
            raise Failure("forged")
        op: int = params["op"]
        self.history.started(op, id, attempt)
        try:
            do(params)
        except Failure:
            self.history.finished(op, id, attempt, verdict="failed")
            raise
        self.history.finished(op, id, attempt)
        return op


def _sleep(params: dict[str, Any]) -> None:
    time.sleep(params.get("ms", 0) / 1000)


def _fail(params: dict[str, Any]) -> None:
    raise Failure(f"op {params['op']} is to fail")


def _fail_at_first(params: dict[str, Any]) -> None:
    # By chance, not by the count of attempts: which worker gets the next one, and what it knows, does not matter.
    if random.random() < 0.5:
        raise Failure(f"op {params['op']} is to fail for now")


def _die(params: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Call(_Entered, RpcService):
    def __init__(self, history: History, do: Callable[[dict[str, Any]], None]):
        super().__init__(history)
        self._do = do

    def handle(self, request: Request) -> Any:
        return answer(self.work(request, self._do)) + "x" * request.params.get("pad", 0)


class Message(_Entered, MessageService):
    def __init__(self, history: History, do: Callable[[dict[str, Any]], None]):
        super().__init__(history)
        self._do = do

    def handle(self, request: Request) -> None:
        self.work(request, self._do)


def add_services(bus: Any, history: History, *, poison: bool = False) -> None:
    """Register all of them, with the options that this bus knows."""

    def fork(params: dict[str, Any]) -> None:
        make_child(params, history)

    for name, do, options in _calls(fork):
        _add(bus.add_rpc_service, "work", name, Call(history, do), options)
    for name, do, options in _messages(fork):
        if name != "poison" or poison:
            _add(bus.add_message_service, "jobs", name, Message(history, do), options)


Do = Callable[[dict[str, Any]], None]


def _calls(fork: Do) -> Iterator[tuple[str, Do, dict[str, Any]]]:
    yield "echo", _sleep, {"threads": 2}
    yield "slow", _sleep, {"threads": 8}
    yield "idem", _sleep, {"threads": 2, "idempotent": True}
    yield "fails", _fail, {}
    yield "forks", fork, {"threads": 2}
    yield "large", _sleep, {"threads": 2}


def _messages(fork: Do) -> Iterator[tuple[str, Do, dict[str, Any]]]:
    yield "record", _sleep, {"threads": 2}
    yield "slow", _sleep, {"threads": 8}
    # Seven attempts: a message fails all of them once in 128 times, and then is to be among the dead letters.
    yield "flaky", _fail_at_first, {"threads": 2, "retry": RETRY_SCHEDULE_S * 2}
    yield "broken", _fail, {"retry": RETRY_SCHEDULE_S}
    yield "forks", fork, {"threads": 2}
    yield "large", _sleep, {"threads": 2}
    yield "rude", spoil_logging, {}
    yield "poison", _die, {}


def _add(add: Callable[..., Any], category: str, name: str, service: Any, options: dict[str, Any]) -> None:
    known = inspect.signature(add).parameters
    add(category, name, service, **{key: value for key, value in options.items() if key in known})
