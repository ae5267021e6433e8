"""Events: their names, the patterns by which services subscribe to them, and the queues of subscriptions.

A name is one word or more, joined by dots: ``orders.created``. In a pattern ``*`` stands for one word and ``#`` for any
number of words, none included, as in a topic exchange. The name is the routing key, which AMQP ends at 255 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from servicebus.errors import AddressError
from servicebus.wire.address import Address, name_problem, plain
from servicebus.wire.envelope import make_id

__all__ = [
    "EVENTS",
    "EventName",
    "EventQueue",
    "check_pattern",
    "event_key",
    "event_queue",
    "events_exchange",
    "is_event_queue",
    "matches",
    "name_of_event_problem",
    "published_id",
    "run_id",
    "subscriber_of",
]

EVENTS = ".events"
"""In place of the node of an address. No node has this name, as it begins with a dot."""
_MAX_BYTES = 200
_ONE, _ANY = "*", "#"
_NAME, _PATTERN = "the name of an event, words joined by dots", "a pattern of events, words joined by dots"


@dataclass(frozen=True, slots=True)
class EventName(Address):
    """The name of an event, where requests have the address of a service. ``str()`` of it is the name alone."""

    def __post_init__(self) -> None:
        problem = name_of_event_problem(self.name)
        if problem:
            raise AddressError(self.name, problem, _NAME)

    @classmethod
    def parse(cls, text: str) -> EventName:
        """The event that *text* names. Raises AddressError."""
        return _named(text if type(text) is str else plain(text, _NAME))

    def __str__(self) -> str:
        return self.name

    @property
    def service(self) -> str:
        return self.name


@lru_cache(maxsize=1024)
def _named(text: str) -> EventName:
    return EventName(EVENTS, "", text)


def name_of_event_problem(text: str) -> str:
    """Why *text* cannot name an event; empty if it can."""
    if _ONE in text or _ANY in text:
        return "* and # stand for words in patterns only"
    return _words_problem(text)


def _words_problem(text: str) -> str:
    if len(text.encode("utf-8", "replace")) > _MAX_BYTES:
        return f"it is longer than {_MAX_BYTES} bytes"
    for word in text.split("."):
        if problem := name_problem(word):
            return f"a word of it {problem}"
    return ""


def check_pattern(text: str) -> None:
    """Accept *text* as a pattern of events, or raise ``AddressError``."""
    problem = _words_problem(plain(text, _PATTERN))
    if not problem and any(len(word) > 1 and (_ONE in word or _ANY in word) for word in text.split(".")):
        problem = "* and # stand for whole words"
    if problem:
        raise AddressError(text, problem, _PATTERN)


@lru_cache(maxsize=1024)
def matches(pattern: str, name: str) -> bool:
    """Whether the topic exchange of a broker routes the event *name* by a binding with *pattern*."""
    words = name.split(".")
    places = {0}
    """How many words the pattern may have taken so far."""
    for wanted in pattern.split("."):
        if wanted == _ANY:
            places = set(range(min(places), len(words) + 1))
        else:
            places = {at + 1 for at in places if at < len(words) and wanted in (_ONE, words[at])}
        if not places:
            return False
    return len(words) in places


class EventQueue(NamedTuple):
    """The queue of one subscription: of the service ``category.name`` of a node."""

    service: str
    name: str
    patterns: Sequence[str]
    former: Sequence[str] = ()
    """Patterns by which it may still be bound, and should not be."""


def events_exchange(exchange: str) -> str:
    """The topic exchange beside *exchange*, ``exchange_name`` of the configuration."""
    return f"{exchange}.events"


def event_queue(node: str, service: str) -> str:
    """The durable queue of the events that *service* (``category.name``) of *node* subscribes to."""
    return f"{node}.events.{service}"


def subscriber_of(queue: str, node: str) -> str:
    """The service, ``category.name``, whose events that *queue* of *node* holds; "" if it is none of those."""
    service = queue.removeprefix(event_queue(node, ""))
    return service if service != queue and service.count(".") == 1 and all(service.split(".")) else ""


def is_event_queue(queue: str) -> bool:
    return queue.count(".") == 3 and queue.split(".")[1] == "events"


def event_key(service: str) -> str:
    """How the engine knows a service that gets events. No service has such a name: a space does not stand in one."""
    return f"event {service}"


def run_id(id: str, queue: str) -> str:
    """By which the journal knows the run of event *id* for the subscription that has *queue*."""
    incarnation, _, count = id.partition("-")
    return make_id(_incarnation(incarnation, queue), int(count))


def published_id(run: str, index: int) -> str:
    """Of the *index*-th event, from 1, that the request with the id *run* publishes: the same when it runs again."""
    return make_id(hashlib.sha256(f"{run}\0publishes".encode()).hexdigest()[:16], index)


@lru_cache(maxsize=4096)
def _incarnation(incarnation: str, queue: str) -> str:
    return hashlib.sha256(f"{incarnation}\0event\0{queue}".encode()).hexdigest()[:16]
