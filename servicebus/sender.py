"""Sender: call services and send messages, over whichever broker works."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from servicebus._context import GivenContext, with_priority
from servicebus._discovering import Discovering
from servicebus._durations import to_seconds
from servicebus._group_client import client_at
from servicebus.client.found import Discovered, Gathered, NodeInfo, ServiceInfo
from servicebus.client.future import Receipt
from servicebus.client.link import Link
from servicebus.client.pinging import ask_each, ping_address
from servicebus.client.plain_sending import PlainSending
from servicebus.client.publishing import EventPublisher
from servicebus.client.request import MessageOptions, PendingRequest
from servicebus.client.session import SenderSession, submit
from servicebus.client.streaming import ItemStream, StreamSource
from servicebus.configuration import Configuration
from servicebus.configuration.settings import as_configuration
from servicebus.errors import ConfigurationError
from servicebus.protocol.interface import oversized
from servicebus.services import _serving, context_text
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.iothread import client_loop
from servicebus.wire.address import Address, parsed, plain
from servicebus.wire.envelope import CALL, CONTROL, MESSAGE, Kind, make_id
from servicebus.wire.jsontext import encode_params
from servicebus.wire.signing import Keyring

__all__ = ["Discovered", "Gathered", "ItemStream", "NodeInfo", "Receipt", "Sender", "ServiceInfo"]

C = TypeVar("C")


class Sender(EventPublisher, PlainSending, StreamSource, Discovering):
    """Calls services and sends messages by address ``NODE.category.name``, and publishes events by name.

    One Sender serves any number of threads, keeps many calls in flight on one connection, connects when first used,
    and may be made before a fork: a child process gets connections and ids of its own. One that is dropped without
    ``close()`` closes its connections by itself, as soon as what was asked of it has ended. All errors are
    ``servicebus.errors.ServiceBusError`` and say what was tried on which host. Times are numbers of seconds; what is
    none (NaN, an infinity, a negative number, a text, a ``timedelta``) raises DurationError, a ValueError.

    Args:
        configuration: which brokers, in order of preference, and the shared secret; or the path of a YAML file.
        smart_route: accepted for py-servicebus 2.x and without effect: paths are watched, so there is no PING before
            a call that could be switched off.
        outbox: the path of a file in which messages are kept while no broker takes them; without one ``send()`` raises.
            It is made if it is not there. One Sender in one process may use it at a time.
    """

    def __init__(
        self,
        configuration: Configuration | str | os.PathLike[str],
        smart_route: bool = True,
        *,
        outbox: str | os.PathLike[str] | None = None,
    ):
        configuration = as_configuration(configuration)
        super().__init__(configuration, Keyring(configuration.sender_secrets), outbox, AmqpConnection, client_loop)
        if configuration.traces:
            form, rate = _traced_form(configuration), configuration.traces
            self._form, self._stream_form = form(self._form, rate), form(self._stream_form, rate)

    def __repr__(self) -> str:
        state = "idle" if self._session is None else repr(self._session.engine)
        return f"<Sender {', '.join(host.name for host in self._config.hosts)} {state}>"

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- calls ---------------------------------------------------------------------------------------------------

    def call(
        self,
        target: str,
        params: Any = None,
        timeout: float | None = None,
        reverse: bool = False,
        *,
        resend: bool = True,
        hedge_after: float | None = None,
        contract: str = "",
        context: GivenContext = None,
        priority: int | None = None,
    ) -> tuple[int, Any]:
        """Call a service and wait for its answer.

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
        context = context if priority is None else with_priority(context, priority)
        address, limit_s = self._parse(target, timeout)
        more = resend, reverse, hedge_after, contract, context
        session, request = self._make(address, CALL, params, limit_s, *more)
        return session.engine.ask(request)  # type: ignore[no-any-return]

    def call_async(
        self,
        target: str,
        params: Any = None,
        timeout: float | None = None,
        reverse: bool = False,
        *,
        resend: bool = True,
        hedge_after: float | None = None,
        contract: str = "",
        context: GivenContext = None,
        priority: int | None = None,
    ) -> Future[Any]:
        """The same without waiting: a Future of ``(event id, result)``.

        Its callbacks run in the thread that reads the answers: the I/O thread, or a caller's that waits for its own.
        They must not wait for another answer (LifecycleError), nor block: meanwhile all Senders of the process stand
        still. What they raise is logged, and ends nothing. A thread that waits in ``result()`` without a timeout
        may read the answers itself. Cancelling it cancels the call at the node, too.
        """
        context = with_priority(context, priority)
        return submit(*self._make_call(target, params, timeout, reverse, resend, hedge_after, contract, context))

    # -- messages ------------------------------------------------------------------------------------------------

    def send(
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
        session, request = self._make_message(target, params, timeout, delay, expires, contract, context)
        return session.engine.ask(request)  # type: ignore[no-any-return]

    def send_async(
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
    ) -> Future[Any]:
        """The same without waiting: a Future of the Receipt."""
        context = with_priority(context, priority)
        return submit(*self._make_message(target, params, timeout, delay, expires, contract, context))

    def client(
        self, node: str, group: Callable[[Sender, str, float | None, GivenContext], C],
        timeout: float | None = None, *, context: GivenContext = None,
    ) -> C:  # fmt: skip
        """The typed functions of *group*, called at *node* as what they are.

        Args:
            group: a ``servicebus.typed.Services``, or a ``TypedClient`` class, whose functions type checkers know.
            timeout, context: of each of its calls and messages, as of ``call()`` and ``send()``.
        """
        found: C = client_at(self, node, group, timeout, context)
        return found

    # -- pings ---------------------------------------------------------------------------------------------------

    def ping(self, target: str, timeout: float = 3) -> bool:
        """Whether an agent of node *target* answers within *timeout* seconds on the path that a call would take."""
        return self.ping_error(target, timeout) is None

    def ping_error(self, target: str, timeout: float = 3) -> BaseException | None:
        """As ``ping()``, with the reason: None if an agent answers, else the error that a call would end with."""
        (error,) = ask_each(*self._pings(target, timeout, [None]))
        return error

    def ping_all(self, target: str, timeout: float = 3) -> tuple[int, int]:
        """Ping node *target* over every broker: ``(answered, connected)``."""
        errors = self._ping_each(target, timeout)
        return list(errors.values()).count(None), sum(link.is_up for link in self._current().engine.links)

    def status(self) -> dict[str, Any]:
        """What this Sender knows of its hosts, its requests and its outbox, as plain values; for tools and logs."""
        return self._current().status()

    def close(self) -> None:
        """Close all connections. A later call opens them again. For any thread.

        Unfinished calls fail, and are cancelled at their nodes. Messages that no broker has confirmed go into the
        outbox, or fail without one.
        """
        session = self._end()
        if session is not None:
            session.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _parse(self, target: str, timeout: float | None) -> tuple[Address, float]:
        """The address, and how long a call that is made now may take."""
        address = parsed(target if type(target) is str else plain(target))  # without Address.parse(): for every call
        return address, self._config.call_timeout if timeout is None else to_seconds("timeout", timeout)

    def _limit_s(self) -> float | None:
        """How long what is asked now may take, whatever its timeout is; None for no limit."""
        return None

    def _make_call(
        self, target: str, params: Any, timeout: float | None, reverse: bool, resend: bool,
        hedge_after: float | None, contract: str, context: GivenContext,
    ) -> tuple[SenderSession, PendingRequest]:  # fmt: skip
        address, limit_s = self._parse(target, timeout)
        return self._make(address, CALL, params, limit_s, resend, reverse, hedge_after, contract, context)

    def _make_question(self, address: Address, params: Any, timeout: float) -> tuple[SenderSession, PendingRequest]:
        return self._make(address, CONTROL, params, to_seconds("timeout", timeout))

    def _make_message(
        self, target: str, params: Any, timeout: float | None, delay: float | None, expires: float | None,
        contract: str, context: GivenContext,
    ) -> tuple[SenderSession, PendingRequest]:  # fmt: skip
        return self._make_stored(Address.parse(target), params, timeout, delay, expires, contract, context)

    def _make(
        self,
        address: Address,
        kind: Kind,
        params: Any,
        timeout_s: float,
        resend: bool = True,
        reverse: bool = False,
        hedge_after: float | None = None,
        contract: str = "",
        context: GivenContext = None,
        *, pinned: Link | None = None, options: MessageOptions | None = None, wire_id: str = "",
        form: Callable[..., PendingRequest] | None = None,
    ) -> tuple[SenderSession, PendingRequest]:  # fmt: skip
        """A numbered request and its session; signed and encoded, if its version is known. Nothing is sent yet."""
        session = self._current()
        event_id = 0 if kind is CONTROL else next(session.count)
        wire_id = wire_id or (f"{session.incarnation}-{event_id}" if event_id else make_id(os.urandom(8).hex(), 1))
        request = (form or self._form)(
            event_id,
            wire_id,
            address,
            kind,
            encode_params(params),
            timeout_s=timeout_s,
            resend=resend,
            reverse=reverse,
            pinned=pinned,
            hedge_after_s=None if hedge_after is None else to_seconds("hedge_after", hedge_after),
            options=options,
            contract=contract,
            context="" if kind is CONTROL or (context is None and _serving.get() is None) else context_text(context),
        )
        if session.engine.encodes_at_once:
            session.engine.newest.sign_and_encode(request)
            if kind is MESSAGE:
                request.forget_params()
        elif request.size > self._config.max_envelope_bytes:
            raise oversized(request.size, self._config.max_envelope_bytes)
        return session, request

    def _ping_each(self, node: str, timeout: float) -> dict[str, BaseException | None]:
        """What came of a ping over each broker: None, or why it was not answered there."""
        links = self._current().engine.links
        errors = ask_each(*self._pings(node, timeout, links))
        return {link.host.name: error for link, error in zip(links, errors, strict=True)}

    def _pings(
        self, node: str, timeout: float, pins: Sequence[Link | None]
    ) -> tuple[list[Callable[[float], Future[Any]]], float]:
        """What ``pinging()`` is to ask, one for each pin, and for how long; the pin None is the path of a call."""
        timeout_s, address = to_seconds("timeout", timeout), ping_address(node)

        def asking(pin: Link | None) -> Callable[[float], Future[Any]]:
            return lambda left_s: submit(*self._make(address, CONTROL, None, left_s, pinned=pin))

        return [asking(pin) for pin in pins], timeout_s


def _traced_form(configuration: Configuration) -> Callable[[Any, float], Callable[..., PendingRequest]]:
    """What makes requests have spans. Raises ConfigurationError: the extra is missing."""
    try:
        from servicebus.client.tracing import TracedForm
    except ImportError as error:
        raise ConfigurationError(str(error), path=configuration.path, key="traces") from None
    return TracedForm
