"""Clients: the functions of a group, called at a node, by the code that caller and node share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from servicebus._context import PRIORITY, GivenContext, checked, with_priority
from servicebus._durations import to_seconds
from servicebus._secret import Secret
from servicebus.contracts import ServiceContract
from servicebus.contracts.mismatch import explained
from servicebus.errors import ContractMismatch, InvalidParams, InvalidReply
from servicebus.sender import Sender
from servicebus.typed.definition import Definition
from servicebus.typed.problems import problems_of
from servicebus.typed.results import plain
from servicebus.typed.signature import read_signature
from servicebus.wire.envelope import CALL
from servicebus.wire.jsontext import encode_params

if TYPE_CHECKING:
    from servicebus.aio import AsyncItemStream, AsyncSender
    from servicebus.client.future import Receipt
    from servicebus.client.streaming import ItemStream

__all__ = ["AsyncClient", "Client", "client_of"]

P = ParamSpec("P")
R = TypeVar("R")


class _RemoteFunction:
    """One function of a group, as callers need it. Made when it is called first."""

    def __init__(self, definition: Definition):
        self.definition = definition
        self._signature = read_signature(definition.function, definition.local_names)
        self._parameters = {
            name: TypeAdapter[Any](each.annotation) for name, each in self._signature.bound.parameters.items()
        }
        returns = self._signature.item if definition.is_stream else self._signature.returns
        self._result = None if returns in (self._signature.bound.empty, Any) else TypeAdapter[Any](returns)
        self._priority = definition.options.get("priority")

    @cached_property
    def contract(self) -> ServiceContract:
        return self.definition.contract()

    def context(self, given: GivenContext) -> GivenContext:
        """*given*, with the priority of the service unless it says one."""
        return given if self._priority is None or PRIORITY in (given or ()) else with_priority(given, self._priority)

    def params(self, node: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What travels: an object by name, or an array where a parameter has no name.

        Raises:
            TypeError: the function cannot be called so.
            InvalidParams: a value is not what its annotation says. Nothing is sent.
        """
        params = self._params(node, args, kwargs)
        return Secret(params) if self.definition.options.get("encrypted") else params

    def _params(self, node: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = self._signature.bound.bind(*args, **kwargs)
        if self._signature.whole is not None:
            return next((self._written(node, name, value) for name, value in bound.arguments.items()), None)
        named: dict[str, Any] = {}
        placed: list[Any] = []
        for name, value in bound.arguments.items():
            kind = self._signature.bound.parameters[name].kind
            if kind is kind.VAR_POSITIONAL:
                placed += [self._written(node, name, each) for each in value]
            elif kind is kind.VAR_KEYWORD:
                named.update({key: self._written(node, name, each) for key, each in value.items()})
            elif kind is kind.KEYWORD_ONLY or not self._is_placed:
                named[name] = self._written(node, name, value)
            else:
                placed.append(self._written(node, name, value))
        if placed and named:
            raise TypeError(f"{self.definition.key}: what has no name and what has nothing else cannot travel together")
        return placed or named or None

    @cached_property
    def _is_placed(self) -> bool:
        """A parameter has no name, so all those that need none travel by their place."""
        return any(each.kind.name in _WITHOUT_NAMES for each in self._signature.bound.parameters.values())

    def _written(self, node: str, name: str, value: Any) -> Any:
        try:
            return plain(self._parameters[name], value)
        except ValidationError as error:
            problems = [each._replace(place=(name, *each.place)) for each in problems_of(error, value)]
            raise InvalidParams(f"{node}.{self.definition.key}", problems, sent=False) from None

    def result(self, node: str, value: Any) -> Any:
        """What the function would have returned, or one item of it. Raises InvalidReply: the node's is another one."""
        if self._result is None:
            return value
        try:
            return self._result.validate_json(encode_params(value), by_alias=True, by_name=True)
        except ValidationError as error:
            problems = list(problems_of(error, value))
        raise InvalidReply(f"{node}.{self.definition.key}", "; ".join(each.of("result") for each in problems), problems)

    def explain(self, error: BaseException) -> BaseException:
        return explained(error, self.contract) if isinstance(error, ContractMismatch) else error

    def stream(self, node: str, asked: Any) -> Any:
        """*asked*, the ItemStream or AsyncItemStream, whose items are what the function yields."""
        asked.convert = None if self._result is None else partial(self.result, node)
        asked.explain = self.explain
        return asked


_WITHOUT_NAMES = frozenset({"POSITIONAL_ONLY", "VAR_POSITIONAL"})


class _Functions:
    """Those of one group, by name and by function."""

    def __init__(self, group: Iterable[Definition]):
        self._group = group
        self._found: dict[Any, _RemoteFunction] = {}

    def __getitem__(self, wanted: Any) -> _RemoteFunction:
        """*wanted* is the name of a service, or its function. Raises AttributeError."""
        try:
            return self._found[wanted]
        except KeyError:
            pass
        for each in self._group:
            if each.events:
                continue  # it is not called: who publishes what it subscribes to does not name it
            if each.function is wanted or (each.name == wanted and not each.former):
                return self._found.setdefault(wanted, _RemoteFunction(each))
        raise AttributeError(f"{self._group!r} has no {getattr(wanted, '__qualname__', wanted)}")


class Client:
    """The services of a group at one node, called as the functions that they are. Made by ``Sender.client()``.

    ``client.add(1, b=2)`` returns what ``add(1, b=2)`` would, and a message function a Receipt. ``client.call(add, 1,
    b=2)`` is the same, and type checkers know it by the function. Params that the annotations do not allow are
    InvalidParams before anything is sent. The hash of the contract travels with each call: if the node runs another
    version, and the params do not fit it, ContractMismatch says what differs. For any thread.
    """

    def __init__(
        self,
        sender: Sender,
        node: str,
        group: Iterable[Definition],
        timeout: float | None = None,
        context: GivenContext = None,
    ):
        self._sender, self._node = sender, node
        self._timeout = None if timeout is None else to_seconds("timeout", timeout)
        self._context = checked(context)
        self._group = group
        self._functions = _Functions(group)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._group!r} at {self._node}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        remote = self._functions[name]
        return lambda *args, **kwargs: self._ask(remote, args, kwargs)

    @overload
    def call(self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call the service that *function* is; its result. Raises what ``Sender.call()`` raises."""
        return self._ask(self._functions[function], args, kwargs)

    @overload
    def stream(
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ItemStream[R]: ...
    @overload
    def stream(self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs) -> ItemStream[R]: ...
    def stream(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The items that the generator *function* yields. Raises what ``Sender.stream()`` raises."""
        return self._ask(self._functions[function], args, kwargs)

    def send(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Send a message to the service that *function* is. Raises what ``Sender.send()`` raises."""
        receipt: Receipt = self._ask(self._functions[function], args, kwargs)
        return receipt

    def _ask(self, remote: _RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target, params = f"{self._node}.{remote.definition.key}", remote.params(self._node, args, kwargs)
        hash, context = remote.contract.hash, remote.context(self._context)
        if remote.definition.kind is not CALL:
            return self._sender.send(target, params, self._timeout, contract=hash, context=context)
        if remote.definition.is_stream:
            asked = self._sender.stream(target, params, self._timeout, contract=hash, context=context)
            return remote.stream(self._node, asked)
        try:
            _, value = self._sender.call(target, params, self._timeout, contract=hash, context=context)
        except ContractMismatch as error:
            raise explained(error, remote.contract)  # noqa: B904 - it is the same error
        return remote.result(self._node, value)


class AsyncClient:
    """The same for asyncio programs: made by ``AsyncSender.client()``, and everything is to be awaited."""

    def __init__(
        self,
        sender: AsyncSender,
        node: str,
        group: Iterable[Definition],
        timeout: float | None = None,
        context: GivenContext = None,
    ):
        self._sender, self._node = sender, node
        self._timeout = None if timeout is None else to_seconds("timeout", timeout)
        self._context = checked(context)
        self._group = group
        self._functions = _Functions(group)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._group!r} at {self._node}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        remote = self._functions[name]
        ask: Any = self._stream if remote.definition.is_stream else self._ask
        return lambda *args, **kwargs: ask(remote, args, kwargs)

    @overload
    def stream(
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncItemStream[R]: ...
    @overload
    def stream(
        self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncItemStream[R]: ...
    def stream(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The items that the generator *function* yields. Raises what ``AsyncSender.stream()`` raises."""
        return self._stream(self._functions[function], args, kwargs)

    @overload
    async def call(self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call the service that *function* is; its result. Raises what ``AsyncSender.call()`` raises."""
        return await self._ask(self._functions[function], args, kwargs)

    async def send(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Send a message to the service that *function* is. Raises what ``AsyncSender.send()`` raises."""
        receipt: Receipt = await self._ask(self._functions[function], args, kwargs)
        return receipt

    def _stream(self, remote: _RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target, params = f"{self._node}.{remote.definition.key}", remote.params(self._node, args, kwargs)
        how: dict[str, Any] = {"contract": remote.contract.hash, "context": remote.context(self._context)}
        return remote.stream(self._node, self._sender.stream(target, params, self._timeout, **how))

    async def _ask(self, remote: _RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target, params = f"{self._node}.{remote.definition.key}", remote.params(self._node, args, kwargs)
        hash, context = remote.contract.hash, remote.context(self._context)
        if remote.definition.kind is not CALL:
            return await self._sender.send(target, params, self._timeout, contract=hash, context=context)
        try:
            _, value = await self._sender.call(target, params, self._timeout, contract=hash, context=context)
        except ContractMismatch as error:
            raise explained(error, remote.contract)  # noqa: B904 - it is the same error
        return remote.result(self._node, value)


def client_of(
    group: Iterable[Definition],
    sender: Sender | AsyncSender,
    node: str,
    timeout: float | None,
    context: GivenContext,
) -> Client | AsyncClient:
    """The client of *group* that suits *sender*."""
    if isinstance(sender, Sender):
        return Client(sender, node, group, timeout, context)
    return AsyncClient(sender, node, group, timeout, context)
