"""PublisherRegistry: what services of a ServiceBus publish: in the form of other programs, and which events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from servicebus._plain import PlainTarget
from servicebus.configuration import Configuration
from servicebus.configuration.publishers import known_host
from servicebus.contracts import EventContract
from servicebus.errors import ConfigurationError
from servicebus.runtime.registration import Service
from servicebus.wire.envelope import MESSAGE, Kind

__all__ = ["DeclaredEvents", "PublisherRegistry"]


class DeclaredEvents:
    """The events that the groups of an agent say they publish."""

    def __init__(self) -> None:
        self._events: dict[str, EventContract] = {}

    def __iter__(self) -> Iterator[EventContract]:
        return iter(self._events.values())

    def add(self, events: Iterable[EventContract]) -> None:
        """Raises ConfigurationError: another group says something else of one."""
        for each in events:
            known = self._events.setdefault(each.event, each)
            if known.hash != each.hash:
                what = f"event {each.event}: {known.category} and {each.category} declare different payloads"
                raise ConfigurationError(what, key="services")


class PublisherRegistry:
    """Base of ServiceBus."""

    _config: Configuration

    def __init__(self) -> None:
        self._added_publishers: dict[str, PlainTarget] = {}
        self.published = DeclaredEvents()

    def add_publisher(
        self,
        name: str,
        exchange: str = "",
        routing_key: str = "",
        *,
        host: str = "",
        mandatory: bool = True,
        persistent: bool = True,
    ) -> None:
        """Let services publish to *exchange* in the form of other programs; as an entry of ``publishers:``.

        A typed function gets it by a parameter ``name: PlainPublisher``; to be called before ``include()``.

        Args:
            host: the name of one of ``hosts`` or ``connections``; "" for the first of ``hosts`` that takes it.
            mandatory: that no queue takes what is published is an error.
            persistent: queues keep it on disk.

        Raises:
            ConfigurationError: *name* is taken, or *host* is no broker.
        """
        if name in self._config.publishers:
            raise ConfigurationError(f"there is a publisher {name!r} already", key="publishers")
        _check_host(self._config, f"publisher {name!r}", host)
        self._added_publishers[name] = PlainTarget(exchange, routing_key, host, mandatory, persistent)
        self._config = self._with_publishers(self._config)

    def _with_publishers(self, configuration: Configuration) -> Configuration:
        return configuration.with_publishers(self._added_publishers)

    def _add(self, kind: Kind, category: str, name: str, service: Any, options: dict[str, Any]) -> None:
        raise NotImplementedError  # ServiceBus does; this is a part of it

    def _add_plain(self, category: str, name: str, service: Any, options: dict[str, Any]) -> None:
        """A service that consumes a queue of other programs, made by ``Services.consume()``."""
        self._add(MESSAGE, category, name, service, options)

    def _check_plain(self, service: Service, config: Configuration) -> None:
        """Raise ConfigurationError: *service* needs a publisher, or a broker, that *config* does not have."""
        if service.plain is not None:
            _check_host(config, f"the queue of service {service.key}", service.plain.host)
        known = config.publishers
        for name in sorted(getattr(service.instance, "needed_publishers", ())):
            if name not in known:
                listed = ", ".join(sorted(known)) or "none"
                what = f"service {service.key} needs the publisher {name!r}; known: {listed}"
                raise ConfigurationError(f"{what}; see publishers: and add_publisher()", key="publishers")


def _check_host(config: Configuration, what: str, name: str) -> None:
    if problem := known_host(name, config.hosts + config.connections):
        raise ConfigurationError(f"{what}: its host {problem}", key="services")
