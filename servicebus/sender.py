"""Sender: call services and send messages, over whichever broker works."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from servicebus.client.engine import Engine
from servicebus.client.request import Request
from servicebus.client.seal import seal
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, ServiceBusError
from servicebus.transport.iothread import client_loop
from servicebus.wire.address import Address, check_node_name
from servicebus.wire.envelope import Kind, make_id
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import encode_json

__all__ = ["Sender"]

_PING = ("servicebus", "ping")

_life_lock = threading.Lock()
"""Guards the beginning and the end of every Sender's life in this process. One for all, so that a fork can renew it."""


class Sender:
    """Calls services and sends messages by address ``NODE.category.name``.

    One Sender serves any number of threads, keeps many calls in flight on one connection, connects when first used,
    and may be made before a fork: a child process gets connections and ids of its own. All errors are
    ``servicebus.errors.ServiceBusError`` and say what was tried on which host.

    Args:
        configuration: which brokers, in order of preference, and the shared secret.
        smart_route: accepted for py-servicebus 2.x and without effect: paths are watched, so there is no PING before
            a call that could be switched off.
    """

    def __init__(self, configuration: Configuration, smart_route: bool = True):
        self._config = configuration
        self._keyring = Keyring(configuration.secrets)
        self._life: _Life | None = None
        self._inherited: list[_Life] = []

    def __repr__(self) -> str:
        state = "idle" if self._life is None else repr(self._life.engine)
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
    ) -> tuple[int, Any]:
        """Call a service and wait for its answer.

        Args:
            target: ``NODE.category.name``.
            params: anything JSON can say.
            timeout: seconds, ``call_timeout`` (300) by default; the deadline travels with the call.
            reverse: prefer the last host of the configuration, for this call.
            resend: carry the call over to the next broker when its path dies. Until the journal is in, it may then
                run twice; with False it ends with CallInterrupted instead.

        Returns:
            The event id (this Sender's own count, from 1) and the service's result.

        Raises:
            AddressError, EnvelopeError: nothing was sent.
            RemoteError: the service raised.
            UnknownService, ServiceBusy, CallRefused: the node's answer.
            NodeUnavailable, NoBrokerAvailable: it did not run.
            CallInterrupted: its path died, and whether it ran is unknown.
            CallTimeout: the deadline passed.
        """
        return _wait(self.call_async(target, params, timeout, reverse, resend=resend))  # type: ignore[no-any-return]

    def call_async(
        self,
        target: str,
        params: Any = None,
        timeout: float | None = None,
        reverse: bool = False,
        *,
        resend: bool = True,
    ) -> Future[Any]:
        """The same without waiting: a Future of ``(event id, result)``. Its callbacks run in the I/O thread."""
        limit_s = self._config.call_timeout if timeout is None else timeout
        return self._ask(Address.parse(target), Kind.CALL, params, limit_s, resend=resend, reverse=reverse)

    # -- messages ------------------------------------------------------------------------------------------------

    def send(self, target: str, params: Any = None, timeout: float | None = None) -> int:
        """Send a message; returns its event id once a broker has confirmed it in the node's durable queue.

        Raises:
            AddressError, EnvelopeError, NoBrokerAvailable, NodeUnavailable: nothing was sent.
            SendUnconfirmed: it was published, but no broker confirmed it within *timeout* (``send_timeout``, 30 s).
        """
        return _wait(self.send_async(target, params, timeout))  # type: ignore[no-any-return]

    def send_async(self, target: str, params: Any = None, timeout: float | None = None) -> Future[Any]:
        """The same without waiting: a Future of the event id."""
        limit_s = self._config.send_timeout if timeout is None else timeout
        return self._ask(Address.parse(target), Kind.MESSAGE, params, limit_s)

    # -- pings ---------------------------------------------------------------------------------------------------

    def ping(self, target: str, timeout: float = 3) -> bool:
        """Whether an agent of node *target* answers within *timeout* seconds on the path that a call would take."""
        future = self._ask(self._ping_address(target), Kind.CONTROL, None, timeout)
        return _is_answered(future)

    def ping_all(self, target: str, timeout: float = 3) -> tuple[int, int]:
        """Ping node *target* over every broker: ``(answered, connected)``."""
        address = self._ping_address(target)
        engine = self._current().engine
        futures = [self._ask(address, Kind.CONTROL, None, timeout, pinned=link) for link in engine.links]
        answered = sum(_is_answered(future) for future in futures)
        return answered, sum(link.is_up for link in engine.links)

    def status(self) -> dict[str, Any]:
        """What this Sender knows of its hosts and requests, as plain values; for tools and logs."""
        return self._current().engine.status()

    def close(self) -> None:
        """Close all connections; unfinished calls fail. A later call opens them again. For any thread."""
        with _life_lock:
            life, self._life = self._life, None
        if life is not None and life.pid == os.getpid():
            closed = threading.Event()
            life.engine.close(closed.set)
            closed.wait(2.0)

    # -- inside --------------------------------------------------------------------------------------------------

    def _ask(
        self,
        address: Address,
        kind: Kind,
        params: Any,
        timeout_s: float,
        *,
        resend: bool = True,
        reverse: bool = False,
        pinned: Any = None,
    ) -> Future[Any]:
        life = self._current()
        event_id = 0 if kind is Kind.CONTROL else next(life.count)
        wire_id = make_id(life.incarnation, event_id) if event_id else make_id(os.urandom(8).hex(), 1)
        token, body = seal(self._keyring, wire_id, address, kind, timeout_s, encode_json(params))
        if len(body) > self._config.max_envelope_bytes:
            limit = f"{len(body)} bytes, where max_envelope_bytes allows {self._config.max_envelope_bytes}"
            raise EnvelopeError("oversized", limit)
        request = Request(
            event_id,
            wire_id,
            address,
            kind,
            body,
            token,
            timeout_s=timeout_s,
            resend=resend,
            reverse=reverse,
            pinned=pinned,
        )
        life.engine.submit(request)
        return request.future

    def _current(self) -> _Life:
        life = self._life
        if life is not None and life.pid == os.getpid():
            return life
        return self._begin()

    def _begin(self) -> _Life:
        with _life_lock:
            if self._life is not None and self._life.pid != os.getpid():
                # The parent's connections: forgotten, never closed, since their sockets are shared with the parent.
                self._inherited.append(self._life)
                self._life = None
            if self._life is None:
                self._life = _Life(self._config, self._keyring)
            return self._life

    @staticmethod
    def _ping_address(node: str) -> Address:
        check_node_name(node)
        return Address(node, *_PING)


class _Life:
    """What belongs to one process's use of a Sender, between its first call and ``close()``."""

    def __init__(self, config: Configuration, keyring: Keyring):
        self.pid = os.getpid()
        self.incarnation = os.urandom(8).hex()
        self.count = itertools.count(1)
        self.engine = Engine(client_loop(), config, keyring)


def _wait(future: Future[Any]) -> Any:
    try:
        return future.result()
    finally:
        del future  # an error's traceback refers to this frame, and the frame to the error


def _is_answered(future: Future[Any]) -> bool:
    try:
        future.result()
    except ServiceBusError:
        return False
    return True


def _renew_lock_in_child() -> None:
    global _life_lock
    _life_lock = threading.Lock()  # another thread may have held it at the moment of the fork


os.register_at_fork(after_in_child=_renew_lock_in_child)
