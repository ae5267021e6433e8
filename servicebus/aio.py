"""AsyncSender: the Sender of asyncio programs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from servicebus._async_discovering import AsyncDiscovering
from servicebus._async_streaming import AsyncItemStream, AsyncStreaming
from servicebus._context import GivenContext, with_priority
from servicebus._group_client import client_at
from servicebus._steps import Middleware, Outgoing, outgoing_of, run_steps, steps_of
from servicebus.client.found import Discovered, Gathered, NodeInfo, ServiceInfo
from servicebus.client.future import Receipt
from servicebus.client.link import Link
from servicebus.client.pinging import Pinging, description_question, offers_question, pinging, read_description
from servicebus.client.request import PendingRequest
from servicebus.client.session import SenderSession
from servicebus.client.task_waker import task_waker
from servicebus.configuration import Configuration
from servicebus.sender import Sender

if TYPE_CHECKING:
    from servicebus.contracts import NodeContract

__all__ = ["AsyncItemStream", "AsyncSender", "Discovered", "Gathered", "NodeInfo", "Receipt", "ServiceInfo"]

C = TypeVar("C")


class AsyncSender(AsyncStreaming, AsyncDiscovering):
    """Calls services and sends messages by address ``NODE.category.name``, from asyncio tasks.

    It does what a `Sender` does, by the same engine: failover, deadlines, hedging and the outbox are the same. Its
    methods are coroutines. One serves any number of tasks, event loops and threads, also uvloop's, keeps many calls in
    flight on one connection, connects when first used, and may be made before there is a loop and before a fork.

    A task that is cancelled while it waits cancels its call at the node: a handler sees ``request.cancelled``. So does
    ``asyncio.timeout()``. All other errors are ``servicebus.errors.ServiceBusError`` and say what was tried on which
    host. Times are numbers of seconds; what is none raises DurationError, a ValueError.

    Args:
        configuration: which brokers, in order of preference, and the shared secret; or the path of a YAML file.
        outbox: the path of a file in which messages are kept while no broker takes them; without one ``send()`` raises.
            It is made if it is not there. One Sender in one process may use it at a time.
        middleware: around each call and message; the first one is the outermost. See ``servicebus.middleware``.
    """

    def __init__(
        self, configuration: Configuration | str | os.PathLike[str], *,
        outbox: str | os.PathLike[str] | None = None, middleware: Sequence[Middleware] = (),
    ):  # fmt: skip
        self._sender: Sender = Sender(configuration, outbox=outbox)
        self._steps = steps_of(middleware, "call_async", "call") if middleware else ()

    @classmethod
    def of(cls, sender: Sender) -> AsyncSender:
        """The same connections, ids and outbox as *sender*, for a program that has threads and tasks.

        Closing either of the two closes both.
        """
        self = cls.__new__(cls)
        self._sender = sender
        self._steps = getattr(sender, "_async_steps", ())  # of a MiddlewareSender
        return self

    def _plain(self) -> AsyncSender:
        """The same without middleware."""
        plain = AsyncSender.of(self._sender)
        plain._steps = ()
        return plain

    def __repr__(self) -> str:
        return f"<Async{repr(self._sender)[1:]}"

    async def __aenter__(self) -> AsyncSender:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- calls ---------------------------------------------------------------------------------------------------

    async def call(
        self, target: str, params: Any = None, timeout: float | None = None, reverse: bool = False, *,
        resend: bool = True, hedge_after: float | None = None, contract: str = "", context: GivenContext = None,
        priority: int | None = None,
    ) -> tuple[int, Any]:  # fmt: skip
        """Call a service and wait for its answer. Cancelling the task cancels the call at the node.

        Args:
            target: ``NODE.category.name``.
            params: anything JSON can say.
            timeout: seconds, ``call_timeout`` (300) by default; the deadline travels with the call.
            reverse: prefer the last host of the configuration, for this call.
            resend: carry the call over to the next broker when its path dies; the node's journal sees to it that it
                runs once. With False it ends with CallInterrupted instead.
            hedge_after: without an answer after so many seconds, ask over another broker too; the first answer wins.
                For services that are idempotent.
            contract: the hash of the contract of the service that this program was built against, if it knows one.
            context: text pairs that travel beside the params, and on to what the service asks; at most 4 KiB. Within a
                service they are added to those of its request, and None takes one of those out. See docs/context.
            priority: from 0 to 9; of those that wait at a node with ``priorities`` the highest comes first. Without it
                that of the request which is being served holds. See docs/priorities.

        Returns:
            The event id (this Sender's own count, from 1) and the service's result.

        Raises:
            AddressError, EnvelopeError: nothing was sent.
            RemoteError: the service raised.
            UnknownService, ServiceBusy, CallRefused: the node's answer.
            NodeUnavailable, NoBrokerAvailable: it did not run.
            InvalidReply: it ran, and its result cannot be read here.
            CallInterrupted: its path died, and whether it ran is unknown.
            CallTimeout: the deadline passed.
        """
        context = with_priority(context, priority)
        if self._steps:
            how: dict[str, Any] = {"timeout": timeout, "reverse": reverse, "resend": resend, "hedge_after": hedge_after}
            how["contract"] = contract
            return await self._stepped(self._plain().call, outgoing_of("call", target, params, context), how)  # type: ignore[no-any-return]
        if self._has_outbox:
            await self._open()
        session, request = self._sender._make_call(
            target, params, timeout, reverse, resend, hedge_after, contract, context
        )
        return await _ask(session, request)  # type: ignore[no-any-return]

    # -- messages ------------------------------------------------------------------------------------------------

    async def send(
        self,
        target: str,
        params: Any = None,
        timeout: float | None = None,
        *,
        delay: float | None = None,
        expires: float | None = None,
        contract: str = "",
        context: GivenContext = None,
        priority: int | None = None,
    ) -> Receipt:
        """Send a message; returns once a broker has confirmed it in the node's durable queue, or the outbox has it.

        If the task is cancelled before, the message is not sent, or whether it is stored is unknown.

        Args:
            timeout: seconds until it must be confirmed, ``send_timeout`` (30) by default.
            delay: seconds from now before which it is not handled; less than ``token_max_age``. None for at once.
            expires: seconds from now after which it is not worth handing to a broker any more; ``token_max_age`` by
                default, and at most.
            contract, context, priority: as of ``call()``.

        Returns:
            Its event id, an int with the place of the message: ``confirmed_by`` and ``in_outbox``.

        Raises:
            AddressError, EnvelopeError: nothing was sent.
            NoBrokerAvailable, NodeUnavailable: without an outbox; it is not stored.
            OutboxFull, OutboxUnavailable: with an outbox; it is not stored.
            SendRefused: every broker that answers refused it, its queue is full for example; it is not stored.
            SendUnconfirmed: it was published, but no broker confirmed it in time; whether it is stored is unknown.
        """
        context = with_priority(context, priority)
        if self._steps:
            how: dict[str, Any] = {"timeout": timeout, "delay": delay, "expires": expires, "contract": contract}
            return await self._stepped(self._plain().send, outgoing_of("message", target, params, context), how)  # type: ignore[no-any-return]
        if self._has_outbox:
            await self._open(needs_outbox=True)
        session, request = self._sender._make_message(target, params, timeout, delay, expires, contract, context)
        return await _ask(session, request)  # type: ignore[no-any-return]

    async def publish(
        self, event: str, params: Any = None, timeout: float | None = None, *, delay: float | None = None,
        expires: float | None = None, contract: str = "", context: GivenContext = None, priority: int | None = None,
    ) -> Receipt:  # fmt: skip
        """Publish an event. Arguments, result and errors are those of ``Sender.publish()``."""
        context = with_priority(context, priority)
        if self._steps:
            how: dict[str, Any] = {"timeout": timeout, "delay": delay, "expires": expires, "contract": contract}
            return await self._stepped(self._plain().publish, outgoing_of("event", event, params, context), how)  # type: ignore[no-any-return]
        if self._has_outbox:
            await self._open(needs_outbox=True)
        session, request = self._sender._make_event(event, params, timeout, delay, expires, contract, context)
        return self._sender._collected(request) or await _ask(session, request)

    def client(
        self, node: str, group: Callable[[AsyncSender, str, float | None, GivenContext], C],
        timeout: float | None = None, *, context: GivenContext = None,
    ) -> C:  # fmt: skip
        """The typed functions of *group*, called at *node*; each is awaited.

        Args:
            group: a ``servicebus.typed.Services``, or a ``TypedClient`` class, whose functions type checkers know.
            timeout, context: of each of its calls and messages, as of ``call()`` and ``send()``.
        """
        found: C = client_at(self, node, group, timeout, context)
        return found

    # -- pings ---------------------------------------------------------------------------------------------------

    async def ping(self, target: str, timeout: float = 3) -> bool:
        """Whether an agent of node *target* answers within *timeout* seconds on the path that a call would take."""
        return await self.ping_error(target, timeout) is None

    async def ping_error(self, target: str, timeout: float = 3) -> BaseException | None:
        """As ``ping()``, with the reason: None if an agent answers, else the error that a call would end with."""
        (error,) = await self._pinged(target, timeout, [None])
        return error

    async def ping_all(self, target: str, timeout: float = 3) -> tuple[int, int]:
        """Ping node *target* over every broker: ``(answered, connected)``."""
        if self._has_outbox:
            await self._open()
        links = self._sender._current().engine.links
        answered = (await self._pinged(target, timeout, links)).count(None)
        return answered, sum(link.is_up for link in links)

    async def offers(self, target: str, *, is_call: bool = True, timeout: float = 3) -> bool:
        """Ask the agent of a node whether it has the service *target*, ``NODE.category.name``. Nothing is run.

        Args:
            is_call: an RPC service is meant; else a message service.
            timeout: seconds.

        Raises:
            ServiceBusError: as ``call()``; no agent of the node answered.
        """
        if self._has_outbox:
            await self._open()
        question = offers_question(target, is_call)
        return bool((await _ask(*self._sender._make_question(*question, timeout)))[1])

    async def describe(self, target: str, timeout: float = 10) -> NodeContract:
        """Ask the agent of a node what it offers: its services, their schemas and docstrings. Nothing is run.

        Args:
            target: ``NODE``, or ``NODE.category.name`` for that service alone.
            timeout: seconds.

        Raises:
            ServiceBusError: as ``call()``; no agent of the node answered.
            UnknownService: the node has no such service.
            ContractError: what it answers is no description that this version can read.
        """
        if self._has_outbox:
            await self._open()
        question = description_question(target)
        return read_description(target, (await _ask(*self._sender._make_question(*question, timeout)))[1])

    async def status(self) -> dict[str, Any]:
        """What this Sender knows of its hosts, its requests and its outbox, as plain values; for tools and logs."""
        if self._has_outbox:
            await self._open()
        return self._sender.status()

    async def close(self) -> None:
        """Close all connections; waits at most 2 s for that, and 10 s for the outbox. A later call opens them again.

        Unfinished calls, also those of other loops and threads, fail, and are cancelled at their nodes. Messages that
        no broker has confirmed go into the outbox, or fail without one.
        """
        session = self._sender._end()
        if session is not None:
            loop = asyncio.get_running_loop()
            closed = asyncio.Event()
            session.engine.close(_waking(loop, closed.set))
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(closed.wait(), session.close_limit_s)

    # -- inside --------------------------------------------------------------------------------------------------

    def _stepped(self, ask: Callable[..., Any], outgoing: Outgoing, how: dict[str, Any]) -> Any:
        """Have the middleware around *ask*; something to await."""
        target, params = outgoing.target, outgoing.params
        return run_steps(self._steps, outgoing, lambda: ask(target, params, context=outgoing.context, **how))

    @property
    def _has_outbox(self) -> bool:
        return self._sender._outbox_path is not None

    async def _open(self, *, needs_outbox: bool = False) -> None:
        """Begin a session in a thread, where that is still to be done: the outbox is read from the disk.

        Raises OutboxUnavailable, if it is needed.
        """
        session = self._sender._session
        if session is None or not session.is_ours:
            session = await asyncio.to_thread(self._sender._current)
        if needs_outbox and session.lacks_outbox:
            await asyncio.to_thread(session.need_outbox)

    async def _pinged(self, target: str, timeout_s: float, pins: Sequence[Link | None]) -> list[BaseException | None]:
        if self._has_outbox:
            await self._open()
        return await _run(pinging(*self._sender._pings(target, timeout_s, pins)))


async def _ask(session: SenderSession, request: PendingRequest) -> Any:
    """Submit *request* and wait for its end."""
    loop = asyncio.get_running_loop()
    waker = task_waker(loop)
    ended = waker.expect(request, session, loop)
    session.engine.submit(request)
    try:
        await ended
    except BaseException:  # the task was cancelled, or is collected with its loop
        waker.forget(request)
        if request.abandon():
            session.give_up(request.id)
        raise
    return request.wait()  # it does not wait: the request has ended


async def _run(steps: Pinging) -> list[BaseException | None]:
    """Wait as *steps* say."""
    heard, known = asyncio.Event(), set[Future[Any]]()
    wake = _waking(asyncio.get_running_loop(), heard.set)
    try:
        futures, pause_s = next(steps)
        while True:
            for future in set(futures) - known:
                known.add(future)
                future.add_done_callback(lambda _: wake())
            heard.clear()
            with suppress(asyncio.TimeoutError):  # one that has ended already wakes us, too
                await asyncio.wait_for(heard.wait(), pause_s)
            futures, pause_s = steps.send([future for future in futures if future.done()])
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def _waking(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> Callable[[], None]:
    """A function that lets *loop* call *callback*, for any thread; nothing if the loop is closed."""

    def wake() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(callback)

    return wake
