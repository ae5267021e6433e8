"""Injection: makes what a function and its dependencies need, each once in its scope, and tears it down again.

What lives longer than a request is kept by the Keeper of its scope, which a thread or the worker opens and closes.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from servicebus.errors import ConfigurationError
from servicebus.sender import Sender
from servicebus.services import Request
from servicebus.typed.depends import SCOPES, Depends, replacement_of
from servicebus.typed.signature import read_signature

__all__ = ["Injector"]


class _Provider:
    """One dependency of one service: how it is made, from what, and how long it lives."""

    def __init__(self, depends: Depends, of: str):
        self.make = replacement_of(depends.make)
        self.scope = depends.scope
        self.name = getattr(self.make, "__qualname__", repr(self.make))
        signature = read_signature(self.make)
        for parameter in signature.bound.parameters.values():
            is_needed = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if is_needed and parameter.default is parameter.empty:
                what = f"{of}: parameter {parameter.name} of the dependency {self.name} is neither injected nor has a"
                raise ConfigurationError(f"{what} default", key="services")
        self.injected = signature.injected
        self.has_teardown = inspect.isgeneratorfunction(self.make)
        self._opened = contextmanager(self.make) if self.has_teardown else self.make

    def __repr__(self) -> str:
        return f"<Provider {self.name} per {self.scope}>"

    @property
    def key(self) -> tuple[Callable[..., Any], str]:
        return self.make, self.scope

    def enter(self, stack: ExitStack, arguments: Mapping[str, Any]) -> Any:
        """The value; its tear-down is left to *stack*."""
        made = self._opened(**arguments)
        return stack.enter_context(made) if self.has_teardown else made


class _Keeper:
    """Values that outlive a request, and their tear-down. For any thread."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._users = 0

    def get(self, provider: _Provider, make: Callable[[ExitStack], Any]) -> Any:
        with self._lock:
            if provider.key not in self.values:
                self.values[provider.key] = make(self._stack)
            return self.values[provider.key]

    def open(self) -> None:
        with self._lock:
            self._users += 1

    def close(self) -> None:
        """Tear down, if this was the last user."""
        with self._lock:
            self._users -= 1
            if self._users <= 0:
                stack, self._stack, self.values, self._users = self._stack, ExitStack(), {}, 0
                stack.close()


class _ThreadKeeper(threading.local):
    def __init__(self) -> None:
        self.keeper = _Keeper()


_worker = _Keeper()
"""Of this process: nothing is made before the fork."""


class Injector:
    """The injected arguments of one service.

    Raises:
        ConfigurationError: a dependency needs what cannot be injected, or lives longer than what it needs.
    """

    def __init__(self, name: str, injected: Mapping[str, Any]):
        self._name = name
        self._providers: dict[Any, _Provider] = {}
        self._thread = _ThreadKeeper()
        self._parameters = {parameter: self._source(source, "request", ()) for parameter, source in injected.items()}
        self._lasting = [each for each in self._providers.values() if each.scope != "request"]
        self.has_teardown = any(each.has_teardown and each.scope == "request" for each in self._providers.values())
        """Of something that is made for each request."""

    def open(self) -> None:
        """Called in each of the service's threads, before its first request: makes what lasts."""
        if self._lasting:
            _worker.open()
            self._thread.keeper.open()
        for provider in self._lasting:
            self._kept(provider)

    def close(self) -> None:
        """Called in each of the service's threads, after its last request."""
        if self._lasting:
            self._thread.keeper.close()
            _worker.close()

    def arguments(self, request: Request, stack: ExitStack | None) -> dict[str, Any]:
        """By the names of the parameters; *stack* is needed if there is a tear-down."""
        made: dict[Any, Any] = {}
        return {name: self._value(source, request, stack, made) for name, source in self._parameters.items()}

    # -- inside --------------------------------------------------------------------------------------------------------

    def _source(self, source: Any, scope: str, path: tuple[Any, ...]) -> Any:
        """``Request``, ``Sender``, or a provider, whose own needs are looked into first."""
        if not isinstance(source, Depends):
            if scope != "request":
                what = f"a dependency per {scope} cannot take a {source.__name__}: there is one for each request"
                raise ConfigurationError(f"service {self._name}: {what}", key="services")
            return source
        if SCOPES.index(source.scope) < SCOPES.index(scope):
            what = f"a dependency per {scope} cannot take one per {source.scope}, which does not live as long"
            raise ConfigurationError(f"service {self._name}: {what}", key="services")
        provider = _Provider(source, f"service {self._name}")
        if provider.key in path:
            raise ConfigurationError(f"service {self._name}: {provider.name} depends on itself", key="services")
        known = self._providers.get(provider.key)
        if known is not None:
            return known
        needs = {
            name: self._source(each, provider.scope, (*path, provider.key)) for name, each in provider.injected.items()
        }
        provider.injected = needs
        self._providers[provider.key] = provider
        return provider

    def _value(self, source: Any, request: Request | None, stack: ExitStack | None, made: dict[Any, Any]) -> Any:
        if source is Request:
            return request
        if source is Sender:
            assert request is not None, "only what is made for a request takes a Sender"
            return request.get_sender()
        if source.scope != "request":
            return self._kept(source)
        if source.key not in made:
            arguments = {name: self._value(each, request, stack, made) for name, each in source.injected.items()}
            made[source.key] = source.enter(stack, arguments)
        return made[source.key]

    def _kept(self, provider: _Provider) -> Any:
        keeper = _worker if provider.scope == "worker" else self._thread.keeper
        if provider.key in keeper.values:
            return keeper.values[provider.key]

        def make(stack: ExitStack) -> Any:
            arguments = {name: self._value(each, None, None, {}) for name, each in provider.injected.items()}
            return provider.enter(stack, arguments)

        return keeper.get(provider, make)

