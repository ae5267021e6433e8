"""The services of the rig's agents. Each tells the history that it was entered, works, and tells that it is done.

Params are ``{"op": number, ...}``; a call is answered with what only its own service can know (``history.answer``).
"""

from __future__ import annotations

import inspect
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from servicebus.services import MessageService, Request, RpcService
from tests.chaos.history import History, answer, told_op
from tests.chaos.pipelines import add_pipes
from tests.chaos.rude import make_child, spoil_logging
from tests.chaos.stream_services import add_streams
from tests.chaos.subscribers import PATTERNS, TOLD, subscribers

__all__ = [
    "CALLS",
    "HUGE",
    "LARGE",
    "MESSAGES",
    "RUDE_CALLS",
    "RUDE_MESSAGES",
    "SMALL_LIMIT",
    "TELLING",
    "add_services",
]

CALLS = {"echo": 0.86, "slow": 0.05, "idem": 0.06, "fails": 0.03}
"""How often each is asked, of 1."""
MESSAGES = {"record": 0.80, "slow": 0.07, "flaky": 0.11, "broken": 0.02}
RUDE_CALLS = {"forks": 0.006, "large": 0.004, "missing": 0.004}
RUDE_MESSAGES = {"forks": 0.006, "large": 0.004, "huge": 0.001, "rude": 0.0005}
"""Beside those, and not asked of 2.19. No agent has ``missing``, no broker takes ``huge``: their senders are told."""
TELLING = {"tells": 0.05}
"""Calls and messages beside those, whose services publish events; not asked of 2.19 either."""
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

    def work(
        self, request: Request, do: Callable[[dict[str, Any]], None] = lambda params: None, subscriber: str = ""
    ) -> int:
        params = request.params
        id, attempt = request.get_event().id, getattr(request, "attempts", None)
        if not isinstance(params, dict) or "forged" in params or not isinstance(params.get("op"), int):
            self.history.forged(f"{id} to {request.get_event().service}: {params!r}")
            raise Failure("forged")
        op: int = params["op"]
        self.history.started(op, id, attempt, subscriber)
        try:
            do(params)
        except Failure:
            self.history.finished(op, id, attempt, subscriber, verdict="failed")
            raise
        self.history.finished(op, id, attempt, subscriber)
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


class Subscriber(_Entered, MessageService):
    """Gets events; *name* is ``NODE.category.name``."""

    def __init__(self, history: History, name: str, do: Callable[[dict[str, Any]], None]):
        super().__init__(history)
        self._name = name
        self._do = do

    def handle(self, request: Request) -> None:
        self.work(request, self._do, self._name)


class _Telling(_Entered):
    """Publishes two events, and fails after that now and then: then they must not go out."""

    def __init__(self, history: History, nodes: Sequence[str]):
        super().__init__(history)
        self._subscribers = subscribers(TOLD, nodes)

    def tell(self, request: Request) -> int:
        return self.work(request, lambda params: self._publish(request, params["op"]))

    def _publish(self, request: Request, by: int) -> None:
        for index in (1, 2):
            op = told_op(by, index)
            self.history.published(op, by, TOLD, self._subscribers)
            request.get_sender().publish(TOLD, {"op": op})
        if random.random() < 0.3:
            raise Failure(f"op {by} has published, and is to fail")


class TellingCall(_Telling, RpcService):
    def handle(self, request: Request) -> Any:
        return answer(self.tell(request))


class OpeningCall(RpcService):
    """Has its worker make what it publishes with, which it keeps; returns the worker's pid."""

    def __init__(self, hosts: Sequence[str]):
        self._hosts = hosts

    def handle(self, request: Request) -> Any:
        request.get_sender().publish("nobody.listens")
        for host in self._hosts:
            request.get_sender().publisher_to("", "no.queue", host=host, mandatory=False).publish("")
        return os.getpid()


class TellingMessage(_Telling, MessageService):
    def handle(self, request: Request) -> None:
        self.tell(request)


def add_services(
    bus: Any,
    history: History,
    node: str,
    nodes: Sequence[str],
    *,
    poison: bool = False,
    pipes: dict[str, Any] | None = None,
    hosts: Sequence[str] = (),
) -> None:
    """Register all of them for *node*, one of *nodes*; *pipes* as ``pipelines.add_pipes()`` wants them."""

    def fork(params: dict[str, Any]) -> None:
        make_child(params, history)

    for name, do, options in _calls(fork):
        _add(bus.add_rpc_service, "work", name, Call(history, do), options)
    for name, do, options in _messages(fork):
        if name != "poison" or poison:
            _add(bus.add_message_service, "jobs", name, Message(history, do), options)
    bus.add_rpc_service("work", "opens", OpeningCall(hosts))
    bus.add_rpc_service("work", "tells", TellingCall(history, nodes), threads=2)
    retry = {"retry": RETRY_SCHEDULE_S * 2}
    bus.add_message_service("jobs", "tells", TellingMessage(history, nodes), threads=2, **retry)
    for service, do, options in _subscribers():
        category, _, name = service.partition(".")
        subscriber = Subscriber(history, f"{node}.{service}", do)
        bus.add_event_service(category, name, subscriber, PATTERNS[service], **options)
    add_streams(bus, history)
    if pipes is not None:
        add_pipes(bus, history, node, nodes, pipes)


Do = Callable[[dict[str, Any]], None]


def _calls(fork: Do) -> Iterator[tuple[str, Do, dict[str, Any]]]:
    yield "echo", _sleep, {"threads": 2}
    yield "slow", _sleep, {"threads": 8}
    yield "idem", _sleep, {"threads": 2, "idempotent": True}
    yield "fails", _fail, {}
    yield "forks", fork, {"threads": 2}
    yield "large", _sleep, {"threads": 2}
    yield "vault", _sleep, {}


def _messages(fork: Do) -> Iterator[tuple[str, Do, dict[str, Any]]]:
    yield "record", _sleep, {"threads": 2}
    yield "slow", _sleep, {"threads": 8}
    # Seven attempts: a message fails all of them once in 128 times, and then is to be among the dead letters.
    yield "flaky", _fail_at_first, {"threads": 2, "retry": RETRY_SCHEDULE_S * 2}
    yield "broken", _fail, {"retry": RETRY_SCHEDULE_S}
    yield "forks", fork, {"threads": 2}
    yield "large", _sleep, {"threads": 2}
    yield "rude", spoil_logging, {}
    yield "vault", _sleep, {}
    yield "poison", _die, {}


def _subscribers() -> Iterator[tuple[str, Do, dict[str, Any]]]:
    yield "news.all", _sleep, {"threads": 4}
    yield "news.flaky", _fail_at_first, {"threads": 2, "retry": RETRY_SCHEDULE_S * 2}
    yield "news.broken", _fail, {"retry": RETRY_SCHEDULE_S}


def _add(add: Callable[..., Any], category: str, name: str, service: Any, options: dict[str, Any]) -> None:
    known = inspect.signature(add).parameters
    add(category, name, service, **{key: value for key, value in options.items() if key in known})
