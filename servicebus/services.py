"""What users write and receive: service classes, and the request and response that a service is given.

A service is any object with ``on_call(request, response)`` (RPC) or ``on_message(request)`` (messages), as in
py-servicebus 2.x. The two base classes are for those who like to return the result, and to open files and database
handles in ``setup()``, which runs in the service's own thread after the fork.

A service that cannot or will not serve a request raises ``Retry``, ``Reject`` or ``Requeue``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from servicebus._context import NO_CONTEXT, GivenContext, OutgoingContext, encode_context, merged, priority_in
from servicebus._fate import Fate
from servicebus._plain import PlainMessage
from servicebus._raised import Deny, Reject, Requeue, Retry
from servicebus.errors import EnvelopeError

__all__ = [
    "Authorize",
    "Deny",
    "Event",
    "Lock",
    "MessageService",
    "Reject",
    "Request",
    "Requeue",
    "Response",
    "Retry",
    "RpcService",
    "current_request",
]

Lock = str | int | Callable[[Any], Any]
"""What of a request's params must not be worked on twice at a time: the place of a value in them (``"account"``,
``"order.id"``, an index), or a function that gets the params and returns a text or number. None means: nothing."""

Authorize = Callable[["Request", Mapping[str, str]], Any]
"""Whether a request may be served: a function of the request and its context that returns True, and nothing else, if it
may; of ``async def`` services it may be ``async def``, too."""

_serving: ContextVar[Request | None] = ContextVar("servicebus_request", default=None)
"""What the thread of a service runs, set and cleared around each execution; or the task of an ``async def`` service,
and so what they give to ``asyncio.to_thread()``, or run in a copy of their contextvars."""


class RpcService:
    """Base of a service that is called: override ``handle()``.

    The attributes are how it is run where ``add_rpc_service()`` says nothing else.
    """

    threads: int = 1
    """How many calls run side by side in one worker."""
    idempotent: bool = False
    """A call whose worker died in the middle may be run again."""
    resumable: bool = False
    """Of a generator: it can begin with item number ``request.position``."""
    lock: Lock | None = None
    """What never runs twice at a time on the node; may be a method that gets the params."""
    concurrency: Literal["node"] | None = None
    """``"node"``: never two calls at a time on the node."""
    singleton: bool = False
    """One worker of the node at a time runs it."""
    priority: int = 0
    """Of the calls that say none, on a node with ``priorities``."""
    authorize: Authorize | None = None
    """Whether a request may be served; may be a method."""
    encrypted: bool = False
    """A call that has not come encrypted is refused."""
    params_type: Any = None
    """What the params are: a type that pydantic knows. Only for the description of the node; nothing is checked."""
    result_type: Any = None
    """The same of the result."""

    def setup(self) -> None:
        """Called in each of the service's threads before its first request; again and again while it raises."""

    def handle(self, request: Request) -> Any:
        """The result of one call, anything JSON can say; what it raises is raised at the caller as RemoteError."""
        raise NotImplementedError(f"{type(self).__name__} has no handle(request)")

    def teardown(self) -> None:
        """Called once in each of the service's threads, after its last request; not where setup() never succeeded."""

    def on_call(self, request: Request, response: Response) -> None:
        response.send(self.handle(request))


class MessageService:
    """Base of a service that receives messages: override ``handle()``.

    The attributes are how it is run where ``add_message_service()`` says nothing else.
    """

    threads: int = 1
    """How many messages run side by side in one worker."""
    retry: Sequence[float] | None = None
    """Seconds before each further attempt; None for ``retry_schedule`` of the configuration."""
    lock: Lock | None = None
    """What never runs twice at a time on the node; may be a method that gets the params."""
    concurrency: Literal["node"] | None = None
    """``"node"``: never two messages at a time on the node."""
    singleton: bool = False
    """One worker of the node at a time runs it."""
    priority: int = 0
    """Of the messages that say none, on a node with ``priorities``."""
    authorize: Authorize | None = None
    encrypted: bool = False
    params_type: Any = None
    """All three as those of an RpcService."""

    def setup(self) -> None:
        """Called in each of the service's threads before its first message; again and again while it raises."""

    def handle(self, request: Request) -> Any:
        """Do the work of one message; if it raises, the message is tried again, and ends among the dead letters."""
        raise NotImplementedError(f"{type(self).__name__} has no handle(request)")

    def teardown(self) -> None:
        """Called once in each of the service's threads, after its last message; not where setup() never succeeded."""

    def on_message(self, request: Request) -> Any:
        return self.handle(request)  # None, or what the agent refuses: code that has not run


