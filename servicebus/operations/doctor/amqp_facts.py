"""What AMQP alone says of a broker: by declarations that change nothing, and messages that stay nowhere."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConnectFailed, ConnectionLost, MessageTooLarge, TransportError
from servicebus.operations.doctor.certificates import certificate_of
from servicebus.operations.doctor.facts import BrokerFacts, FleetFacts, QueueLook
from servicebus.operations.migrate import moving_queue
from servicebus.operations.queue_types import type_of
from servicebus.operations.session import Session, open_session
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.interface import Connect, ExchangeKind, Step
from servicebus.transport.steps import declare_exchange
from servicebus.transport.stored import stored_queues
from servicebus.wire.address import dead_queue, drained_mark, messages_queue, rpc_queue
from servicebus.wire.events import events_exchange, is_event_queue
from servicebus.wire.printable import printable

__all__ = ["exchange_types", "find_doubles", "look_at", "look_at_other_nodes"]

_NO_RIGHT, _NOT_FOUND, _LOCKED, _OTHERWISE = 403, 404, 405, 406
_MEMBER_S = 2.0
_PROBE_S = 5.0
"""For a message that a healthy broker confirms at once; one with an alarm does not read it."""
_SLOWEST = 1e6
"""Bytes per second that a message takes at worst."""
_LOOK_S = 0.005
_SETTLE_S = 0.05


def exchange_types(config: Configuration) -> dict[str, ExchangeKind]:
    """Those of the bus, and their types."""
    return {config.exchange_name: "direct", events_exchange(config.exchange_name): "topic"}


def look_at(
    host: BrokerHost, fleet: FleetFacts, connect: Connect = AmqpConnection
) -> tuple[BrokerFacts, Session | None]:
    """The facts of one broker, and the session, still open, if there is one."""
    config, facts = fleet.config, BrokerFacts(host)
    if host.use_ssl:
        facts.certificate = certificate_of(host, config.socket_timeout)
    if host.members and connect is AmqpConnection:
        facts.members_down = _members_down(host)
    try:
        session = open_session(host, config, purpose="doctor", connect=connect)
    except TransportError as error:
        facts.failure = error
        return facts, None
    try:
        facts.version, facts.channel_max = session.server_version, session.channel_max
        _look_at_exchanges(session, fleet, facts)
        facts.is_drained = _ask(facts, "", lambda: session.facts(drained_mark(config.exchange_name))) is not None
        _look_at_queues(session, fleet, facts)
        _publish_probes(session, config, facts)
    except _Blocked as blocked:
        facts.blocked = str(blocked)
        return facts, None
    except TransportError as error:  # a broker that does not answer is one that cannot be used
        facts.failure = error
    return facts, session if session.is_open else None


def look_at_other_nodes(session: Session, facts: BrokerFacts, nodes: Iterable[str]) -> None:
    """Into the queues of *nodes*, which have answered, and of those whose names the management API tells."""
    names = (facts.managed.queues if facts.managed is not None else None) or {}
    managed = [name.removesuffix(".dead") for name in names if name.endswith(".dead")]
    known = [*nodes, *(node for node in managed if messages_queue(node) in names)]
    queues = [of(node) for node in dict.fromkeys(known) for of in (rpc_queue, messages_queue, dead_queue)]
    try:
        for name in (*queues, *filter(is_event_queue, names)):
            if name not in facts.queues:
                facts.queues[name] = _look(session, name)
    except TransportError as error:
        facts.failure = error


def find_doubles(opened: Iterable[tuple[BrokerFacts, Session]]) -> None:
    """Which hosts are one broker: a queue that is exclusive to the connection to one is locked for the others."""
    asked: dict[str, str] = {}
    for facts, session in opened:
        facts.same_as = next((host for host, queue in asked.items() if _is_locked(session, queue)), "")
        if facts.same_as:
            continue
        with suppress(TransportError), session.channel() as channel:  # the queue lives as long as the connection
            asked[facts.name] = channel.declare("", exclusive=True, auto_delete=True).name


def _is_locked(session: Session, queue: str) -> bool:
    try:
        session.facts(queue)
    except TransportError as error:
        return error.reply_code == _LOCKED
    return False


def _members_down(host: BrokerHost) -> dict[str, str]:
    down = {}
    for number in range(len(host.members)):
        member = host.member(number)
        try:
            socket.create_connection((member.host, member.port), _MEMBER_S).close()
        except OSError as error:
            down[member.address] = error.strerror or str(error) or "no answer"
    return down


def _ask(facts: BrokerFacts, what: str, answer: Callable[[], Any]) -> Any:
    """The answer; None if the user has no right to ask, which is noted."""
    try:
        return answer()
    except ConnectFailed as error:
        if error.reply_code != _NO_RIGHT:
            raise
        if what:
            facts.refused.append(what)
        return None


def _look_at_exchanges(session: Session, fleet: FleetFacts, facts: BrokerFacts) -> None:
    for name, kind in exchange_types(fleet.config).items():
        is_used = name == fleet.config.exchange_name or any(fleet.subscriptions.values())
        found = _code_of(session, declare_exchange(name, passive=True))
        if found == _NOT_FOUND:
            facts.exchanges[name] = "missing"
        elif found:
            facts.exchanges[name] = "unknown"
        else:
            # As it is there, the same declaration changes nothing, and another one is refused.
            same = _code_of(session, declare_exchange(name, kind=kind))
            facts.exchanges[name] = {0: "there", _OTHERWISE: "otherwise"}.get(same, "unknown")
            if same == _NO_RIGHT and is_used:
                facts.refused.append(f"configure exchange {name}")


def _code_of(session: Session, step: Step) -> int:
    """0 if it was done, else the broker's code. Raises TransportError: the connection is lost."""
    with session.channel() as channel:
        try:
            channel.run(step, "the declaration of an exchange")
        except TransportError as error:
            if not error.reply_code:
                raise
            return error.reply_code
    return 0


