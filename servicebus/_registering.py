"""Registering: how an agent is given its services."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from servicebus._publishers import PublisherRegistry
from servicebus._steps import listed
from servicebus.configuration import Configuration, ServiceEntry
from servicebus.configuration.reloading import TUNED
from servicebus.errors import ConfigurationError
from servicebus.middleware import Middleware
from servicebus.runtime.around import as_registered, prepared
from servicebus.runtime.registration import Service, register
from servicebus.services import Authorize, Lock
from servicebus.wire.address import Address
from servicebus.wire.envelope import CALL, MESSAGE, Kind

if TYPE_CHECKING:
    from servicebus.typed import Services

__all__ = ["Registering"]

_KINDS = {"rpc": CALL, "message": MESSAGE}
_TUNED_FIELDS = ("threads", "retry_schedule", "priority")
"""Of a Service; what TUNED are."""


class Registering(PublisherRegistry):
    """Private base of ``ServiceBus``: its services, until they are served."""

    def __init__(self, configuration: Configuration, middleware: Sequence[Middleware]):
        super().__init__()
        self._config = configuration
        self._middleware = listed(middleware)
        self._services: dict[tuple[Kind, str], Service] = {}

    def add_rpc_service(
        self,
        category: str,
        name: str,
        service: Any,
        *,
        threads: int | None = None,
        idempotent: bool | None = None,
        resumable: bool | None = None,
        lock: Lock | None = None,
        concurrency: Literal["node"] | None = None,
        singleton: bool | None = None,
        priority: int | None = None,
        authorize: Authorize | None = None,
        encrypted: bool | None = None,
    ) -> None:
        """Answer calls to ``NODE.category.name`` by ``service.on_call(request, response)``.

        The object is built before the fork and copied into every worker; what must not be shared (files, sockets,
        database handles) belongs into its ``setup()``, which runs in the service's own thread.

        What is not given here is taken from the attribute of the same name, if *service* is an ``RpcService``.

        Args:
            threads: how many calls run side by side in one worker; 1 by default.
            idempotent: a call whose worker died in the middle is run again, not reported as interrupted.
            resumable: of a generator, whose items are a stream: it can begin with item number ``request.position``.
            lock: calls with the same one run one at a time on the node: the place of a value in the params
                (``"account"``, ``"order.id"``, an index), or a function that takes the params and returns a text, a
                number, or None for no lock.
            concurrency: ``"node"`` runs one call at a time on the node.
            singleton: one worker of the node at a time runs it, and gets what comes to the others, too.
            priority: from 0 to 9: of the calls that say none, where the node has ``priorities``, and of those that a
                typed client makes.
            authorize: a function that gets the request and its context before anything of the service runs. Only if it
                returns True does that run; what it refuses, also by ``Deny``, the caller gets as PermissionDenied.
            encrypted: True refuses what has not come encrypted.

        Raises:
            AddressError: category or name cannot stand in an address.
            ConfigurationError: the name is taken, *service* is a class, has no ``on_call`` or one that cannot take
                ``(request, response)``, a method of it is ``async def`` or a generator function, or an option is none.
        """
        options: dict[str, Any] = {
            "threads": threads,
            "idempotent": idempotent,
            "lock": lock,
            "concurrency": concurrency,
        }
        options |= {"resumable": resumable, "singleton": singleton, "priority": priority}
        options |= {"authorize": authorize, "encrypted": encrypted}
        self._add(Kind.CALL, category, name, service, options)

    def add_message_service(
        self,
        category: str,
        name: str,
        service: Any,
        *,
        threads: int | None = None,
        retry: Sequence[float] | None = None,
        lock: Lock | None = None,
        concurrency: Literal["node"] | None = None,
        singleton: bool | None = None,
        priority: int | None = None,
        authorize: Authorize | None = None,
        encrypted: bool | None = None,
    ) -> None:
        """Handle messages to ``NODE.category.name`` by ``service.on_message(request)``; else as add_rpc_service().

        Args:
            retry: seconds before each further attempt at a message whose handler raised; empty for no second attempt.
                Without it ``retry_schedule`` of the configuration holds.
        """
        options: dict[str, Any] = {"threads": threads, "retry": retry, "lock": lock, "concurrency": concurrency}
        options |= {"singleton": singleton, "priority": priority, "authorize": authorize, "encrypted": encrypted}
        self._add(Kind.MESSAGE, category, name, service, options)

    def add_event_service(
        self,
        category: str,
        name: str,
        service: Any,
        events: str | Sequence[str],
        *,
        threads: int | None = None,
        retry: Sequence[float] | None = None,
        lock: Lock | None = None,
        concurrency: Literal["node"] | None = None,
        singleton: bool | None = None,
        priority: int | None = None,
        authorize: Authorize | None = None,
        encrypted: bool | None = None,
    ) -> None:
        """Handle events by ``service.on_message(request)``; else as add_message_service().

        Each service of each node that subscribes to an event gets it by itself; its name is ``request.event_name``. A
        subscription is durable: it collects events while the node is away, and once the service is not registered.

        Args:
            events: one or several names or patterns of events: ``orders.created``, ``orders.*`` (one word), ``#``.
        """
        options: dict[str, Any] = {
            "threads": threads,
            "retry": retry,
            "lock": lock,
            "concurrency": concurrency,
            "events": events,
        }
        options |= {"singleton": singleton, "priority": priority, "authorize": authorize, "encrypted": encrypted}
        self._add(Kind.MESSAGE, category, name, service, options)

    def add_message_services(self, category: str, name: str, service: Any) -> None:
        """The name of ``add_message_service()`` in py-servicebus 2.x."""
        self.add_message_service(category, name, service)

    def include(self, group: Services) -> None:
        """Serve the typed functions of a group of ``servicebus.typed``, and describe the events that it publishes.

        Raises:
            ConfigurationError: it is no group, a name is taken, a signature cannot be read, or an option is none.
        """
        if not isinstance(getattr(group, "published", None), tuple):  # its class would load pydantic
            what = "include() takes a group of typed functions (servicebus.Services)"
            raise ConfigurationError(f"{what}, not {type(group).__name__}", key="services")
        for each in group:
            self._add(each.kind, each.category, each.name, each.make(), {**each.options, **each.subscription})
        self.published.add(group.published)

    def _add(self, kind: Kind, category: str, name: str, service: Any, options: dict[str, Any]) -> None:
        Address(self._config.node_name, category, name)
        found = register(kind, category, name, service, **options)
        self._check_service(found, self._config)
        if (key := (kind, found.lookup_key)) in self._services or (kind, found.rival_key) in self._services:
            raise ConfigurationError(f"service {found.key} for {kind.value}s is registered already", key="services")
        self._services[key] = prepared(found, self._middleware)

    def _tune(self, entries: Iterable[ServiceEntry]) -> bool:
        """Run the services as the *entries* of a file that was read again say; whether that is another way."""
        before = dict(self._services)
        tuned = {(_KINDS.get(each.kind), f"{each.category}.{each.name}"): each.options for each in entries}
        for key, service in before.items():
            options = tuned.get((service.kind, service.key))
            if options is not None and not (service.events or service.plain):
                names = TUNED if service.kind is MESSAGE else TUNED - {"retry"}
                how = {name: options.get(name) for name in names}
                found = register(service.kind, service.category, service.name, as_registered(service.instance), **how)
                tuning = {field: getattr(found, field) for field in _TUNED_FIELDS}
                self._services[key] = replace(service, **tuning)
        return self._services != before

    def _check_service(self, service: Service, config: Configuration) -> None:
        """Raise ConfigurationError: *service* cannot be served with *config*."""
        self._check_plain(service, config)
        if service.singleton and config.compat:
            raise ConfigurationError(f"service {service.key}: a singleton cannot be served with compat", key="services")
