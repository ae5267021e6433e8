"""A service bus over several independent RabbitMQ brokers.

What most programs need can be imported from here. It is loaded when it is first asked for: this package itself loads
neither pika, nor pydantic, nor anything that forks. docs/api.rst lists the modules, whose paths are promises as well.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from servicebus._secret import Secret
from servicebus.services import Deny, Reject, Requeue, Retry

if TYPE_CHECKING:
    from servicebus.aio import AsyncSender
    from servicebus.configuration import Configuration
    from servicebus.sender import Sender
    from servicebus.service import ServiceBus
    from servicebus.typed import Services

__all__ = [
    "AsyncSender",
    "Configuration",
    "Deny",
    "Reject",
    "Requeue",
    "Retry",
    "Secret",
    "Sender",
    "ServiceBus",
    "Services",
]

__version__ = "3.0.0.dev0"

_MODULES = {
    "AsyncSender": "servicebus.aio",
    "Configuration": "servicebus.configuration",
    "Sender": "servicebus.sender",
    "ServiceBus": "servicebus.service",
    "Services": "servicebus.typed",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
