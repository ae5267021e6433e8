"""What a bench or a drill asks, by a Sender: pings of nodes, or calls of services."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.operations.load import Begin
from servicebus.sender import Sender
from servicebus.wire.address import Address

__all__ = ["calls_of", "pings_of", "preferring"]

_FAILBACK_S = 1.0


def preferring(config: Configuration, broker: BrokerHost) -> Configuration:
    """For a Sender that uses *broker* whenever it can: so a drill of it shows in what that Sender asks."""
    others = tuple(host for host in config.hosts if host is not broker)
    return config.replaced(hosts=(broker, *others), failback_after=_FAILBACK_S)


def pings_of(sender: Sender, nodes: Iterable[str], timeout_s: float) -> dict[str, Begin]:
    """What pings each node, on the path that a call would take. Raises AddressError."""

    def ping(node: str) -> Begin:
        (ask,), _ = sender._pings(node, timeout_s, [None])
        return partial(ask, timeout_s)

    return {node: ping(node) for node in nodes}


def calls_of(sender: Sender, addresses: Iterable[str], params: Any, timeout_s: float) -> dict[str, Begin]:
    """What calls each service. Raises AddressError."""

    def call(address: str) -> Begin:
        Address.parse(address)

        def begin() -> Future[Any]:
            return sender.call_async(address, params, timeout=timeout_s)

        return begin

    return {address: call(address) for address in addresses}
