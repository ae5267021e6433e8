"""PlainSending: the part of a Sender that publishes, and asks, in the form of other programs."""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from servicebus._durations import to_seconds
from servicebus._plain import PERSISTENT, MessageProperties, PlainMessage, PlainTarget
from servicebus.client.future import MARGIN_S, CallFuture
from servicebus.client.plain_link import PlainJob
from servicebus.client.session import SessionOwner
from servicebus.errors import CallTimeout, ConfigurationError
from servicebus.services import current_request
from servicebus.wire.jsontext import encode_json

__all__ = ["AsyncPlainPublisher", "PlainPublisher", "PlainSending"]

_JSON, _TEXT, _BYTES = "application/json", "text/plain", "application/octet-stream"


class PlainSending(SessionOwner):
    """Base of Sender. For any thread."""

    def publisher(self, name: str) -> PlainPublisher:
        """What publishes by the entry *name* of ``publishers:``, or of ``ServiceBus.add_publisher()``.

        Raises ConfigurationError: there is none.
        """
        target = self._publishers().get(name)
        if target is None:
            known = ", ".join(sorted(self._publishers())) or "none"
            raise ConfigurationError(f"there is no publisher {name!r}; known: {known}", key="publishers")
        return PlainPublisher(self, target)

    def publisher_to(
        self, exchange: str, routing_key: str = "", *, host: str = "", mandatory: bool = True, persistent: bool = True
    ) -> PlainPublisher:
        """What publishes to *exchange* in the form of other programs, without an envelope.

        Args:
            host: the name of one of ``hosts`` or ``connections``; "" for the first of ``hosts`` that takes it.
            mandatory: that no queue takes it is an error.
            persistent: queues keep it on disk.
        """
        return PlainPublisher(self, PlainTarget(exchange, routing_key, host, mandatory, persistent))

    def request(
        self,
        exchange: str,
        routing_key: str,
        body: Any = b"",
        *,
        timeout: float | None = None,
        host: str = "",
        reply_exchange: str = "",
        properties: MessageProperties | None = None,
        headers: Mapping[str, Any] | None = None,
        resend: bool = False,
    ) -> PlainMessage:
        """Call a service of another program: publish *body* with ``reply_to`` and ``correlation_id``, await the answer.

        Args:
            exchange: where the service listens; "" for the queue *routing_key*.
            body: ``bytes`` and ``str`` as they are, everything else as JSON.
            timeout: seconds, ``call_timeout`` by default. The broker drops the request after that.
            host: as of ``publisher_to()``.
            reply_exchange: the exchange that the service answers to, if that is not the default one.
            properties, headers: further ones of the request.
            resend: ask another broker if the connection is lost meanwhile, for services that may run it twice.

        Returns:
            The answer: ``.json()``, ``.text``, ``.body`` and its properties.

        Raises:
            SendRefused: no broker has such an exchange, or a queue that is bound by that key.
            NoBrokerAvailable: none was reached.
            CallInterrupted: the connection was lost, and whether the service ran is unknown.
            CallTimeout: no answer in time.
            RemoteError: a service of this bus, which was called so, raised.
        """
        asked = self._ask(exchange, routing_key, body, timeout, host, reply_exchange, properties, headers, resend)
        return asked.result()  # type: ignore[no-any-return]

    def request_async(
        self,
        exchange: str,
        routing_key: str,
        body: Any = b"",
        *,
        timeout: float | None = None,
        host: str = "",
        reply_exchange: str = "",
        properties: MessageProperties | None = None,
        headers: Mapping[str, Any] | None = None,
        resend: bool = False,
    ) -> Future[Any]:
        """The same without waiting: a Future of the PlainMessage."""
        return self._ask(exchange, routing_key, body, timeout, host, reply_exchange, properties, headers, resend)

    def _ask(
        self, exchange: str, routing_key: str, body: Any, timeout: float | None, host: str, reply_exchange: str,
        properties: MessageProperties | None, headers: Mapping[str, Any] | None, resend: bool,
    ) -> CallFuture:  # fmt: skip
        limit_s = self._config.call_timeout if timeout is None else to_seconds("timeout", timeout)
        serving = current_request()
        if serving is not None and serving.remaining is not None:
            limit_s = min(limit_s, serving.remaining)
        raw, about = body_and_properties(body, properties, headers)
        target = PlainTarget(exchange, routing_key, host)
        return self._submit(target, routing_key, raw, about, limit_s, True, resend, reply_exchange)

    def _publishers(self) -> Mapping[str, PlainTarget]:
        return self._config.publishers

    def _submit(
        self, target: PlainTarget, routing_key: str, body: bytes, properties: MessageProperties, limit_s: float,
        is_request: bool = False, resend: bool = False, reply_exchange: str = "",
    ) -> CallFuture:  # fmt: skip
        session, future = self._current(), CallFuture()
        deadline = time.monotonic() + limit_s
        job = PlainJob(
            target.exchange, routing_key, body, properties, deadline, future, self._hosts_of(target), target.mandatory,
            is_request=is_request, resend=resend, reply_exchange=reply_exchange,
        )  # fmt: skip
        future.wire_id = properties.message_id or ""
        future.on_wait = session.await_end

        def is_overdue() -> bool:
            if not session.is_ours or time.monotonic() >= deadline + MARGIN_S:
                if not future.done():
                    future.set_exception(CallTimeout(job.target, time.monotonic() - job.started_at, job.tried))
                return True
            return False

        future.is_overdue = is_overdue
        session.plain.submit(job)
        return future

    def _hosts_of(self, target: PlainTarget) -> list[str]:
        if not target.host:
            return [host.name for host in self._config.hosts]
        known = [host.name for host in (*self._config.hosts, *self._config.connections)]
        if target.host not in known:
            what = f"{target.host!r} is none of hosts and connections ({', '.join(known)})"
            raise ConfigurationError(what, key="connections")
        return [target.host]