class TextService:
    """Private: a typed function, made by ``servicebus.typed``; the agent knows it by this class.

    It binds its params from the text of the wire, and writes the text of its result. For any thread.
    """

    function: Callable[..., Any]
    former: bool = False
    """An earlier version of the service of that name, for the callers that were built against it."""
    is_async: bool = False
    holds_secret: bool = False
    """A parameter of it is a Secret, so that what has not come encrypted is refused."""
    is_stream: bool = False
    """The function is a generator, of either kind; ``call`` runs it to its end."""
    tasks: int = 100
    """Of an ``async def`` function: how many run at a time in one worker."""
    bind: Callable[[bytes], Any]
    """What ``call`` takes, from the text of the params. Raises EnvelopeError (UnboundParams): nothing is run."""
    call: Callable[[Any, Request], Any]
    """Runs the function; returns its result, or something to await if it is ``async def``."""
    dump: Callable[[Any], bytes]
    """The JSON text of a result. Raises what its caller gets: it is not what the signature says."""

    def contract(self, kind: Literal["call", "message"], options: Mapping[str, Any]) -> Any:
        """How its node describes it: a ServiceContract."""
        raise NotImplementedError  # servicebus.typed has those that are declared

    def declared(self, error: BaseException) -> tuple[str, str] | None:
        """The name and the fields (JSON text) of an error that the service declares; None for every other one."""
        raise NotImplementedError

    def shown(self, error: BaseException) -> BaseException:
        """*error*, which the function has raised, as callers and logs may see it."""
        return error


class UnboundParams(EnvelopeError):
    """Raised by ``TextService.bind()``: what is wrong, as text and as JSON text, both without the values."""

    def __init__(self, reason: str, detail: str, data: str):
        super().__init__(reason, detail)
        self.data = data


@dataclass(slots=True)
class Event:
    """The fields of a request, under their names of py-servicebus 2.x. ``id`` is unique on the wire."""

    id: str
    category: str
    service: str
    token: str
    params: Any
    version: str


class Request:
    """One call, message or event, as a service sees it. Only for the thread that runs the service."""

    _published: Sequence[Any] = ()
    """Events that go out when the service has succeeded."""
    _is_over = False
    """The service has returned; a thread of its own may still publish, at once."""
    _context: Mapping[str, str] = NO_CONTEXT

    def __init__(self, event: Event, deadline: float | None, make_sender: Callable[[], Any], fate: Fate | None = None):
        self._event = event
        self._deadline = deadline
        self._make_sender = make_sender
        self._fate = fate
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
    def id(self) -> str:
        """The id on the wire, by which log lines and ``servicebus dead`` name it."""
        return self._event.id

    @property
    def event_name(self) -> str:
        """The name of the event that its service has subscribed to; "" for a call or message."""
        return "" if self._fate is None else self._fate.event

    @property
    def message(self) -> PlainMessage | None:
        """What another program has published, with all its properties; None for every other request."""
        return None if self._fate is None else self._fate.plain

    @property
    def caller(self) -> str:
        """The name of the caller whose key has signed it (``callers`` of the configuration); "" for a peer with the
        secret of the bus. Of a nested call it is the node that asks: who asked that one, the context may tell."""
        return "" if self._fate is None else self._fate.caller

    @property
    def context(self) -> Mapping[str, str]:
        """The text pairs that came with it, read-only. What is asked while it is served carries them, too."""
        return self._context

    @property
    def priority(self) -> int:
        """From 0 to 9, as its sender says; 0 if it says nothing. What is asked while it is served has it, too."""
        return priority_in(self._context) or 0

    def add_context(self, pairs: Mapping[str, str | None]) -> None:
        """Add *pairs* to ``context``, from now on; None takes a key out. For middleware, mostly.

        Raises:
            EnvelopeError: a key or value cannot travel, or all together take more than 4 KiB.
        """
        context = merged(self._context, pairs)
        encode_context(context)
        self._context = MappingProxyType(context)

    @property
    def remaining(self) -> float | None:
        """Seconds until the caller's deadline, never below 0; None for a message, and for a stream that has none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """The caller has given up, or its deadline has passed. Looked up each time."""
        if self._fate is not None and self._fate.is_cancelled:
            return True
        return self._deadline is not None and time.monotonic() > self._deadline

    @property
    def fence(self) -> int | None:
        """Higher than that of every request which had this lock before, on any machine of the node; of a singleton that
        of its worker, which is higher than that of every worker before.

        What the service writes to can refuse a lower number than it has seen: that comes from a worker which was
        frozen for so long that its lock went to another one. None without a lock, and where the journal is no Redis
        server: there the kernel keeps the locks.
        """
        return None if self._fate is None else self._fate.fence

    @property
    def position(self) -> int:
        """Of a stream whose service is ``resumable``: the number of the item to begin with, from 0. Else 0."""
        return 0 if self._fate is None else self._fate.position

    @property
    def attempts(self) -> int:
        """Which attempt this is, counted from 1: more for a message that is tried again."""
        return 1 if self._fate is None else self._fate.attempts


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
    """The request that the calling thread or task is serving, None outside of a service."""
    return _serving.get()


def outgoing_context(given: GivenContext) -> Mapping[str, str]:
    """What goes with a request of the calling thread or task: the context of the request that it serves, and *given*.

    Raises EnvelopeError: *given* is no mapping.
    """
    if isinstance(given, OutgoingContext):
        return given
    serving = _serving.get()
    inherited = NO_CONTEXT if serving is None else serving.context
    return inherited if given is None else merged(inherited, given)


def context_text(given: GivenContext) -> str:
    """The same as it travels; "" for nothing. Raises EnvelopeError, too, if a key or value cannot travel."""
    return encode_context(outgoing_context(given))
