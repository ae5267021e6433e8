"""Definition: one typed function of a group."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from servicebus._plain import PlainQueue
from servicebus.contracts import ServiceContract
from servicebus.contracts.description import shown_options
from servicebus.errors import ConfigurationError
from servicebus.typed.declared import DeclaredError
from servicebus.typed.plain_service import PlainService, consumed_queue
from servicebus.typed.service import TypedService
from servicebus.typed.typed_function import TypedFunction
from servicebus.wire.envelope import CALL, Kind

__all__ = ["Definition"]


@dataclass(frozen=True, eq=False)
class Definition:
    """One function of a group, as it was declared."""

    kind: Kind
    category: str
    name: str
    function: Callable[..., Any]
    options: dict[str, Any]
    """As ``ServiceBus.add_rpc_service()`` and ``add_message_service()`` take them."""
    errors: dict[type, DeclaredError]
    deprecated: str | bool = False
    version: str = ""
    former: bool = False
    tasks: int | None = None
    events: tuple[str, ...] = ()
    """The patterns of the events that it handles; empty for calls and messages."""
    local_names: dict[str, Any] | None = field(default=None, repr=False)
    plain: PlainQueue | None = None
    """The queue of other programs that it consumes; None for calls, messages and events."""
    publishes: str = ""
    """The publisher of its results; "" for none."""
    answers: bool | None = None

    @property
    def subscription(self) -> dict[str, Any]:
        """What ``register()`` is told of events and queues of other programs; empty for calls and messages."""
        if self.plain is not None:
            return {"plain": consumed_queue(self.function, self.plain, self.answers, self.publishes, self.local_names)}
        return {"events": self.events} if self.events else {}

    @property
    def is_stream(self) -> bool:
        """It is a generator, of either kind."""
        return inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function)

    @property
    def key(self) -> str:
        return f"{self.category}.{self.name}"

    @cached_property
    def typed_function(self) -> TypedFunction:
        """Made once: pydantic takes milliseconds for it, and a test makes a bus for each case."""
        return TypedFunction(self.key, self.function, self.local_names)

    def make(self) -> TypedService:
        """What an agent runs. Raises ConfigurationError: the signature cannot be read."""
        if self.typed_function.is_async and self.options.get("threads") is not None:
            raise ConfigurationError(f"service {self.key}: threads is for def; say tasks", key="services")
        how = self.typed_function, self.errors, self.deprecated, self.tasks, self.version, self.former
        if self.plain is not None:
            return PlainService(self.key, *how, publishes=self.publishes)
        return TypedService(self.key, *how)

    def contract(self) -> ServiceContract:
        """How a node that serves it describes it. Raises as ``make()``."""
        options = shown_options({**self.options, "tasks": self.tasks})
        found = self.make().contract("call" if self.kind is CALL else "message", options)
        return replace(found, kind="event", events=self.events) if self.events else found
