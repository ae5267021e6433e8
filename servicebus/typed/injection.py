"""Injection: makes what a function and its dependencies need, each once in its scope, and tears it down again.

What lives longer than a request is kept by the _Resources of its scope, which a thread or the worker opens and closes.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

from servicebus._plain import PlainMessage
from servicebus.client.plain_sending import AsyncPlainPublisher
from servicebus.errors import ConfigurationError
from servicebus.sender import Sender
from servicebus.services import Request
from servicebus.typed.depends import SCOPES, Depends, PublisherOf, replacement_of
from servicebus.typed.signature import read_signature

__all__ = ["Injector"]


class _Provider:
    """One dependency of one service: how it is made, from what, and how long it lives."""

    def __init__(self, depends: Depends, of: str, local_names: Mapping[str, Any] | None):
        self.make = replacement_of(depends.make)
        self.scope = depends.scope
        self.name = getattr(self.make, "__qualname__", repr(self.make))
        signature = read_signature(self.make, local_names)
        for parameter in signature.bound.parameters.values():
            is_needed = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if is_needed and parameter.default is parameter.empty:
                what = f"{of}: parameter {parameter.name} of the dependency {self.name} is neither injected nor has a"
                raise ConfigurationError(f"{what} default", key="services")
        self.injected = signature.injected
        self.is_async = inspect.iscoroutinefunction(self.make) or inspect.isasyncgenfunction(self.make)
        self.has_teardown = inspect.isgeneratorfunction(self.make) or inspect.isasyncgenfunction(self.make)
        self._opened: Callable[..., Any] = self.make
        if self.has_teardown:
            self._opened = (asynccontextmanager if self.is_async else contextmanager)(self.make)

    def __repr__(self) -> str:
        return f"<Provider {self.name} per {self.scope}>"

    @property
    def key(self) -> tuple[Callable[..., Any], str]:
        return self.make, self.scope

    def enter(self, stack: ExitStack, arguments: Mapping[str, Any]) -> Any:
        """The value; its tear-down is left to *stack*."""
        made = self._opened(**arguments)
        return stack.enter_context(made) if self.has_teardown else made

    async def enter_async(self, stack: AsyncExitStack, arguments: Mapping[str, Any]) -> Any:
        made = self._opened(**arguments)
        if not self.has_teardown:
            return await made if self.is_async else made
        return await stack.enter_async_context(made) if self.is_async else stack.enter_context(made)


class _Resources:
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


class _ThreadResources(threading.local):
    def __init__(self) -> None:
        self.resources = _Resources()


class _LoopResources:
    """The same for what is made by ``async def``. For the loop's thread."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self._stack = AsyncExitStack()
        self._making: Any = None
        """An asyncio.Lock: two requests may need one value at the same time. Made when it is needed, with asyncio."""
        self._users = 0

    async def get(self, provider: _Provider, make: Callable[[AsyncExitStack], Awaitable[Any]]) -> Any:
        if self._making is None:
            import asyncio

            self._making = asyncio.Lock()
        async with self._making:
            if provider.key not in self.values:
                self.values[provider.key] = await make(self._stack)
            return self.values[provider.key]

    def open(self) -> None:
        self._users += 1

    async def close(self) -> None:
        self._users -= 1
        if self._users <= 0:
            stack, self._stack, self.values, self._users = self._stack, AsyncExitStack(), {}, 0
            self._making = None
            await stack.aclose()


_worker = _Resources()
"""Of this process: nothing is made before the fork."""
_worker_loop = _LoopResources()


