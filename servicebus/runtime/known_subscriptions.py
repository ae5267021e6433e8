"""Which subscriptions to events a node has had: on the brokers stand their queues, and the bindings of each.

A broker does not tell by which patterns a queue is bound. So a node notes them beside its journal: those that a service
names, and those that it has named before, which are taken away on each broker whenever a worker connects to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from servicebus.configuration import Configuration
from servicebus.errors import JournalUnavailable
from servicebus.runtime.state_folder import MEMORY, beside_journal
from servicebus.transport.loggers import get_logger
from servicebus.wire.events import event_queue

LOG = get_logger(__name__)

__all__ = ["KnownSubscription", "forget_subscription", "known_subscriptions", "note_subscriptions"]


class KnownSubscription(NamedTuple):
    """What is noted of the subscription of one service."""

    patterns: tuple[str, ...]
    former: tuple[str, ...] = ()
    """Those that it does not name any more."""


def note_subscriptions(config: Configuration, subscriptions: Mapping[str, Sequence[str]]) -> list[str]:
    """Remember the patterns of each service, ``category.name``.

    Says in one line which services were remembered before and are not among them; returns those.
    """
    known = known_subscriptions(config)
    former = sorted(known.keys() - subscriptions.keys())
    if former:
        queues = ", ".join(event_queue(config.node_name, each) for each in former)
        LOG.warning(
            "no service subscribes any more by which these queues were made, and they go on collecting events on each"
            " broker: %s; remove one by servicebus events drop SERVICE",
            queues,
        )
    noted = known | {each: _noted(each, known.get(each), patterns) for each, patterns in subscriptions.items()}
    if noted != known:
        _write(config, noted)
    return former


def forget_subscription(config: Configuration, service: str) -> None:
    """Its queues are gone, and their bindings with them."""
    known = known_subscriptions(config)
    if known.pop(service, None) is not None:
        _write(config, known)


def known_subscriptions(config: Configuration) -> dict[str, KnownSubscription]:
    """Those that were noted on this machine, by service; none if that cannot be read."""
    path = _path_of(config)
    try:
        noted = json.loads(path.read_text()) if path is not None else {}
        return {
            service: KnownSubscription(tuple(found["patterns"]), tuple(found["former"]))
            for service, found in noted.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}


def _noted(service: str, known: KnownSubscription | None, patterns: Sequence[str]) -> KnownSubscription:
    before = (*known.former, *known.patterns) if known is not None else ()
    noted = KnownSubscription(tuple(patterns), tuple(sorted(set(before).difference(patterns))))
    if known is not None and (gone := [each for each in known.patterns if each in noted.former]):
        LOG.warning("%s subscribes no more to %s: its queue is unbound on each broker", service, ", ".join(gone))
    return noted


def _write(config: Configuration, known: Mapping[str, KnownSubscription]) -> None:
    path = _path_of(config)
    if path is None:
        return
    new = path.with_name(f"{path.name}.new")
    try:
        noted = {service: found._asdict() for service, found in sorted(known.items())}
        new.write_text(json.dumps(noted, indent=1) + "\n")
        new.replace(path)
    except OSError as error:  # the next start says nothing of them, and no pattern of theirs is unbound; that is all
        LOG.warning("the subscriptions of the node cannot be noted in %s: %s", path, error.strerror)


def _path_of(config: Configuration) -> Path | None:
    """Beside the journal; None for a node that keeps nothing on disk."""
    if config.journal is not None and config.journal.reveal() == MEMORY:
        return None
    try:
        return beside_journal(config, "subscriptions")
    except JournalUnavailable:
        return None
