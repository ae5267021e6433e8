"""PublishedEvent: an event that a group says it publishes, and how it is published by its type."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pydantic import ValidationError

from servicebus._context import GivenContext
from servicebus.contracts import EventContract
from servicebus.errors import ConfigurationError, InvalidParams
from servicebus.typed.problems import problems_of
from servicebus.typed.results import adapter_of, plain
from servicebus.typed.schema import schema_of
from servicebus.wire.events import EventName

if TYPE_CHECKING:
    from servicebus.aio import AsyncSender
    from servicebus.client.future import Receipt
    from servicebus.sender import Sender

__all__ = ["PublishedEvent"]

T = TypeVar("T")


class PublishedEvent(Generic[T]):
    """What ``Services.publishes()`` returns. For any thread."""

    def __init__(
        self, event: str, category: str, payload: Any, docs: str = "", version: str = "", deprecated: str | bool = False
    ):
        self.event = str(EventName.parse(event))
        """Its name."""
        self._category = category
        self._payload = payload
        self._about = docs, version, deprecated

    def __repr__(self) -> str:
        return f"<PublishedEvent {self.event} of {self._category}>"

    def contract(self) -> EventContract:
        """How a node describes it. Raises ConfigurationError: its type has no schema."""
        try:
            schema = schema_of(self._payload, "serialization")
        except Exception as error:  # by pydantic, which asks the types of the program
            what = f"event {self.event}: no schema for its payload: {type(error).__name__}: {error}"
            raise ConfigurationError(what, key="services") from error
        return EventContract(self.event, self._category, schema, *self._about)

    @overload
    def publish(
        self,
        sender: Sender,
        value: T,
        timeout: float | None = None,
        *,
        delay: float | None = None,
        expires: float | None = None,
        context: GivenContext = None,
    ) -> Receipt: ...
    @overload
    def publish(
        self,
        sender: AsyncSender,
        value: T,
        timeout: float | None = None,
        *,
        delay: float | None = None,
        expires: float | None = None,
        context: GivenContext = None,
    ) -> Coroutine[Any, Any, Receipt]: ...
    def publish(self, sender: Any, value: T, timeout: float | None = None, **how: Any) -> Any:
        """Publish *value*, written by the type of the event; else as ``sender.publish()``.

        Raises:
            InvalidParams: *value* is not of that type; nothing was published.
        """
        return sender.publish(self.event, self._written(value), timeout, **how)

    def _written(self, value: T) -> Any:
        try:
            return plain(adapter_of(self._payload), value)
        except ValidationError as error:
            raise InvalidParams(self.event, list(problems_of(error, value)), sent=False) from None
