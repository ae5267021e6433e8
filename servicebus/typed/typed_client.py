"""TypedClient: a client whose functions are listed in a class, so that type checkers know each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, overload

from typing_extensions import TypeVar

from servicebus._context import GivenContext
from servicebus.errors import ConfigurationError
from servicebus.sender import Sender
from servicebus.typed.client import client_of
from servicebus.typed.definition import Definition
from servicebus.wire.envelope import CALL, MESSAGE, Kind

if TYPE_CHECKING:
    from servicebus.aio import AsyncItemStream, AsyncSender
    from servicebus.client.future import Receipt
    from servicebus.client.streaming import ItemStream

__all__ = ["AnySender", "Call", "Items", "Send", "TypedClient"]

P = ParamSpec("P")
R = TypeVar("R")
AnySender = TypeVar("AnySender", Sender, "AsyncSender", default=Sender)


class _Listed:
    """A function of a group, as an attribute of a TypedClient."""

    kind: ClassVar[Kind]

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self.function, '__qualname__', self.function)})"


class Call(_Listed, Generic[P, R]):
    """The attribute calls *function* at the node, which a group serves as ``rpc``."""

    kind = CALL

    @overload
    def __init__(self: Call[P, R], function: Callable[P, Coroutine[Any, Any, R]]) -> None: ...
    @overload
    def __init__(self: Call[P, R], function: Callable[P, R]) -> None: ...
    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)

    @overload
    def __get__(self, instance: None, owner: Any) -> Call[P, R]: ...
    @overload
    def __get__(self, instance: TypedClient[Sender], owner: Any) -> Callable[P, R]: ...
    @overload
    def __get__(self, instance: TypedClient[AsyncSender], owner: Any) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else partial(instance._client.call, self.function)


class Items(_Listed, Generic[P, R]):
    """The attribute asks for the items of the generator *function* at the node, which a group serves as ``rpc``."""

    kind = CALL

    @overload
    def __init__(self: Items[P, R], function: Callable[P, AsyncIterator[R]]) -> None: ...
    @overload
    def __init__(self: Items[P, R], function: Callable[P, Iterator[R]]) -> None: ...
    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)

    @overload
    def __get__(self, instance: None, owner: Any) -> Items[P, R]: ...
    @overload
    def __get__(self, instance: TypedClient[Sender], owner: Any) -> Callable[P, ItemStream[R]]: ...
    @overload
    def __get__(self, instance: TypedClient[AsyncSender], owner: Any) -> Callable[P, AsyncItemStream[R]]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else partial(instance._client.stream, self.function)


class Send(_Listed, Generic[P]):
    """The attribute sends a message to *function* at the node, and returns the Receipt."""

    kind = MESSAGE

    def __init__(self, function: Callable[P, Any]):
        super().__init__(function)

    @overload
    def __get__(self, instance: None, owner: Any) -> Send[P]: ...
    @overload
    def __get__(self, instance: TypedClient[Sender], owner: Any) -> Callable[P, Receipt]: ...
    @overload
    def __get__(self, instance: TypedClient[AsyncSender], owner: Any) -> Callable[P, Coroutine[Any, Any, Receipt]]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else partial(instance._client.send, self.function)


class TypedClient(Generic[AnySender]):
    """Base of a class that lists functions of *group*, to call them at a node as what they are::

        class Math(TypedClient[AnySender], group=math):
            add = Call(add)
            note = Send(note)

    ``sender.client("NODE-01", Math)`` and ``Math(sender, "NODE-01")`` do what a client of the group does, and type
    checkers see the parameters and results of each function. With an AsyncSender everything is to be awaited.
    For any thread.

    Args:
        sender: which calls.
        node: at which node.
        timeout, context: of each call and message, as of ``Sender.call()`` and ``send()``.

    Raises:
        ConfigurationError: when the class is made: the group has no such service.
    """

    _group: ClassVar[Iterable[Definition]] = ()

    def __init_subclass__(cls, *, group: Iterable[Definition] | None = None, **others: Any) -> None:
        super().__init_subclass__(**others)
        if group is not None:
            cls._group = group
        served = {(each.kind, each.function) for each in cls._group}
        for name, each in vars(cls).items():
            if isinstance(each, _Listed) and (each.kind, each.function) not in served:
                raise ConfigurationError(f"{cls.__name__}.{name}: {cls._group!r} has no service for {each!r}")

    def __init__(self, sender: AnySender, node: str, timeout: float | None = None, context: GivenContext = None):
        self._client = client_of(self._group, sender, node, timeout, context)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._client!r}>"
