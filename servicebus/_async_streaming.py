"""AsyncItemStream: what ``AsyncSender.stream()`` returns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from servicebus._context import GivenContext
from servicebus._steps import Outgoing, Step, outgoing_of, run_steps
from servicebus.client.streaming import PREFETCH, StreamReader

__all__ = ["AsyncItemStream", "AsyncStreaming"]

T_co = TypeVar("T_co", covariant=True)


class AsyncItemStream(Generic[T_co]):
    """The items of a stream, one by one: an asynchronous iterator. Made by ``AsyncSender.stream()``. For one task at a
    time.

    The service is asked when the first item is. ``aclose()``, the end of its ``async with`` block, or dropping it
    closes the generator at the node.
    """

    def __init__(self, ask: Callable[[], Awaitable[StreamReader]]):
        self.convert: Callable[[Any], Any] | None = None
        """Makes of an item what the caller gets."""
        self.explain: Callable[[BaseException], BaseException] | None = None
        self._ask = ask
        self._reader: StreamReader | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<AsyncItemStream of {self._reader!r}>"

    @property
    def position(self) -> int:
        """The number of the next item, from the begin of the stream; 0 before it was asked for."""
        return 0 if self._reader is None else self._reader.position

    def __aiter__(self) -> AsyncItemStream[T_co]:
        return self

    async def __anext__(self) -> T_co:
        """The next item. Raises as ``ItemStream.__next__()``, and what asking for it raises."""
        if self._is_closed:
            raise StopAsyncIteration
        if self._reader is None:
            self._reader = await self._ask()
            self._reader.explain = self.explain
        while True:
            for item in self._reader._items:
                self._reader.position += 1
                return item if self.convert is None else self.convert(item)  # type: ignore[no-any-return]
            if not await _wait(self._reader):
                raise StopAsyncIteration

    async def __aenter__(self) -> AsyncItemStream[T_co]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Take no more: the generator is closed at the node."""
        self._is_closed = True
        if self._reader is not None:
            self._reader.close()


class AsyncStreaming:
    """The part of an AsyncSender that asks for streams."""

    if TYPE_CHECKING:
        _sender: Any
        _steps: tuple[Step, ...]

        @property
        def _has_outbox(self) -> bool: ...
        async def _open(self) -> None: ...

    def stream(
        self,
        target: str,
        params: Any = None,
        timeout: float | None = None,
        *,
        item_timeout: float | None = None,
        prefetch: int = PREFETCH,
        position: int | None = None,
        contract: str = "",
        context: GivenContext = None,
    ) -> AsyncItemStream[Any]:
        """Ask a service for a stream of items: ``async for row in sender.stream("NODE.report.rows", {...})``.

        Arguments and errors are those of ``Sender.stream()``; errors are raised by the iteration. The times run from
        when the first item is asked for.
        """

        async def ask(outgoing: Outgoing | None = None) -> StreamReader:
            if self._has_outbox:
                await self._open()
            asked = outgoing or Outgoing("stream", target, params)
            pairs = context if outgoing is None else outgoing.context
            how = timeout, item_timeout, prefetch, position, contract, pairs
            return self._sender._stream(StreamReader, asked.target, asked.params, *how)  # type: ignore[no-any-return]

        async def ask_in_steps() -> StreamReader:
            asked: list[StreamReader] = []
            outgoing = outgoing_of("stream", target, params, context)

            async def proceed() -> None:
                asked.append(await ask(outgoing))

            await run_steps(self._steps, outgoing, proceed)
            return asked[-1]

        return AsyncItemStream(ask_in_steps if self._steps else ask)


async def _wait(reader: StreamReader) -> bool:
    steps = reader._steps()
    try:
        while True:
            await asyncio.wrap_future(next(steps))
    except StopIteration as end:
        return bool(end.value)
