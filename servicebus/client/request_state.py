"""The states of a request, as a table. ``docs/failover.rst`` draws it."""

from __future__ import annotations

from enum import Enum

__all__ = ["TRANSITIONS", "RequestEvent", "RequestState"]


class RequestState(str, Enum):
    NEW = "new"
    """On no path: to be published, or to wait."""
    WAITING = "waiting"
    """For a usable path."""
    IN_FLIGHT = "in flight"
    """Published on one path, or about to be."""
    HEDGED = "hedged"
    """In flight on two paths."""
    PAUSED = "paused"
    """Its service was busy; it is asked again in a moment."""
    HELD = "held"
    """Its node has lost too many calls to be sent more just now."""
    STORING = "storing"
    """On its way into the outbox."""
    DONE = "done"
    """Answered, failed, or given up by its caller."""

    __str__ = str.__str__


class RequestEvent(str, Enum):
    PUBLISHED = "published"
    NO_PATH = "no path"
    HEDGED = "hedged"
    LOST = "lost"
    """The attempt on one path came to nothing."""
    BUSY = "busy"
    HELD_BACK = "held back"
    RESUMED = "resumed"
    STORED = "stored"
    """No broker takes it; the outbox does."""
    ENDED = "ended"

    __str__ = str.__str__


_S, _E = RequestState, RequestEvent

TRANSITIONS: dict[RequestState, dict[RequestEvent, RequestState]] = {
    _S.NEW: {
        _E.PUBLISHED: _S.IN_FLIGHT,
        _E.NO_PATH: _S.WAITING,
        _E.HELD_BACK: _S.HELD,
        _E.STORED: _S.STORING,
        _E.ENDED: _S.DONE,
    },
    _S.WAITING: {_E.RESUMED: _S.NEW, _E.STORED: _S.STORING, _E.ENDED: _S.DONE},
    _S.IN_FLIGHT: {
        _E.HEDGED: _S.HEDGED,
        _E.LOST: _S.NEW,
        _E.BUSY: _S.PAUSED,
        _E.STORED: _S.STORING,
        _E.ENDED: _S.DONE,
    },
    _S.HEDGED: {_E.LOST: _S.IN_FLIGHT, _E.ENDED: _S.DONE},
    _S.PAUSED: {_E.RESUMED: _S.NEW, _E.ENDED: _S.DONE},
    _S.HELD: {_E.RESUMED: _S.NEW, _E.ENDED: _S.DONE},
    _S.STORING: {_E.ENDED: _S.DONE},
    _S.DONE: {},
}
