"""ItemStream: what ``Sender.stream()`` returns, and how a stream that was interrupted is asked for again."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from servicebus._context import GivenContext, OutgoingContext
from servicebus._durations import to_seconds
from servicebus.client.future import CallFuture
from servicebus.client.request import PendingRequest
from servicebus.client.session import SenderSession, SessionOwner
from servicebus.client.streams import StreamInbox, StreamRequest
from servicebus.errors import (
    CallInterrupted,
    CallRefused,
    CallTimeout,
    EnvelopeError,
    InvalidReply,
    LifecycleError,
    RemoteError,
    ServiceBusError,
    StreamInterrupted,
)
from servicebus.services import outgoing_context
from servicebus.wire.address import Address
from servicebus.wire.envelope import CALL
from servicebus.wire.fault import NOT_RESUMABLE
from servicebus.wire.jsontext import decode_params
from servicebus.wire.streams import Chunk, StreamTerms

__all__ = ["ItemStream", "StreamReader", "StreamSource"]

T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S", bound="StreamReader")
Opening = Callable[[StreamTerms, float], tuple[SenderSession, PendingRequest]]

WINDOW_BYTES = 1 << 20
"""Beside the number of items: so many bytes of them may be on their way, and one item more."""
PREFETCH = 2000
_MAX_PREFETCH = 10**6
_FRUITLESS = 8
"""So often a stream is asked for again without a single item in between."""
_PAUSE_S = 0.05
"""Before the second of these; it doubles."""


class StreamPlan(NamedTuple):
    """What is asked for."""

    address: str
    opening: Opening
    """Makes the request, on terms and for so many seconds."""
    timeout_s: float | None
    """For all of it; None for no limit."""
    item_timeout_s: float
    prefetch: int
    position: int | None


class StreamReader:
    """What sync and async streams have in common: ``_steps()``. For one thread or task at a time."""

    position: int
    """The number of the next item, counted from the begin of the stream."""

    def __init__(self, plan: StreamPlan):
        self.position = plan.position or 0
        self.convert: Callable[[Any], Any] | None = None
        """Makes of an item what the caller gets."""
        self.explain: Callable[[BaseException], BaseException] | None = None
        """Makes of an error what the caller gets."""
        self._address = plan.address
        self._plan = plan
        self._deadline = None if plan.timeout_s is None else time.monotonic() + plan.timeout_s
        self._inbox: StreamInbox | None = None
        self._session: SenderSession | None = None
        self._items: Iterator[Any] = iter(())
        self._is_over = False
        self._fruitless = 0
        self._began_at = self.position
        self._is_again = False
        self._waits_since: float | None = None
        """Since when the next item is waited for, over all that was asked for it."""
        self._open(plan.position)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._address} at item {self.position}{' (over)' if self._is_over else ''}>"

    def __del__(self) -> None:
        if not getattr(self, "_is_over", True):
            self._leave()

    def close(self) -> None:
        """Take no more: the generator is closed at the node. For any thread."""
        if not self._is_over:
            self._leave()

    def _open(self, position: int | None) -> None:
        left_s = self._plan.item_timeout_s  # it has to begin by then
        if self._deadline is not None and self._plan.timeout_s is not None:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise CallTimeout(self._address, self._plan.timeout_s)
        terms = StreamTerms(self._plan.prefetch, WINDOW_BYTES, position, self._deadline is None)
        session, request = self._plan.opening(terms, left_s)
        assert isinstance(request, StreamRequest)
        inbox = StreamInbox(request, self._plan.item_timeout_s)
        session.engine.streams.add(inbox)
        self._session, self._inbox, self._began_at = session, inbox, self.position
        session.engine.submit(request)

    def _leave(self) -> None:
        """No more is wanted: the generator is closed at the node."""
        inbox, session, self._is_over = self._inbox, self._session, True
        self._items = iter(())
        if inbox is not None and session is not None and session.is_ours and not inbox.has_ended:
            session.engine.streams.leave(inbox)
            session.give_up(inbox.request.id)

    def _steps(self) -> Generator[CallFuture, None, bool]:
        """Yields futures to wait for; at the end there are items, or, if it returns False, no more will come.

        Raises what the stream has ended with.
        """
        while not self._is_over:
            inbox, session = self._inbox, self._session
            assert inbox is not None and session is not None
            if not session.is_ours:
                raise LifecycleError("the stream began in another process", "read it")
            chunk, goes_on = inbox.take()
            if goes_on and not inbox.has_ended:
                session.engine.streams.goes_on(inbox)
            if chunk is not None:
                self._items, self._waits_since = iter(self._read(chunk)), None
                return True
            if not inbox.has_ended:
                self._waits_since = self._waits_since or time.monotonic()
                future = inbox.expect(self._waits_since)
                future.on_wait = session.await_end
                yield future
            elif inbox.error is None:
                self._is_over = True
            else:
                yield from self._again(inbox, inbox.error, session)
        return False

    def _read(self, chunk: Chunk) -> list[Any]:
        """The items of *chunk*. Raises InvalidReply: its node has not kept to its own words."""
        try:
            items = decode_params(chunk.items)
            if not isinstance(items, list) or len(items) != chunk.count:
                raise EnvelopeError("malformed", f"a chunk does not hold the {chunk.count} items that it names")
        except EnvelopeError as error:
            self._leave()
            raise InvalidReply(self._address, str(error)) from error
        return items

    def _again(self, inbox: StreamInbox, error: BaseException, session: SenderSession) -> Generator[CallFuture]:
        """Ask for the rest of a stream that has ended with *error*; or raise it."""
        if isinstance(error, (RemoteError, CallTimeout)) or not isinstance(error, ServiceBusError):
            raise self._ended(error)
        if not (isinstance(error, CallInterrupted) or self._is_again):
            raise self._ended(error)  # it has not begun
        may_go_on = isinstance(error, CallInterrupted) and (inbox.is_resumable or not inbox.queue)
        self._fruitless = self._fruitless + 1 if self.position == self._began_at else 0
        if not may_go_on or self._fruitless > _FRUITLESS:
            raise self._interrupted(error) from error
        if self._fruitless > 1:
            yield session.engine.streams.pause(_PAUSE_S * 2**self._fruitless)
        self._is_again = True
        self._open(self.position)

    def _interrupted(self, error: ServiceBusError) -> StreamInterrupted:
        self._is_over = True
        is_told = isinstance(error, CallInterrupted)
        why = error.reason if isinstance(error, CallInterrupted) else str(error)
        if isinstance(error, CallRefused) and error.reason == NOT_RESUMABLE:
            why, is_told = "its path died before anything came, and the service cannot begin again", True
        return StreamInterrupted(self._address, self.position, why if is_told else f"asked for again: {why}")

    def _ended(self, error: BaseException) -> BaseException:
        self._is_over = True
        return error if self.explain is None else self.explain(error)


class ItemStream(StreamReader, Generic[T_co]):
    """The items of a stream, one by one: an iterator. Made by ``Sender.stream()``. For one thread at a time.

    ``close()``, the end of its ``with`` block, or dropping it closes the generator at the node. ``position`` is the
    number of the next item, from the begin of the stream.
    """

    def __iter__(self) -> ItemStream[T_co]:
        return self

    def __next__(self) -> T_co:
        """The next item.

        Raises:
            StreamInterrupted: its path or its worker died, and it cannot go on.
            RemoteError: the service raised.
            InvalidReply: an item cannot be read here.
            CallTimeout: there was no item within *item_timeout* seconds, or no end within *timeout*.
            UnknownService, ServiceBusy, CallRefused, NodeUnavailable, NoBrokerAvailable: it did not begin.
        """
        while True:
            for item in self._items:
                self.position += 1
                return item if self.convert is None else self.convert(item)  # type: ignore[no-any-return]
            if not self._wait():
                raise StopIteration

    def __enter__(self) -> ItemStream[T_co]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self) -> bool:
        steps = self._steps()
        try:
            while True:
                next(steps).result()
        except StopIteration as end:
            return bool(end.value)


class StreamSource(SessionOwner):
    """The part of a Sender that asks for streams. For any thread."""

    _stream_form: Callable[..., PendingRequest] = StreamRequest
    """What its requests for streams are made of."""

    if TYPE_CHECKING:

        def _make(self, address: Address, *what: Any, **how: Any) -> tuple[SenderSession, PendingRequest]: ...
        def _parse(self, target: str, timeout: float | None) -> tuple[Address, float]: ...
        def _limit_s(self) -> float | None: ...

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
    ) -> ItemStream[Any]:
        """Ask a service for a stream of items: ``for row in sender.stream("NODE.report.rows", {...})``.

        Args:
            target: ``NODE.category.name`` of a service that is a generator.
            params: anything JSON can say.
            timeout: seconds for all of it; the deadline travels with the request. None for no limit.
            item_timeout: seconds to wait for each item, ``call_timeout`` (300) by default. Without *timeout* the stream
                also has to begin by then.
            prefetch: how many items may be on their way, or wait here to be read; at most about 1 MiB of them.
            position: begin with this item, from 0, as after a StreamInterrupted; only of a service that is
                ``resumable``.
            contract, context: as of ``call()``.

        Returns:
            An iterator. If its path dies, and the service is ``resumable``, it goes on over the next broker; else it
            raises StreamInterrupted.

        Raises:
            AddressError, EnvelopeError: nothing was sent.
            ValueError: *prefetch* or *position* is no such number.
        """
        return self._stream(ItemStream, target, params, timeout, item_timeout, prefetch, position, contract, context)

    def _stream(
        self, form: Callable[..., S], target: str, params: Any, timeout: float | None, item_timeout: float | None,
        prefetch: int, position: int | None, contract: str, context: GivenContext,
    ) -> S:  # fmt: skip
        item_timeout_s = self._config.call_timeout if item_timeout is None else to_seconds("item_timeout", item_timeout)
        given = self._limit_s() if timeout is None else timeout
        address, limit_s = self._parse(target, given)
        timeout_s = None if given is None else limit_s
        _check(prefetch, position)
        pairs = OutgoingContext(outgoing_context(context))  # once: it may be asked for again, outside of a service

        def opening(terms: StreamTerms, left_s: float) -> tuple[SenderSession, PendingRequest]:
            how = {"contract": contract, "context": pairs, "form": partial(self._stream_form, terms)}
            return self._make(address, CALL, params, left_s, **how)

        return form(StreamPlan(str(address), opening, timeout_s, item_timeout_s, prefetch, position))


def _check(prefetch: Any, position: Any) -> None:
    if not isinstance(prefetch, int) or isinstance(prefetch, bool) or not 0 < prefetch <= _MAX_PREFETCH:
        raise ValueError(f"prefetch must be a whole number from 1 to {_MAX_PREFETCH}")
    if position is not None and (not isinstance(position, int) or isinstance(position, bool) or position < 0):
        raise ValueError("position must be a whole number from 0, or None")
