"""The events of the rig: which there are, and who has subscribed to them on each node."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["EVENTS", "PATTERNS", "TOLD", "event_queues", "plain_queues", "subscribers"]

EVENTS = {"chaos.plain": 0.77, "chaos.flaky": 0.17, "chaos.broken": 0.03, "chaos.large": 0.03}
"""How often Senders publish each, of 1."""
TOLD = "chaos.told"
"""What services publish when they have succeeded."""
PATTERNS = {"news.all": "chaos.#", "news.flaky": "chaos.flaky", "news.broken": "*.broken"}
"""The services of each node that subscribe."""
_ALSO = {"chaos.flaky": "news.flaky", "chaos.broken": "news.broken"}
"""Who gets which beside ``news.all``: told here, and not asked of the code that is tested."""


def subscribers(event: str, nodes: Sequence[str]) -> list[str]:
    """Each of those that get *event* once in effect, as ``NODE.category.name``."""
    services = ["news.all", *([_ALSO[event]] if event in _ALSO else [])]
    return [f"{node}.{service}" for node in nodes for service in services]


def event_queues() -> list[str]:
    """What stands behind a node's name in the names of the queues."""
    return [f".events.{service}" for service in PATTERNS]


def plain_queues() -> list[str]:
    """The same of the queues of other programs that each node has, one for each stage of its pipeline."""
    return [".pipe.step", ".pipe.end"]