class Injector:
    """The injected arguments of one service.

    Raises:
        ConfigurationError: a dependency needs what cannot be injected, or lives longer than what it needs.
    """

    def __init__(
        self,
        name: str,
        injected: Mapping[str, Any],
        is_async: bool = False,
        local_names: Mapping[str, Any] | None = None,
    ):
        self._name = name
        self._local_names = local_names
        self._is_async = is_async
        self.publishers: set[str] = set()
        """The names of those that are needed."""
        self._providers: dict[Any, _Provider] = {}
        self._thread = _ThreadResources()
        self._loop = _LoopResources()
        self._parameters = {parameter: self._source(source, "request", ()) for parameter, source in injected.items()}
        self._lasting = [each for each in self._providers.values() if each.scope != "request"]
        self.has_teardown = any(each.has_teardown and each.scope == "request" for each in self._providers.values())
        """Of something that is made for each request."""

    def open(self) -> None:
        """Called in each of the service's threads, before its first request: makes what lasts."""
        if self._lasting:
            _worker.open()
            self._thread.resources.open()
        for provider in self._lasting:
            self._kept(provider)

    def close(self) -> None:
        """Called in each of the service's threads, after its last request."""
        if self._lasting:
            with ExitStack() as stack:  # a tear-down that raises does not keep the others from running
                stack.callback(_worker.close)
                stack.callback(self._thread.resources.close)

    def arguments(self, request: Request, stack: ExitStack | None) -> dict[str, Any]:
        """By the names of the parameters; *stack* is needed if there is a tear-down."""
        made: dict[Any, Any] = {}
        return {name: self._value(source, request, stack, made) for name, source in self._parameters.items()}

    # -- the same for an async def function, in the loop's thread ------------------------------------------------------

    async def open_async(self) -> None:
        if self._lasting:
            _worker.open()
            _worker_loop.open()
            self._loop.open()
        for provider in self._lasting:
            await self._kept_async(provider)

    async def close_async(self) -> None:
        if self._lasting:
            async with AsyncExitStack() as stack:
                stack.callback(_worker.close)
                stack.push_async_callback(_worker_loop.close)
                stack.callback(self._thread.resources.close)
                stack.push_async_callback(self._loop.close)

    async def arguments_async(self, request: Request, stack: AsyncExitStack) -> dict[str, Any]:
        made: dict[Any, Any] = {}
        parameters = self._parameters.items()
        return {name: await self._value_async(source, request, stack, made) for name, source in parameters}

    async def _value_async(
        self, source: Any, request: Request | None, stack: AsyncExitStack, made: dict[Any, Any]
    ) -> Any:
        if isinstance(source, (type, PublisherOf)):
            return self._value(source, request, None, made)
        if source.scope != "request":
            return await self._kept_async(source)
        if source.key not in made:
            needs = source.injected.items()
            arguments = {name: await self._value_async(each, request, stack, made) for name, each in needs}
            made[source.key] = await source.enter_async(stack, arguments)
        return made[source.key]

    async def _kept_async(self, provider: _Provider) -> Any:
        if not provider.is_async and not any(each.is_async for each in provider.injected.values()):
            return self._kept(provider)
        resources = _worker_loop if provider.scope == "worker" else self._loop
        if provider.key in resources.values:
            return resources.values[provider.key]

        async def make(stack: AsyncExitStack) -> Any:
            needs = provider.injected.items()
            arguments = {name: await self._value_async(each, None, stack, {}) for name, each in needs}
            return await provider.enter_async(stack, arguments)

        return await resources.get(provider, make)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _source(self, source: Any, scope: str, path: tuple[Any, ...]) -> Any:
        """``Request``, ``Sender``, or a provider, whose own needs are looked into first."""
        if not isinstance(source, Depends):
            if isinstance(source, PublisherOf):
                self.publishers.add(source.name)
            if scope != "request":
                kind = "publisher" if isinstance(source, PublisherOf) else source.__name__
                what = f"a dependency per {scope} cannot take a {kind}: there is one for each request"
                raise ConfigurationError(f"service {self._name}: {what}", key="services")
            return source
        if SCOPES.index(source.scope) < SCOPES.index(scope):
            what = f"a dependency per {scope} cannot take one per {source.scope}, which does not live as long"
            raise ConfigurationError(f"service {self._name}: {what}", key="services")
        provider = _Provider(source, f"service {self._name}", self._local_names)
        if provider.key in path:
            raise ConfigurationError(f"service {self._name}: {provider.name} depends on itself", key="services")
        if provider.is_async and not self._is_async:
            what = f"the dependency {provider.name} is async def, so the service has to be, too"
            raise ConfigurationError(f"service {self._name}: {what}", key="services")
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
        if source is PlainMessage:
            return None if request is None else request.message
        if isinstance(source, PublisherOf):
            assert request is not None
            publisher = request.get_sender().publisher(source.name)
            return AsyncPlainPublisher(publisher) if source.is_async else publisher
        if isinstance(source, type):
            assert request is not None, "only what is made for a request takes a Sender"
            sender = request.get_sender()
            return sender if source is Sender else source.of(sender)  # type: ignore[attr-defined]
        if source.scope != "request":
            return self._kept(source)
        if source.key not in made:
            arguments = {name: self._value(each, request, stack, made) for name, each in source.injected.items()}
            made[source.key] = source.enter(stack, arguments)
        return made[source.key]

    def _kept(self, provider: _Provider) -> Any:
        resources = _worker if provider.scope == "worker" else self._thread.resources
        if provider.key in resources.values:
            return resources.values[provider.key]

        def make(stack: ExitStack) -> Any:
            arguments = {name: self._value(each, None, None, {}) for name, each in provider.injected.items()}
            return provider.enter(stack, arguments)

        return resources.get(provider, make)