def _look_at_queues(session: Session, fleet: FleetFacts, facts: BrokerFacts) -> None:
    config = fleet.config
    for node in fleet.own_nodes:
        stored = [*stored_queues(node), *fleet.subscriptions.get(node, {})]
        moving = [moving_queue(name) for name in stored]
        own = config.with_node_name(node)
        for name in (rpc_queue(node), *stored, *moving):
            look = facts.queues[name] = _look(session, name)
            if look is not None and name in stored:
                found = _ask(facts, f"configure queue {name}", partial(type_of, session, own, name))
                look.kind, look.fits = found or ("", True)


def _look(session: Session, name: str) -> QueueLook | None:
    found = session.facts(name)
    return None if found is None else QueueLook(found.ready, found.consumers)


def _publish_probes(session: Session, config: Configuration, facts: BrokerFacts) -> None:
    """Last, because a broker with an alarm reads nothing more from a connection that has published."""
    exchange = config.exchange_name
    if facts.exchanges.get(exchange) in ("there", "otherwise"):
        key = f"servicebus.unroutable.{os.urandom(8).hex()}"
        facts.returns = _ask(facts, f"write to exchange {exchange}", lambda: _comes_back(session, exchange, key))
    facts.largest = _ask(facts, "", lambda: _largest(session, config.max_envelope_bytes, facts))


def _comes_back(session: Session, exchange: str, key: str) -> bool:
    with session.channel(confirms=True) as channel:
        try:
            _wait_stored(session, channel.publish(exchange, key, b""), _PROBE_S)
        except TransportError as error:
            if error.reply_code or not session.is_open:
                raise
            return True
    return False


def _largest(session: Session, size: int, facts: BrokerFacts) -> int | None:
    """The broker's limit, if a message of *size* exceeds it: one is sent to a queue of our own, which keeps nothing."""
    with session.channel(confirms=True) as channel:
        facts.frame_max = channel.frame_max
        try:
            queue = channel.declare("", exclusive=True, auto_delete=True, arguments={"x-max-length": 0}).name
        except TransportError as error:
            if error.reply_code != _OTHERWISE:
                raise
            facts.takes_queues = False  # the broker has chosen the name: so it is the limit of queues
            return None
        try:
            _wait_stored(session, channel.publish("", queue, bytes(size)), _PROBE_S + size / _SLOWEST)
        except MessageTooLarge as error:
            return error.limit
    return None


class _Blocked(Exception):
    """Raised when the broker does not read what we publish; its text is the broker's reason."""


def _wait_stored(session: Session, stored: Future[None], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    # A broker with an alarm takes the first message, and reads nothing more: it says so about when it confirms that.
    settled_at = math.inf
    while time.monotonic() < settled_at:
        if stored.done():
            settled_at = min(settled_at, time.monotonic() + _SETTLE_S)
        if session.blocked:
            reason = printable(session.blocked)
            session.abort("the broker does not read it")  # nor would it read a goodbye
            raise _Blocked(reason)
        if time.monotonic() > deadline:
            raise ConnectionLost(session.host.name, f"a message was not confirmed within {limit_s:.0f} s", sent=True)
        time.sleep(_LOOK_S)
    stored.result()
