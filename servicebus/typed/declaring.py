"""What a group is told of its functions, checked where it is told: the traceback shows the line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from servicebus._nearest import nearest
from servicebus.errors import ConfigurationError
from servicebus.wire.envelope import CALL, Kind

__all__ = ["check_declaration"]

_OF_ALL = frozenset(
    {"name", "threads", "tasks", "lock", "concurrency", "singleton", "priority", "authorize", "encrypted", "errors"}
    | {"deprecated", "version", "former"}
)
_OF_CALLS = frozenset({"idempotent", "resumable"})
_OF_MESSAGES = frozenset({"retry"})
_OF_QUEUES = frozenset({"events", "plain", "publishes", "answers"})
"""Given by ``event()`` and ``consume()``, whose signatures are checked by Python."""
_TEXTS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("version", (str,), "a text"),
    ("deprecated", (str, bool), "a text, True or False"),
    ("former", (bool,), "True or False"),
)


def check_declaration(who: str, kind: Kind, how: Mapping[str, Any]) -> None:
    """Raise ConfigurationError: the decorator of *kind* takes no such arguments. *who* names the group."""
    decorator, allowed = ("rpc", _OF_ALL | _OF_CALLS) if kind is CALL else ("message", _OF_ALL | _OF_MESSAGES)
    for option in how.keys() - allowed - _OF_QUEUES:
        meant = nearest(option, sorted(allowed))
        hint = f"; did you mean {meant}?" if meant else ""
        if option in _OF_CALLS | _OF_MESSAGES:
            hint = "; that is for calls" if kind is not CALL else "; that is for messages and events"
        raise ConfigurationError(f"{who}: {decorator}() takes no {option}{hint}", key="services")
    for option, kinds, words in _TEXTS:
        if option in how and not isinstance(how[option], kinds):
            raise ConfigurationError(f"{who}: {option} must be {words}, not {how[option]!r}", key="services")
    if not isinstance(how.get("errors", ()), (list, tuple, set, frozenset)):
        raise ConfigurationError(f"{who}: errors must be a list of exception classes", key="services")


def checked_name(who: str, function: Callable[..., Any], name: str | None) -> str:
    """The name of the service that *function* is. Raises ConfigurationError: it cannot be one, or has no name."""
    if isinstance(function, type):
        raise ConfigurationError(f"{who}: {function.__name__} is a class; it decorates functions", key="services")
    if _is_method(function):
        what = f"{function.__qualname__} is a method, which has no self here; write a function"
        raise ConfigurationError(f"{who}: {what}, or use a bound method: group.rpc(object.method)", key="services")
    found: str | None = getattr(function, "__name__", None) if name is None else name
    if found is None:
        what = f"a function of type {type(function).__name__} has no name; say name=..."
        raise ConfigurationError(f"{who}: {what}", key="services")
    return found


def _is_method(function: Callable[..., Any]) -> bool:
    """Whether it stands in a class, and is not bound to an instance."""
    if not inspect.isfunction(function):
        return False
    within = function.__qualname__.rpartition(".")[0]
    first = next(iter(inspect.signature(function).parameters), "")
    return bool(within) and not within.endswith("<locals>") and first in ("self", "cls")
