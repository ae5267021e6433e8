"""What the files of ``servicebus stubs`` are made of. It needs no pydantic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servicebus._context import GivenContext, checked
from servicebus.contracts import ServiceContract
from servicebus.contracts.mismatch import explained
from servicebus.contracts.values import MISSING, from_json, to_json
from servicebus.errors import ContractMismatch, InvalidReply, RemoteError
from servicebus.wire.fault import declare

if TYPE_CHECKING:
    from servicebus.aio import AsyncSender
    from servicebus.client.future import Receipt
    from servicebus.sender import Sender

__all__ = ["MISSING", "AsyncStub", "Stub", "StubError", "StubService"]


class StubError(Exception):
    """Base of the errors that services declare. Its cause is the RemoteError, with the text of the service."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, dict(self.__dict__))

    def __str__(self) -> str:
        cause = self.__cause__
        return cause.message if isinstance(cause, RemoteError) else super().__str__()


def _rebuilt(kind: type[StubError], args: tuple[Any, ...], fields: dict[str, Any]) -> StubError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


@dataclass(frozen=True)
class StubService:
    """One service, as it was when the stub was made."""

    key: str
    """``category.name``"""
    hash: str
    text: str
    """JSON of its contract."""

    def raises(self, *kinds: type[StubError], **others: type[StubError]) -> StubService:
        """Its errors, each of the name of its class, or of the name that is given. Returns itself."""
        for name, kind in ({each.__name__: each for each in kinds} | others).items():
            declare(self.key, name, _reader_of(kind))
        return self

    def explained(self, error: ContractMismatch) -> ContractMismatch:
        """*error*, which says what differs."""
        return explained(error, ServiceContract.from_json(json.loads(self.text), self.key))

    def read(self, node: str, value: Any, kind: Any) -> Any:
        """The result, or item, of type *kind* that *value* stands for. Raises InvalidReply: it stands for none."""
        try:
            return from_json(value, kind)
        except (ValueError, TypeError) as error:
            raise InvalidReply(f"{node}.{self.key}", str(error)) from None

    def items(self, node: str, kind: Any, asked: Any) -> Any:
        """*asked*, an ItemStream or AsyncItemStream, whose items are of *kind*."""
        asked.convert = lambda value: self.read(node, value, kind)
        asked.explain = lambda error: self.explained(error) if isinstance(error, ContractMismatch) else error
        return asked


def _reader_of(kind: Any) -> Any:
    def read(text: str) -> Exception:
        fields = json.loads(text)
        error: Exception = kind(*fields) if isinstance(fields, list) else from_json(fields, kind)
        return error

    return read


class Stub:
    """Base of a client. For any thread.

    Args:
        sender: which calls.
        node: at which node.
        timeout, context: of each call and message, as of ``Sender.call()`` and ``send()``.
    """

    NODE = ""
    """Of which it was made."""

    def __init__(self, sender: Sender, node: str = "", timeout: float | None = None, context: GivenContext = None):
        self._sender, self._node, self._timeout = sender, node or self.NODE, timeout
        self._context = checked(context)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._node}>"

    def _call(self, service: StubService, result: Any, params: Any) -> Any:
        target = f"{self._node}.{service.key}"
        try:
            _, value = self._sender.call(target, _sent(params), self._timeout, **self._how(service))
        except ContractMismatch as error:
            raise service.explained(error)  # noqa: B904 - it is the same error
        return service.read(self._node, value, result)

    def _send(self, service: StubService, params: Any) -> Receipt:
        return self._sender.send(f"{self._node}.{service.key}", _sent(params), self._timeout, **self._how(service))

    def _stream(self, service: StubService, item: Any, params: Any) -> Any:
        target = f"{self._node}.{service.key}"
        asked = self._sender.stream(target, _sent(params), self._timeout, **self._how(service))
        return service.items(self._node, item, asked)

    def _how(self, service: StubService) -> dict[str, Any]:
        return {"contract": service.hash, "context": self._context}


class AsyncStub:
    """The same for asyncio programs."""

    NODE = ""

    def __init__(self, sender: AsyncSender, node: str = "", timeout: float | None = None, context: GivenContext = None):
        self._sender, self._node, self._timeout = sender, node or self.NODE, timeout
        self._context = checked(context)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._node}>"

    async def _call(self, service: StubService, result: Any, params: Any) -> Any:
        target = f"{self._node}.{service.key}"
        try:
            _, value = await self._sender.call(target, _sent(params), self._timeout, **self._how(service))
        except ContractMismatch as error:
            raise service.explained(error)  # noqa: B904 - it is the same error
        return service.read(self._node, value, result)

    def _stream(self, service: StubService, item: Any, params: Any) -> Any:
        target = f"{self._node}.{service.key}"
        asked = self._sender.stream(target, _sent(params), self._timeout, **self._how(service))
        return service.items(self._node, item, asked)

    async def _send(self, service: StubService, params: Any) -> Receipt:
        target = f"{self._node}.{service.key}"
        return await self._sender.send(target, _sent(params), self._timeout, **self._how(service))

    def _how(self, service: StubService) -> dict[str, Any]:
        return {"contract": service.hash, "context": self._context}


def _sent(params: Any) -> Any:
    return None if params is MISSING else to_json(params)
