"""Planted faults: builds of the bus that are wrong on purpose. A rig that does not catch them proves nothing.

Each is a patch from outside, made in an agent's or a sender's process before it starts; the code stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["PLANTS", "plant"]

PLANTS: dict[str, Callable[[], None]] = {}


def plant(name: str) -> None:
    """Make this process's bus wrong in the way that *name* says."""
    PLANTS[name]()