class PlainPublisher:
    """Publishes to one exchange of other programs, confirmed. For any thread."""

    def __init__(self, sender: PlainSending, target: PlainTarget):
        self._sender, self._target = sender, target

    def __repr__(self) -> str:
        return f"<PlainPublisher to {self._target.exchange or '(default)'} {self._target.routing_key}>"

    def publish(
        self,
        body: Any,
        routing_key: str | None = None,
        *,
        timeout: float | None = None,
        properties: MessageProperties | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> str:
        """Publish *body*; returns the name of the broker that has it, in every queue that is bound.

        Without a ``message_id`` it gets one, by which who consumes it can drop doubles.

        Args:
            body: ``bytes`` and ``str`` as they are, a pydantic model or everything else as JSON.
            routing_key: in place of the publisher's own.
            timeout: seconds, ``send_timeout`` by default.

        Raises:
            SendRefused: there is no such exchange, no queue is bound (if it is mandatory), or a broker refused it.
            NoBrokerAvailable: none was reached.
            SendUnconfirmed: it was published and not confirmed in time; whether it is stored is unknown.
        """
        return self.publish_async(body, routing_key, timeout=timeout, properties=properties, headers=headers).result()  # type: ignore[no-any-return]

    def publish_async(
        self,
        body: Any,
        routing_key: str | None = None,
        *,
        timeout: float | None = None,
        properties: MessageProperties | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Future[Any]:
        """The same without waiting: a Future of the broker's name."""
        target, sender = self._target, self._sender
        limit_s = sender._config.send_timeout if timeout is None else to_seconds("timeout", timeout)
        raw, about = body_and_properties(body, properties, headers)
        if about.delivery_mode is None and target.persistent:
            about = replace(about, delivery_mode=PERSISTENT)
        return sender._submit(target, target.routing_key if routing_key is None else routing_key, raw, about, limit_s)


class AsyncPlainPublisher:
    """The same for coroutines."""

    def __init__(self, publisher: PlainPublisher):
        self._publisher = publisher

    def __repr__(self) -> str:
        return f"<Async{repr(self._publisher)[1:]}"

    def publish(
        self,
        body: Any,
        routing_key: str | None = None,
        *,
        timeout: float | None = None,
        properties: MessageProperties | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Coroutine[Any, Any, str]:
        """As ``PlainPublisher.publish()``."""
        how = {"timeout": timeout, "properties": properties, "headers": headers}
        published = self._publisher.publish_async(body, routing_key, **how)  # type: ignore[arg-type]
        return _confirmed(published)


async def _confirmed(published: Future[Any]) -> str:
    from asyncio import wrap_future  # here: programs with threads alone do not load it

    found: str = await wrap_future(published)
    return found


def body_and_properties(
    body: Any, properties: MessageProperties | None, headers: Mapping[str, Any] | None
) -> tuple[bytes, MessageProperties]:
    """*body* as bytes, and its properties: with its content type and an id, unless they are given."""
    about = properties or MessageProperties()
    if headers is not None:
        about = replace(about, headers={**(about.headers or {}), **headers})
    if isinstance(body, (bytes, bytearray, memoryview)):
        raw, content_type = bytes(body), _BYTES
    elif isinstance(body, str):
        raw, content_type = body.encode(), _TEXT
    elif hasattr(body, "model_dump_json"):  # of pydantic
        raw, content_type = body.model_dump_json().encode(), _JSON
    else:
        raw, content_type = encode_json(body), _JSON
    return raw, replace(
        about,
        content_type=about.content_type or content_type,
        message_id=about.message_id or os.urandom(16).hex(),
    )
