"""Services: a group of typed functions under one category, which an agent includes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from servicebus._context import GivenContext
from servicebus._durations import to_seconds
from servicebus._plain import PlainQueue
from servicebus.contracts import EventContract, NodeContract
from servicebus.errors import ConfigurationError
from servicebus.services import Authorize, Lock
from servicebus.typed.client import AsyncClient, Client, client_of
from servicebus.typed.declared import declare_errors
from servicebus.typed.declaring import check_declaration, checked_name
from servicebus.typed.definition import Definition
from servicebus.typed.plain_service import check_queue
from servicebus.typed.published import PublishedEvent
from servicebus.wire.address import Address
from servicebus.wire.envelope import CALL, MESSAGE, Kind
from servicebus.wire.events import check_pattern

if TYPE_CHECKING:
    from servicebus.aio import AsyncSender
    from servicebus.sender import Sender

__all__ = ["Services"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Services:
    """Functions that serve calls and messages to ``NODE.category.name``. ``ServiceBus.include()`` registers them.

    The decorators return the function as it was. Annotations are resolved when an agent includes the group, so they may
    name what its module defines further down.

    Args:
        category: of all of its services.
        authorize: whether a request may be served, of all of its services that have none of their own; as of
            ``ServiceBus.add_rpc_service()``, and for those that are ``async def`` it may be ``async def``, too.
    """

    def __init__(self, category: str, *, authorize: Authorize | None = None):
        Address("NODE", category, "name")
        self.category = category
        self.authorize = authorize
        self._definitions: list[Definition] = []
        self._published: dict[str, PublishedEvent[Any]] = {}

    def __repr__(self) -> str:
        return f"<Services {self.category}: {', '.join(each.name for each in self._definitions) or 'none'}>"

    def __iter__(self) -> Iterator[Definition]:
        return iter(self._definitions)

    def contract(self) -> NodeContract:
        """What it offers its callers: the description of a node that has no name yet.

        Raises:
            ConfigurationError: a signature cannot be read.
        """
        return NodeContract(tuple(each.contract() for each in self if each.plain is None), publishes=self.published)

    @property
    def published(self) -> tuple[EventContract, ...]:
        """The events that it says it publishes. Raises ConfigurationError: a type has no schema."""
        return tuple(each.contract() for each in self._published.values())

    @overload
    def publishes(
        self, event: str, payload: type[T], *, docs: str = "", version: str = "", deprecated: str | bool = False
    ) -> PublishedEvent[T]: ...
    @overload
    def publishes(
        self, event: str, payload: Any = Any, *, docs: str = "", version: str = "", deprecated: str | bool = False
    ) -> PublishedEvent[Any]: ...
    def publishes(self, event: str, payload: Any = Any, **about: Any) -> PublishedEvent[Any]:
        """Declare an event that these services publish, as a part of the contract.

        Args:
            event: its name; no pattern.
            payload: the type of its params, one that pydantic knows; anything by default.
            docs: what it means, for people.
            version, deprecated: as of ``rpc()``.

        Returns:
            What publishes it by its type: ``.publish(sender, value)``. ``sender.publish()`` does so, too, and checks
            nothing.

        Raises:
            AddressError: that is no name.
            ConfigurationError: the group declares it already.
        """
        found: PublishedEvent[Any] = PublishedEvent(event, self.category, payload, **about)
        if event in self._published:
            raise ConfigurationError(f"{self!r} publishes {event} already", key="services")
        self._published[event] = found
        return found

    @overload
    def __call__(
        self, sender: Sender, node: str, timeout: float | None = None, context: GivenContext = None
    ) -> Client: ...
    @overload
    def __call__(
        self, sender: AsyncSender, node: str, timeout: float | None = None, context: GivenContext = None
    ) -> AsyncClient: ...
    def __call__(
        self, sender: Any, node: str, timeout: float | None = None, context: GivenContext = None
    ) -> Client | AsyncClient:
        """What ``sender.client(node, group, timeout, context=context)`` returns."""
        return client_of(self, sender, node, timeout, context)

    @overload
    def rpc(self, function: F, /) -> F: ...
    @overload
    def rpc(
        self,
        /,
        *,
        name: str | None = None,
        threads: int | None = None,
        tasks: int | None = None,
        idempotent: bool | None = None,
        resumable: bool | None = None,
        lock: Lock | None = None,
        concurrency: Literal["node"] | None = None,
        singleton: bool | None = None,
        priority: int | None = None,
        authorize: Authorize | None = None,
        encrypted: bool | None = None,
        errors: Sequence[type[Exception]] = (),
        deprecated: str | bool = False,
        version: str = "",
        former: bool = False,
    ) -> Callable[[F], F]: ...
    def rpc(self, function: F | None = None, /, **how: Any) -> F | Callable[[F], F]:
        """Answer calls by the decorated function.

        Args:
            name: the function's own by default.
            tasks: how many requests of an ``async def`` function run at a time in one worker; 100 by default.
            threads, idempotent, resumable, lock, concurrency, singleton, priority: as of
                ``ServiceBus.add_rpc_service()``.
            authorize: the same; that of the group by default.
            encrypted: the same; and clients of the group send it so.
            errors: exception classes that are part of the contract: a caller that knows them gets them as they are.
            deprecated: True, or what to use instead.
            version: of the service, for people.
            former: this is an earlier version of the service *name*, for the callers that were built against it: the
                hash of their contract chooses it.

        Raises:
            ConfigurationError: the name is taken, or an error is no exception class.
            AddressError: the name cannot stand in an address.
        """
        return self._add(CALL, function, how)

    @overload
    def message(self, function: F, /) -> F: ...
    @overload
    def message(
        self,
        /,
        *,
        name: str | None = None,
        threads: int | None = None,
        tasks: int | None = None,
        retry: Sequence[float] | None = None,
        lock: Lock | None = None,
        concurrency: Literal["node"] | None = None,
        singleton: bool | None = None,
        priority: int | None = None,
        authorize: Authorize | None = None,
        encrypted: bool | None = None,
        errors: Sequence[type[Exception]] = (),
        deprecated: str | bool = False,
        version: str = "",
        former: bool = False,
    ) -> Callable[[F], F]: ...
    def message(self, function: F | None = None, /, **how: Any) -> F | Callable[[F], F]:
        """Handle messages by the decorated function; else as ``rpc()``.

        Args:
            retry: seconds before each further attempt, as of ``ServiceBus.add_message_service()``.
        """
        return self._add(MESSAGE, function, how)

    def event(
        self,
        *events: str,
        name: str | None = None,
        threads: int | None = None,
        tasks: int | None = None,
        retry: Sequence[float] | None = None,
        lock: Lock | None = None,
        concurrency: Literal["node"] | None = None,
        singleton: bool | None = None,
        priority: int | None = None,
        authorize: Authorize | None = None,
        encrypted: bool | None = None,
        errors: Sequence[type[Exception]] = (),
        deprecated: str | bool = False,
        version: str = "",
    ) -> Callable[[F], F]:
        """Handle events by the decorated function; else as ``message()``.

        Args:
            events: the names or patterns that it subscribes to, as of ``ServiceBus.add_event_service()``.
            name: of the subscription: the function's own by default. Renamed, it is another one.

        Raises:
            AddressError: one of *events* is no pattern.
            ConfigurationError: none is given; else as ``message()``.
        """
        if not events or callable(events[0]):
            raise ConfigurationError(f"{self!r}: event() needs the name or pattern of an event", key="services")
        for pattern in events:
            check_pattern(pattern)
        how: dict[str, Any] = {"name": name, "threads": threads, "tasks": tasks, "retry": retry, "lock": lock}
        how |= {
            "concurrency": concurrency,
            "singleton": singleton,
            "priority": priority,
            "authorize": authorize,
            "encrypted": encrypted,
            "errors": errors,
            "deprecated": deprecated,
            "version": version,
        }
        return self._add(MESSAGE, None, {**how, "events": events})  # type: ignore[return-value]

    def consume(
        self,
        queue: str,
        *,
        exchange: str = "",
        routing_key: str | Sequence[str] = (),
        exchange_type: Literal["direct", "topic", "fanout", "headers"] = "topic",
        host: str = "",
        passive: bool = False,
        durable: bool = True,
        arguments: Mapping[str, Any] | None = None,
        prefetch: int | None = None,
        remember: float = 3600.0,
        answers: bool | None = None,
        publish: str = "",
        name: str | None = None,
        threads: int | None = None,
        tasks: int | None = None,
        retry: Sequence[float] | None = None,
        lock: Lock | None = None,
        concurrency: Literal["node"] | None = None,
        priority: int | None = None,
        errors: Sequence[type[Exception]] = (),
    ) -> Callable[[F], F]:
        """Handle the messages of other programs, which stand in *queue* without envelope and signature.

        The only parameter of the function is the body: ``bytes``, ``str``, or what its annotation makes of the JSON
        text; several parameters are taken from a JSON object by their names. ``PlainMessage`` is the message with all
        its properties, ``PlainPublisher`` the publisher of the parameter's name. See docs/plain.

        Args:
            queue, exchange, routing_key: the queue is declared and bound so; several keys are a list.
            exchange_type: with which the exchange is declared.
            host: the name of one of ``hosts`` or ``connections``; "" for each of ``hosts``.
            passive: declare nothing; others have.
            durable, arguments: of the queue and the exchange.
            prefetch: unacknowledged messages in one worker.
            remember: seconds for which a ``message_id`` is known that was executed; 0 if message ids mean nothing.
            answers: a message with ``reply_to`` gets the result as its answer. By default if the function returns
                something, as far as its annotation says, and *publish* is not given.
            publish: the name of the publisher that the result goes to before the message is acknowledged.
            name, threads, tasks, retry, lock, concurrency, priority, errors: as of ``message()``.

        Raises:
            ConfigurationError: an argument cannot be used.
            DurationError: *remember* is no time.
        """
        keys = (routing_key,) if isinstance(routing_key, str) else tuple(routing_key)
        found = PlainQueue(
            queue, exchange, keys, exchange_type, host, passive, durable, dict(arguments or {}), prefetch,
            to_seconds("remember", remember),
        )  # fmt: skip
        check_queue(f"{self!r}: consume()", found)
        how: dict[str, Any] = {"name": name, "threads": threads, "tasks": tasks, "retry": retry, "lock": lock}
        how |= {"concurrency": concurrency, "priority": priority, "errors": errors}
        how |= {"plain": found, "publishes": publish, "answers": answers}
        return self._add(MESSAGE, None, how)  # type: ignore[return-value]

    def _add(self, kind: Kind, function: F | None, how: dict[str, Any]) -> F | Callable[[F], F]:
        if not (function is None or callable(function)):
            what = f"it decorates a function, not {function!r}; the name of a service is name=..."
            raise ConfigurationError(f"{self!r}: {what}", key="services")
        check_declaration(repr(self), kind, how)
        frame = sys._getframe(2)
        local_names = None if frame.f_locals is frame.f_globals else dict(frame.f_locals)

        def define(function: F) -> F:
            self._definitions.append(self._define(kind, function, local_names, **how))
            return function

        return define if function is None else define(function)

    def _define(
        self,
        kind: Kind,
        function: Callable[..., Any],
        local_names: dict[str, Any] | None,
        *,
        name: str | None = None,
        errors: Sequence[type[Exception]] = (),
        deprecated: str | bool = False,
        version: str = "",
        former: bool = False,
        tasks: int | None = None,
        events: tuple[str, ...] = (),
        plain: PlainQueue | None = None,
        publishes: str = "",
        answers: bool | None = None,
        authorize: Authorize | None = None,
        **options: Any,
    ) -> Definition:
        if authorize or self.authorize:
            options["authorize"] = authorize or self.authorize
        name = checked_name(repr(self), function, name)
        address = Address("NODE", self.category, name)
        mine = (kind, name, False, bool(events), plain is None)
        if not former and any(
            (each.kind, each.name, each.former, bool(each.events), each.plain is None) == mine for each in self
        ):
            what = "events" if events else "queues of others" if plain else f"{kind.value}s"
            raise ConfigurationError(f"{self!r} has a service {name} for {what} already", key="services")
        known = declare_errors(f"{address.category}.{name}", *errors, local_names=local_names, is_known=not former)
        how = deprecated, version, former, tasks, events, local_names
        return Definition(kind, self.category, name, function, options, known, *how, plain, publishes, answers)
