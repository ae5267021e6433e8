"""Middleware: code around each service and around each call of a Sender.

``ServiceBus(config, middleware=[...])`` puts it around services, and around the calls that they make;
``MiddlewareSender`` and ``AsyncSender(..., middleware=[...])`` put it around calls and messages. The first one is the
outermost. Without any, nothing is asked and nothing is paid.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from servicebus._context import GivenContext
from servicebus._steps import Middleware, Outgoing, outgoing_of, run_steps, steps_of
from servicebus.client.future import Receipt
from servicebus.client.streaming import ItemStream
from servicebus.configuration import Configuration
from servicebus.sender import Sender

__all__ = ["Middleware", "MiddlewareSender", "Outgoing"]

_What = Literal["call", "message", "event", "stream"]


class MiddlewareSender(Sender):
    """A Sender with middleware around each call and message; pings and the like go past it.

    Args:
        middleware: the first one is the outermost.

    Raises:
        ConfigurationError: one of them is none, or has ``call()`` without ``call_async()`` or the other way round.
    """

    def __init__(
        self,
        configuration: Configuration | str | os.PathLike[str],
        smart_route: bool = True,
        *,
        outbox: str | os.PathLike[str] | None = None,
        middleware: Sequence[Middleware] = (),
    ):
        super().__init__(configuration, smart_route, outbox=outbox)
        self._steps = steps_of(middleware, "call", "call_async")
        self._async_steps = steps_of(middleware, "call_async", "call")

    def call(
        self, target: str, params: Any = None, *arguments: Any, context: GivenContext = None, **how: Any
    ) -> tuple[int, Any]:
        """As ``Sender.call()``."""
        ask = partial(super().call, target, params, *arguments, **how)
        return self._asked("call", target, params, context, ask)  # type: ignore[no-any-return]

    def call_async(
        self, target: str, params: Any = None, *arguments: Any, context: GivenContext = None, **how: Any
    ) -> Future[Any]:
        """As ``Sender.call_async()``."""
        ask = partial(super().call_async, target, params, *arguments, **how)
        return self._future("call", target, params, context, ask)

    def send(
        self, target: str, params: Any = None, *arguments: Any, context: GivenContext = None, **how: Any
    ) -> Receipt:
        """As ``Sender.send()``."""
        ask = partial(super().send, target, params, *arguments, **how)
        return self._asked("message", target, params, context, ask)  # type: ignore[no-any-return]

    def send_async(
        self, target: str, params: Any = None, *arguments: Any, context: GivenContext = None, **how: Any
    ) -> Future[Any]:
        """As ``Sender.send_async()``."""
        ask = partial(super().send_async, target, params, *arguments, **how)
        return self._future("message", target, params, context, ask)

    def publish(
        self, event: str, params: Any = None, *arguments: Any, context: GivenContext = None, **how: Any
    ) -> Receipt:
        """As ``Sender.publish()``."""
        ask = partial(super().publish, event, params, *arguments, **how)
        return self._asked("event", event, params, context, ask)  # type: ignore[no-any-return]

    def publish_async(
        self, event: str, params: Any = None, *arguments: Any, context: GivenContext = None, **how: Any
    ) -> Future[Any]:
        """As ``Sender.publish_async()``."""
        ask = partial(super().publish_async, event, params, *arguments, **how)
        return self._future("event", event, params, context, ask)

    def stream(
        self, target: str, params: Any = None, *arguments: Any, context: GivenContext = None, **how: Any
    ) -> ItemStream[Any]:
        """As ``Sender.stream()``. The middleware is around the request, not around the items."""
        ask = partial(super().stream, target, params, *arguments, **how)
        return self._asked("stream", target, params, context, ask)  # type: ignore[no-any-return]

    def _asked(self, kind: _What, target: str, params: Any, context: GivenContext, ask: Callable[..., Any]) -> Any:
        if not self._steps:
            return ask(context=context)
        outgoing = outgoing_of(kind, target, params, context)
        return run_steps(self._steps, outgoing, lambda: ask(context=outgoing.context))

    def _future(
        self, kind: _What, target: str, params: Any, context: GivenContext, submit: Callable[..., Future[Any]]
    ) -> Future[Any]:
        if not self._async_steps:
            return submit(context=context)
        outgoing, future = outgoing_of(kind, target, params, context), _OuterFuture()

        def proceed() -> _Awaited:
            future.check()
            return _Awaited(submit(context=outgoing.context), future)

        future.step(run_steps(self._async_steps, outgoing, proceed))
        return future


class _Awaited:
    """What a step awaits. Its future goes out to who drives the steps, and is done when they go on."""

    def __init__(self, future: Future[Any], outer: _OuterFuture):
        self._future, self._outer = future, outer

    def __await__(self) -> Generator[Future[Any], None, Any]:
        if not self._future.done():
            yield self._future
            self._outer.check()
        return self._future.result()


class _OuterFuture(Future[Any]):
    """Ends when the outermost step does. Cancelling it cancels what the steps wait for."""

    _inner: Future[Any] | None = None

    def cancel(self) -> bool:
        is_cancelled = super().cancel()
        inner = self._inner
        if inner is not None:
            inner.cancel()
        return is_cancelled

    def check(self) -> None:
        """Raise asyncio's CancelledError if it was cancelled, as in a task.

        That of concurrent.futures is an Exception: a step that tries again would take it for a failure of the call.
        """
        if self.cancelled():
            from asyncio import CancelledError  # its import takes longer than all else here

            raise CancelledError

    def step(self, steps: Coroutine[Any, Any, Any]) -> None:
        """Run *steps* to the next future that they wait for, or to their end."""
        with suppress(InvalidStateError):  # it was cancelled
            try:
                waits_for = steps.send(None)
                while not isinstance(waits_for, Future):  # steps may handle the error, and wait for something else
                    waits_for = steps.throw(TypeError("call_async() around a Sender awaits nothing but proceed()"))
            except StopIteration as end:
                self.set_result(end.value)
            except BaseException as error:  # the user's: it is the caller's to know
                self.set_exception(error)
            else:
                self._inner = waits_for
                if self.cancelled():  # meanwhile, by another thread
                    waits_for.cancel()
                waits_for.add_done_callback(lambda _: self.step(steps))
