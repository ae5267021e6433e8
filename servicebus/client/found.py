"""What a Sender finds when it asks all nodes: NodeInfo, ServiceInfo, and Gathered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Discovered", "Gathered", "NodeInfo", "ServiceInfo"]

T = TypeVar("T", covariant=True)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node that has answered."""

    name: str
    brokers: tuple[str, ...]
    """Those that reach it, in the order of the configuration."""


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A service that at least one node has."""

    name: str
    """``category.name``"""
    kind: str
    """``call`` or ``message``"""
    nodes: tuple[str, ...]
    """The names of the nodes that have it, sorted."""


class Discovered(tuple[T, ...]):
    """What was found: a tuple, sorted by name, which also says over which brokers it was not asked."""

    unreachable: Mapping[str, str]
    """Why, by the name of the broker; empty if all were asked."""

    def __new__(cls, found: Iterable[T], unreachable: Mapping[str, str]) -> Discovered[T]:
        self = super().__new__(cls, found)
        self.unreachable = unreachable
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.unreachable


@dataclass(frozen=True, slots=True)
class Gathered:
    """What became of one call at many nodes. Each node that was found is in one of the four, by its name."""

    results: dict[str, Any]
    """What its service returned."""
    errors: dict[str, BaseException]
    """The node has answered, with an error: RemoteError, ServiceBusy, CallRefused, UnknownService."""
    unanswered: dict[str, BaseException]
    """It did not answer, and why: CallTimeout, NodeUnavailable, NoBrokerAvailable, CallInterrupted."""
    lacking: tuple[str, ...]
    """Nodes of that pattern that do not have the service. They were not called."""
    unreachable: Mapping[str, str]
    """Brokers over which no nodes were looked for, and why."""
