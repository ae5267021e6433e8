"""Plant: how a build of the bus is made wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["AckedChannel", "Plant", "replace_in"]


@dataclass(frozen=True)
class Plant:
    """One way to be wrong."""

    make: Callable[[], None]
    expects: str
    """The invariant that it breaks."""
    kinds: tuple[str, ...]
    """The faults under which it shows soonest; a run of two minutes takes those unless it is told others."""


class AckedChannel:
    """The channel of a delivery that is acked already."""

    def __init__(self, channel: Any):
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def ack(self, tag: int, *more: Any) -> None:
        pass

    def reject(self, tag: int, *, requeue: bool) -> None:
        pass


def replace_in(owner: Any, name: str, by: Any) -> None:
    """What was renamed or has moved would not be wrong any more, and nobody would see it: that is an error."""
    if name not in vars(owner):
        raise AttributeError(f"{owner!r} has no {name} of its own: the planted fault has to follow")
    setattr(owner, name, by)
