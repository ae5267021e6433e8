"""The states of the connections to one broker, as a table. The docs draw their diagram from it."""

from __future__ import annotations

from enum import Enum

from servicebus.errors import LifecycleError


class State(str, Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    UP = "up"
    BACKOFF = "backoff"
    DRAINING = "draining"
    CLOSED = "closed"

    __str__ = str.__str__


class Event(str, Enum):
    START = "start"
    OPENED = "opened"
    LOST = "lost"
    RETRY = "retry"
    REST = "rest"
    """No connection is wanted until the next ``START``."""
    STOP = "stop"
    DRAINED = "drained"

    __str__ = str.__str__


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.IDLE: {Event.START: State.CONNECTING, Event.STOP: State.CLOSED},
    State.CONNECTING: {Event.OPENED: State.UP, Event.LOST: State.BACKOFF, Event.STOP: State.CLOSED},
    State.UP: {Event.LOST: State.BACKOFF, Event.REST: State.IDLE, Event.STOP: State.DRAINING},
    State.BACKOFF: {Event.RETRY: State.CONNECTING, Event.REST: State.IDLE, Event.STOP: State.CLOSED},
    State.DRAINING: {Event.DRAINED: State.CLOSED, Event.LOST: State.CLOSED},
    State.CLOSED: {},
}


def after(state: State, event: Event) -> State:
    """The state that follows.

    Raises:
        LifecycleError: the table has no such event in this state; nothing has changed.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise LifecycleError(state.value, event.value) from None
