"""What users write and receive: service classes, and the request and response that a service is given.

A service is any object with ``on_call(request, response)`` (RPC) or ``on_message(request)`` (messages), as in
py-servicebus 2.x. The two base classes are for those who like to return the result, and to open files and database
handles in ``setup()``, which runs in the service's own thread after the fork.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Event", "MessageService", "Request", "Response", "RpcService", "current_request"]

_serving = threading.local()
"""``request``: what the thread is running. Set and cleared around each execution by the service's thread."""


class RpcService:
    """Base of a service that is called: override ``handle()``."""

    def setup(self) -> None:
        """Called once in each of the service's threads, before its first request."""

    def handle(self, request: Request) -> Any:
        """The result of one call, anything JSON can say; what it raises is raised at the caller as RemoteError."""
        raise NotImplementedError(f"{type(self).__name__} has no handle(request)")

    def teardown(self) -> None:
        """Called once in each of the service's threads, after its last request."""

    def on_call(self, request: Request, response: Response) -> None:
        response.send(self.handle(request))


class MessageService:
    """Base of a service that receives messages: override ``handle()``."""

    def setup(self) -> None:
        """Called once in each of the service's threads, before its first message."""

    def handle(self, request: Request) -> None:
        """Do the work of one message; what it raises sends the message to the node's dead letters."""
        raise NotImplementedError(f"{type(self).__name__} has no handle(request)")

    def teardown(self) -> None:
        """Called once in each of the service's threads, after its last message."""

    def on_message(self, request: Request) -> None:
        self.handle(request)


@dataclass(frozen=True, slots=True)
class Event:
    """The fields of a request, under their names of py-servicebus 2.x. ``id`` is unique on the wire."""

    id: str
    category: str
    service: str
    token: str
    params: Any
    version: str


class Request:
    """One call or message, as a service sees it. Only for the thread that runs the service."""

    def __init__(self, event: Event, deadline: float | None, make_sender: Callable[[], Any]):
        self._event = event
        self._deadline = deadline
        self._make_sender = make_sender
        self._sender: Any = None

    def __repr__(self) -> str:
        return f"<Request {self._event.id} for {self._event.category}.{self._event.service}>"

    def get_params(self) -> Any:
        return self._event.params

    def get_event(self) -> Event:
        return self._event

    def get_sender(self) -> Any:
        """A Sender for nested calls, shared by the services of this worker; closing it is not needed."""
        if self._sender is None:
            self._sender = self._make_sender()
        return self._sender

    @property
    def params(self) -> Any:
        return self._event.params

    @property
    def remaining(self) -> float | None:
        """Seconds until the caller's deadline, never below 0; None for a message."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


class Response:
    """Where an RPC service puts its result. The first ``send()`` counts; without one the result is None."""

    def __init__(self) -> None:
        self.is_sent = False
        self.value: Any = None

    def send(self, value: Any) -> None:
        """Answer with *value*, anything JSON can say. Only the first answer reaches the caller."""
        if not self.is_sent:
            self.is_sent = True
            self.value = value


def current_request() -> Request | None:
    """The request that the calling thread is serving, None outside of a service's thread."""
    return getattr(_serving, "request", None)
