"""Which subscriptions to events a node has had: their queues stay on the brokers when no service has them any more."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from servicebus.configuration import Configuration
from servicebus.errors import JournalUnavailable
from servicebus.runtime.state_folder import MEMORY, beside_journal
from servicebus.transport.loggers import get_logger
from servicebus.wire.events import event_queue

LOG = get_logger(__name__)

__all__ = ["forget_subscription", "known_subscriptions", "note_subscriptions"]


def note_subscriptions(config: Configuration, services: Collection[str]) -> list[str]:
    """Remember *services*, ``category.name``; says in one line which were remembered before and are not among them."""
    known = known_subscriptions(config)
    former = sorted(known.difference(services))
    if former:
        queues = ", ".join(event_queue(config.node_name, each) for each in former)
        LOG.warning(
            "no service subscribes any more by which these queues were made, and they go on collecting events on each"
            " broker: %s; remove one by servicebus events drop SERVICE",
            queues,
        )
    if not known.issuperset(services):
        _write(config, known.union(services))
    return former


def forget_subscription(config: Configuration, service: str) -> None:
    """Its queues are gone."""
    known = known_subscriptions(config)
    if service in known:
        _write(config, known - {service})


def known_subscriptions(config: Configuration) -> frozenset[str]:
    """Those that were noted on this machine; none if that cannot be read."""
    path = _path_of(config)
    try:
        return frozenset(path.read_text().split()) if path is not None else frozenset()
    except (OSError, UnicodeDecodeError):
        return frozenset()


def _write(config: Configuration, services: Collection[str]) -> None:
    path = _path_of(config)
    if path is None:
        return
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text("".join(f"{each}\n" for each in sorted(services)))
        new.replace(path)
    except OSError as error:  # the next start says nothing of them; that is all
        LOG.warning("the subscriptions of the node cannot be noted in %s: %s", path, error.strerror)


def _path_of(config: Configuration) -> Path | None:
    """Beside the journal; None for a node that keeps nothing on disk."""
    if config.journal is not None and config.journal.reveal() == MEMORY:
        return None
    try:
        return beside_journal(config, "subscriptions")
    except JournalUnavailable:
        return None
