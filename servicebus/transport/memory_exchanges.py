"""The exchanges of a broker in memory, and which queues they route to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from servicebus.transport.interface import ExchangeKind
from servicebus.transport.memory_queues import Refusal, not_found
from servicebus.wire.events import matches

__all__ = ["MemoryExchange", "Routes"]


class MemoryExchange(NamedTuple):
    """How it was declared."""

    kind: ExchangeKind
    durable: bool


class Routes:
    """With the lock of the broker held.

    Args:
        alternates: by exchange, the queue that takes what no other takes.
    """

    def __init__(self, alternates: Mapping[str, str]):
        self.exchanges: dict[str, MemoryExchange] = {}
        self.bindings: dict[tuple[str, str], dict[str, None]] = {}
        """Queues in the order of their bindings, by exchange and key."""
        self._alternates = alternates

    def __repr__(self) -> str:
        return f"<Routes {', '.join(self.exchanges)}>"

    def declare(self, name: str, *, kind: ExchangeKind = "direct", durable: bool, passive: bool) -> None:
        wanted, found = MemoryExchange(kind, durable), self.exchanges.get(name)
        if found is None:
            if passive:
                raise not_found("exchange", name)
            self.exchanges[name] = wanted
        elif not passive and found != wanted:
            other = "type" if found.kind != kind else "durable"
            raise Refusal(406, f"PRECONDITION_FAILED - inequivalent arg '{other}' for exchange '{name}' in vhost '/'")

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        if exchange not in self.exchanges:
            raise not_found("exchange", exchange)
        self.bindings.setdefault((exchange, routing_key), {})[queue] = None

    def unbind(self, queue: str, exchange: str, routing_key: str) -> None:
        self.bindings.get((exchange, routing_key), {}).pop(queue, None)

    def forget(self, queue: str) -> None:
        """It was deleted."""
        for bound in self.bindings.values():
            bound.pop(queue, None)

    def queues(self, exchange: str, routing_key: str) -> Iterable[str]:
        """Those that get what is published with *routing_key*, each once. Raises Refusal."""
        found = self.exchanges.get(exchange)
        if found is None:
            raise not_found("exchange", exchange)
        names: Iterable[str]
        if found.kind == "direct":
            names = self.bindings.get((exchange, routing_key), ())
        else:  # by headers nothing is routed here: bindings have no arguments in memory
            bound = [
                names
                for (of, key), names in self.bindings.items()
                if of == exchange and (found.kind == "fanout" or (found.kind == "topic" and matches(key, routing_key)))
            ]
            names = dict.fromkeys(name for names in bound for name in names)
        if not names and exchange in self._alternates:
            return [self._alternates[exchange]]
        return names
