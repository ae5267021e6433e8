"""AsyncPlainSending: the part of an AsyncSender that publishes, and asks, in the form of other programs."""

from __future__ import annotations

from asyncio import wrap_future
from typing import Any

from servicebus._plain import PlainMessage
from servicebus.client.plain_sending import AsyncPlainPublisher

__all__ = ["AsyncPlainSending"]


class AsyncPlainSending:
    """Base of AsyncSender."""

    _sender: Any
    """A Sender."""

    def publisher(self, name: str) -> AsyncPlainPublisher:
        """As ``Sender.publisher()``."""
        return AsyncPlainPublisher(self._sender.publisher(name))

    def publisher_to(self, exchange: str, routing_key: str = "", **how: Any) -> AsyncPlainPublisher:
        """As ``Sender.publisher_to()``."""
        return AsyncPlainPublisher(self._sender.publisher_to(exchange, routing_key, **how))

    async def request(self, exchange: str, routing_key: str, body: Any = b"", **how: Any) -> PlainMessage:
        """As ``Sender.request()``."""
        asked = self._sender.request_async(exchange, routing_key, body, **how)
        found: PlainMessage = await wrap_future(asked)
        return found
