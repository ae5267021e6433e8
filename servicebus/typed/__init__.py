"""Functions as services: their signature is the contract. Needs pydantic: ``pip install servicebus-failover[typed]``.

The agent of a program without typed functions, and ``servicebus.sender``, never load this package.
"""

try:
    import pydantic  # noqa: F401
except ImportError as error:
    raise ImportError("servicebus.typed needs pydantic: pip install servicebus-failover[typed]") from error

from servicebus.typed.client import AsyncClient, Client
from servicebus.typed.declared import declare_errors
from servicebus.typed.depends import INJECTED, Depends, replaced
from servicebus.typed.group import Services
from servicebus.typed.published import PublishedEvent
from servicebus.typed.results import InvalidResult
from servicebus.typed.typed_client import AnySender, Call, Items, Send, TypedClient

__all__ = [
    "INJECTED",
    "AnySender",
    "AsyncClient",
    "Call",
    "Client",
    "Depends",
    "InvalidResult",
    "Items",
    "PublishedEvent",
    "Send",
    "Services",
    "TypedClient",
    "declare_errors",
    "replaced",
]
