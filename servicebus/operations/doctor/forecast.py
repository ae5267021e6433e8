"""What would still answer if a broker were lost: drawn from what answers now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Forecast", "ServiceOutlook", "without"]


@dataclass(frozen=True, slots=True)
class ServiceOutlook:
    """One service without the broker."""

    name: str
    kind: str
    """``call``, ``message`` or ``stream``"""
    left: Sequence[str]
    """Nodes that would still have it."""
    lost: Sequence[str]
    """Those that would not be reached."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The fleet without one broker."""

    broker: str
    nodes: Mapping[str, Sequence[str]]
    """The other brokers that reach each node now; none: it would be lost."""
    services: Sequence[ServiceOutlook]

    @property
    def lost_nodes(self) -> list[str]:
        return [name for name, left in self.nodes.items() if not left]

    @property
    def lost_services(self) -> list[ServiceOutlook]:
        """Those that no node would answer."""
        return [each for each in self.services if not each.left]

    def risks(self) -> list[str]:
        """A line for each node and service that would be lost; node names and services are text of strangers."""
        nodes = [f"{name} answers over {self.broker} alone" for name in self.lost_nodes]
        return nodes + [f"no node would have {each.name} ({each.kind})" for each in self.lost_services]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        services = [
            {"name": each.name, "kind": each.kind, "left": list(each.left), "lost": list(each.lost)}
            for each in self.services
        ]
        nodes = [{"name": name, "left": list(left)} for name, left in self.nodes.items()]
        return {"if_lost": self.broker, "nodes": nodes, "services": services}


def without(
    broker: str, nodes: Mapping[str, Sequence[str]], services: Iterable[tuple[str, str, Sequence[str]]]
) -> Forecast:
    """The forecast.

    Args:
        broker: the name of the one that is lost.
        nodes: which brokers reach each node now.
        services: name, kind, and the nodes that have it.
    """
    left = {name: [each for each in brokers if each != broker] for name, brokers in nodes.items()}
    outlooks = [
        ServiceOutlook(
            name, kind, [each for each in having if left.get(each)], [each for each in having if not left.get(each)]
        )
        for name, kind, having in services
    ]
    return Forecast(broker, left, outlooks)
