"""The states of the connections to one broker, as a table. ``docs/failover.rst`` draws it."""

from __future__ import annotations

from enum import Enum


class ConnectionState(str, Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    UP = "up"
    BACKOFF = "backoff"
    DRAINING = "draining"
    CLOSED = "closed"

    __str__ = str.__str__


class ConnectionEvent(str, Enum):
    START = "start"
    OPENED = "opened"
    LOST = "lost"
    RETRY = "retry"
    REST = "rest"
    """No connection is wanted until the next ``START``."""
    STOP = "stop"
    DRAINED = "drained"

    __str__ = str.__str__


TRANSITIONS: dict[ConnectionState, dict[ConnectionEvent, ConnectionState]] = {
    ConnectionState.IDLE: {
        ConnectionEvent.START: ConnectionState.CONNECTING,
        ConnectionEvent.STOP: ConnectionState.CLOSED,
    },
    ConnectionState.CONNECTING: {
        ConnectionEvent.OPENED: ConnectionState.UP,
        ConnectionEvent.LOST: ConnectionState.BACKOFF,
        ConnectionEvent.STOP: ConnectionState.CLOSED,
    },
    ConnectionState.UP: {
        ConnectionEvent.LOST: ConnectionState.BACKOFF,
        ConnectionEvent.REST: ConnectionState.IDLE,
        ConnectionEvent.STOP: ConnectionState.DRAINING,
    },
    ConnectionState.BACKOFF: {
        ConnectionEvent.RETRY: ConnectionState.CONNECTING,
        ConnectionEvent.REST: ConnectionState.IDLE,
        ConnectionEvent.STOP: ConnectionState.CLOSED,
    },
    ConnectionState.DRAINING: {
        ConnectionEvent.DRAINED: ConnectionState.CLOSED,
        ConnectionEvent.LOST: ConnectionState.CLOSED,
    },
    ConnectionState.CLOSED: {},
}
