"""client_at: what ``client()`` of both Senders returns, for a group that is one."""

from __future__ import annotations

import inspect
from typing import Any

from servicebus._context import GivenContext
from servicebus.errors import ConfigurationError
from servicebus.wire.address import node_name

__all__ = ["client_at"]


def client_at(sender: Any, node: str, group: Any, timeout: float | None, context: GivenContext) -> Any:
    """The client of *group* at *node*. Raises AddressError or ConfigurationError: one of them is none."""
    if not callable(group) or inspect.isroutine(group):  # a function of the group could be called, with our arguments
        what = "client() takes a group of typed functions (servicebus.Services), or a TypedClient class"
        raise ConfigurationError(f"{what}, not {type(group).__name__}", key="services")
    return group(sender, node_name(node), timeout, context)
