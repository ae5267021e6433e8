"""PlainHosts: consumes the queues of other programs, over connections of their own, apart from the node's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Protocol

from servicebus._plain import MessageProperties, PlainQueue
from servicebus.configuration import BrokerHost, Configuration
from servicebus.protocol.plain import ErrorReply, PlainProtocol
from servicebus.runtime.extra_host import ExtraConsumer, ExtraHost, Keep
from servicebus.runtime.pipeline import Pipeline
from servicebus.transport.interface import Connect, Delivery, Script
from servicebus.transport.loop import EventLoop
from servicebus.transport.plain_script import plain_script
from servicebus.transport.properties import write_all
from servicebus.wire.envelope import CALL, MESSAGE
from servicebus.wire.signing import Keyring

__all__ = ["ExtraPart", "PlainHosts", "plain_hosts"]

_FULL_S = 0.1
"""After so long a call whose service is full goes back to the broker, for another worker perhaps."""


class ExtraPart(Protocol):
    """What a worker consumes beside the queues of its node; an ExtraHost, for example."""

    @property
    def problems(self) -> list[str]: ...
    @property
    def is_gone(self) -> bool: ...
    def begin(self, epoch: int) -> None: ...
    def end(self) -> None: ...
    def take_no_more(self) -> None: ...
    def close(self) -> None: ...


class PlainHosts:
    """Belongs to the I/O thread of one worker, but for ``problems``.

    Args:
        shared: how the messages of each queue are read that stand in the node's delay queues, by their subscription.
    """

    def __init__(self, hosts: Sequence[ExtraPart] = (), shared: Mapping[str, PlainProtocol] = MappingProxyType({})):
        self._parts = list(hosts)
        self._shared = shared

    def __repr__(self) -> str:
        return f"<PlainHosts {self._parts}>"

    def add(self, part: ExtraPart) -> None:
        """Something else that begins and ends with the worker's own connections."""
        self._parts.append(part)

    @property
    def problems(self) -> list[str]:
        """What keeps queues from being consumed; for any thread."""
        return [problem for part in self._parts for problem in part.problems]

    def protocol_of(self, subscription: str) -> PlainProtocol | None:
        """How a message in the node's delay queues is read; None if no service consumes that queue any more."""
        return self._shared.get(subscription)

    def begin(self, epoch: int) -> None:
        """The worker's own connections are up."""
        for part in self._parts:
            part.begin(epoch)

    def end(self) -> None:
        """They are gone, or the worker takes no more: what is unacknowledged goes to another worker, or comes again."""
        for part in self._parts:
            part.end()

    def take_no_more(self) -> None:
        for part in self._parts:
            part.take_no_more()

    def close(self) -> None:
        for part in self._parts:
            part.close()

    @property
    def is_closed(self) -> bool:
        return all(part.is_gone for part in self._parts)


class _PlainHost(ExtraHost):
    """One broker."""

    def __init__(
        self,
        loop: EventLoop,
        config: Configuration,
        host: BrokerHost,
        keyring: Keyring,
        pipeline: Pipeline,
        queues: Sequence[tuple[str, PlainQueue, int]],
        connect: Connect,
    ):
        super().__init__(loop, config, host, connect, "plain", "queues of other programs")
        self._pipeline = pipeline
        for key, queue, most in queues:
            protocol = PlainProtocol(config, keyring, key, queue, partial(self._reply, queue), host=host)
            script = partial(self._script, protocol, queue.prefetch or most)
            self.consumers.append(ExtraConsumer(self, queue.queue, script))

    def _script(self, protocol: PlainProtocol, most: int, epoch: int, keep: Keep) -> Script:
        return plain_script(protocol.queue, most, partial(self._take, epoch=epoch, protocol=protocol), keep)

    def _take(self, delivery: Delivery, epoch: int, protocol: PlainProtocol) -> None:
        if self.is_leaving:
            return
        if not protocol.is_call(delivery):
            self._pipeline.take(delivery, epoch, protocol, MESSAGE)
            return
        give_back = partial(delivery.channel.reject, delivery.tag, requeue=True)
        self._pipeline.take(delivery, epoch, protocol, CALL, lambda: self.later(_FULL_S, give_back))

    def _reply(self, queue: PlainQueue, delivery: Delivery, body: bytes, on_answered: Callable[[str], None]) -> None:
        """Answer by the rules of plain RPC: to the default exchange, under the caller's correlation id."""
        if not delivery.reply_to:
            return
        is_error = isinstance(body, ErrorReply)
        properties = MessageProperties(
            "application/json" if is_error else queue.content_type,
            correlation_id=delivery.correlation_id,
            type="error" if is_error else None,
        )
        self.answer(delivery.reply_to, body, on_answered, properties=write_all(properties))


def plain_hosts(
    loop: EventLoop,
    config: Configuration,
    home: BrokerHost,
    keyring: Keyring,
    pipeline: Pipeline,
    queues: Sequence[tuple[str, PlainQueue, int]],
    connect: Connect,
) -> PlainHosts:
    """What the worker of broker *home* consumes.

    Args:
        queues: the service (``category.name``), its queue, and how many deliveries it takes at a time.
    """

    def is_mine(queue: PlainQueue, host: BrokerHost) -> bool:
        return queue.host == host.name if host is not home else queue.host in ("", home.name)

    hosts = []
    for host in (home, *config.connections):
        mine = [each for each in queues if is_mine(each[1], host)]
        if mine:
            hosts.append(_PlainHost(loop, config, host, keyring, pipeline, mine, connect))
    shared = [PlainProtocol(config, keyring, key, queue, is_shared=True) for key, queue, _ in queues]
    return PlainHosts(hosts, {protocol.subscription: protocol for protocol in shared})
