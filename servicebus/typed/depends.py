"""Depends: what a typed function needs besides its params, made for each request, each thread or each worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from servicebus.errors import ConfigurationError

__all__ = ["INJECTED", "SCOPES", "Depends", "replaced", "replacement_of"]

Scope = Literal["request", "thread", "worker"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""From the shortest to the longest."""


@dataclass(frozen=True)
class PublisherOf:
    """Where an injected publisher comes from: the name of its parameter."""

    name: str
    is_async: bool


class _Injected:
    """The default of a parameter that is injected, so that callers, in the eyes of type checkers, may leave it out."""

    def __repr__(self) -> str:
        return "INJECTED"


INJECTED: Any = _Injected()

_replacements: dict[Callable[..., Any], Callable[..., Any]] = {}


@dataclass(frozen=True)
class Depends:
    """Marks a parameter that is made by *make*: ``Annotated[Database, Depends(open_database)]``.

    A generator function yields the value once; the code behind its ``yield`` is the tear-down. The parameters of *make*
    are injected in the same way.

    Args:
        make: a class or function.
        scope: ``"request"`` makes one for each request, ``"thread"`` one in each of the service's threads, ``"worker"``
            one for all services of a worker.
    """

    make: Callable[..., Any]
    scope: Scope = "request"

    def __post_init__(self) -> None:
        if not callable(self.make):
            raise ConfigurationError(f"Depends takes a function or a class, not {self.make!r}", key="services")
        if self.scope not in SCOPES:
            raise ConfigurationError(f"the scope of Depends is one of {', '.join(SCOPES)}", key="services")


@contextmanager
def replaced(make: Callable[..., Any], by: Callable[..., Any]) -> Iterator[None]:
    """For tests: what is included meanwhile gets the dependency *make* from *by*, in the scope of the original.

    Not for several threads.
    """
    before = _replacements.get(make)
    _replacements[make] = by
    try:
        yield
    finally:
        if before is None:
            del _replacements[make]
        else:
            _replacements[make] = before


def replacement_of(make: Callable[..., Any]) -> Callable[..., Any]:
    return _replacements.get(make, make)
