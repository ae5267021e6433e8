"""One step in a table of states."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from servicebus.errors import LifecycleError

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def after(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """The state that follows.

    Raises:
        LifecycleError: *table* has no such event in this state; nothing has changed.
    """
    try:
        return table[state][event]
    except KeyError:
        raise LifecycleError(state.value, event.value) from None
