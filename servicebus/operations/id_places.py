"""Looks on brokers for messages by their ids: their dead letters, and how many messages wait where they may stand, too.

Nothing is taken or changed; as for ``dead list``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.operations.dead_letter import RequeueCheck
from servicebus.operations.dead_letters import Found
from servicebus.operations.queue_scan import QueueScan
from servicebus.operations.session import Session, open_session
from servicebus.policy.retry_schedule import DELAY_TIERS_S
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.interface import Connect
from servicebus.wire.address import dead_queue, delay_queue, messages_queue

__all__ = ["BrokerPlaces", "FoundDeadLetter", "Waiting", "look_on_brokers"]

_AT_ONCE = 8

OnProgress = Callable[[str, int, int], None]
"""Called after every letter: the broker, how many were looked at there, how many there are in this queue."""


class FoundDeadLetter(NamedTuple):
    node: str
    found: Found


class Waiting(NamedTuple):
    """Messages that nobody has looked at."""

    queue: str
    messages: int


@dataclass
class BrokerPlaces:
    """What one broker has."""

    host: str
    dead_letters: list[FoundDeadLetter] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    error: TransportError | None = None
    """Why it could not be looked at, or not at all of it."""


def look_on_brokers(
    config: Configuration,
    nodes: Sequence[str],
    ids: Sequence[str],
    on_progress: OnProgress = lambda _host, _count, _total: None,
    *,
    counts_waiting: bool = False,
    connect: Connect = AmqpConnection,
) -> list[BrokerPlaces]:
    """Look for the dead letters of *nodes* that have one of *ids*, on all brokers of *config* at the same time.

    Args:
        counts_waiting: count what stands in their queues of messages, too.
    """

    def look(host: BrokerHost) -> BrokerPlaces:
        places = BrokerPlaces(host.name)
        try:
            with open_session(host, config, purpose="looks for ids", connect=connect) as session:
                for node in nodes:
                    _look_at_dead_letters(
                        session, places, RequeueCheck(config, node), node, frozenset(ids), on_progress
                    )
                    places.waiting += _waiting(session, node) if counts_waiting else []
        except TransportError as error:
            places.error = error
        return places

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(look, config.hosts))


def _look_at_dead_letters(
    session: Session,
    places: BrokerPlaces,
    check: RequeueCheck,
    node: str,
    ids: frozenset[str],
    on_progress: OnProgress,
) -> None:
    with QueueScan(session, dead_queue(node), before_renewal=lambda: None, hold_s=float("inf")) as scan:
        for count, delivery in enumerate(scan, 1):
            letter = check.read(delivery)
            scan.keep(delivery)
            if letter.id in ids:
                found = Found(places.host, letter, *check.status(letter, time.time()))
                places.dead_letters.append(FoundDeadLetter(node, found))
            on_progress(places.host, count, scan.total)


def _waiting(session: Session, node: str) -> list[Waiting]:
    queues = [messages_queue(node), *(delay_queue(node, tier) for tier in DELAY_TIERS_S)]
    facts = [session.facts(queue) for queue in queues]
    return [Waiting(each.name, each.ready) for each in facts if each is not None and each.ready]
