"""What is to be known of a broker's version: docs/rabbitmq.rst in a line each, where it matters."""

from __future__ import annotations

import re

__all__ = ["Version", "has_delivery_limit", "read_version", "warnings_for"]

Version = tuple[int, int, int]

_ASKS_ALL_MEMBERS: tuple[Version, Version] = (3, 12, 0), (4, 1, 5)
_NO_MIRRORS: Version = (4, 0, 0)
_DELIVERY_LIMIT: Version = (4, 0, 0)
_QUORUM_PRIORITIES: Version = (4, 0, 0)


def read_version(text: str) -> Version | None:
    """``4.0.5``, also with something behind it; None if it is none."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def has_delivery_limit(version: Version | None) -> bool:
    """Whether a quorum queue has a delivery limit by default, and -1 declares one without."""
    return version is not None and version >= _DELIVERY_LIMIT


def warnings_for(version: Version, *, is_cluster: bool, queue_type: str, has_priorities: bool = False) -> list[str]:
    """One sentence for each thing that an operator should change."""
    found = []
    if has_priorities and queue_type == "quorum" and version < _QUORUM_PRIORITIES:
        found.append(
            "its quorum queues know no priorities, so messages and events come in the order in which they were sent: "
            "use RabbitMQ 4.0 or later, where they know two (0 to 4, 5 to 9), or set queue_type: classic"
        )
    if not is_cluster:
        return found
    begins, ends = _ASKS_ALL_MEMBERS
    if begins <= version < ends:
        found.append(
            "it asks all members of the cluster before each reply to a call, and one that is silent holds up all "
            "replies for net_ticktime (60 s): use RabbitMQ 4.1.5 or later, or set net_ticktime to 10"
        )
    if version >= _NO_MIRRORS and queue_type == "classic":
        found.append(
            "it has no mirrored queues, so with queue_type: classic messages live on one member, and wait while that "
            "is away: set queue_type: quorum"
        )
    return found
