"""The section ``bridges:``: queues whose messages go on to another broker or exchange, without code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from servicebus._plain import PlainQueue, PlainTarget
from servicebus.configuration import checks
from servicebus.configuration.checks import Unacceptable
from servicebus.configuration.publishers import known_host
from servicebus.configuration.section import Section, show
from servicebus.configuration.values import BrokerHost

__all__ = ["BRIDGE_KEYS", "FROM_KEYS", "QUEUE_OPTIONS", "TO_KEYS", "BridgeEntry", "read_bridges"]

BRIDGE_KEYS = ("from", "to", "prefetch", "retry", "dead_letters", "deduplicate", "remembers")
FROM_KEYS = ("host", "queue", "exchange", "exchange_type", "routing_key", "passive", "durable", "arguments")
TO_KEYS = ("host", "exchange", "routing_key", "mandatory")
RETRY_S: tuple[float, ...] = (1.0, 5.0, 30.0, 60.0)
EXCHANGE_TYPES = ("topic", "direct", "fanout", "headers")


def _keys(value: Any) -> tuple[str, ...]:
    return tuple(checks.short_name(each) for each in (value if isinstance(value, (list, tuple)) else (value,)))


def _plain_value(value: Any) -> Any:
    """A number or flag where it looks like one: in YAML every scalar arrives as its text."""
    if not isinstance(value, str):
        return value
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.lstrip("-").isdigit() else value


def _arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Unacceptable("must be a mapping of names")
    return {checks.short_name(name): _plain_value(each) for name, each in value.items()}


QUEUE_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "queue": checks.short_name,
    "exchange": checks.short_name,
    "exchange_type": checks.one_of(*EXCHANGE_TYPES),
    "routing_key": _keys,
    "host": checks.text,
    "passive": checks.flag,
    "durable": checks.flag,
    "arguments": _arguments,
    "prefetch": checks.whole(1, 65535),
    "remember": checks.seconds(zero=True),
    "publish": checks.text,
    "answers": checks.flag,
}
"""What ``Services.consume()`` takes, as a service of kind ``consume`` says it."""


@dataclass(frozen=True)
class BridgeEntry:
    """One bridge."""

    queue: PlainQueue
    target: PlainTarget
    keeps_key: bool
    """The messages keep their own routing keys."""
    retry: tuple[float, ...]
    """Seconds before each further attempt at a message that the target refuses; after the last one it is a dead
    letter or, without ``dead_letters``, it is tried again every minute."""
    dead_letters: str
    """The queue for those, on the source broker; "" for none."""
    deduplicate: bool
    remembers: int
    """How many message ids are known that were moved."""


def read_bridges(section: Section, hosts: tuple[BrokerHost, ...]) -> tuple[BridgeEntry, ...]:
    """All entries of ``bridges:``; *hosts* are all brokers that there are."""
    found = []
    for at, value in section.items("bridges"):
        given = Section(value, BRIDGE_KEYS, section.where, at)
        source, target = given.section("from", FROM_KEYS), given.section("to", TO_KEYS)
        if source is None or target is None:
            section.where.fail(at, f"{show(at)} needs both from and to")
        queue = read_queue(source, hosts, prefetch=given.take("prefetch", checks.whole(1, 65535), 1000))
        to = PlainTarget(
            target.take("exchange", checks.short_name, ""),
            target.take("routing_key", checks.short_name, ""),
            read_host(target, hosts),
            target.take("mandatory", checks.flag, True),
        )
        if queue.host == to.host and not to.exchange and to.routing_key in ("", queue.queue):
            section.where.fail(at, f"{show(at)} leads back into its own queue; give to an exchange or a routing_key")
        retry = given.take("retry", checks.retry_schedule, RETRY_S)
        dead = given.take("dead_letters", checks.short_name, "")
        doubles = given.take("deduplicate", checks.flag, True), given.take("remembers", checks.whole(1, 10**8), 100_000)
        found.append(BridgeEntry(queue, to, "routing_key" not in target, retry, dead, *doubles))
    return tuple(found)


def read_host(section: Section, hosts: tuple[BrokerHost, ...]) -> str:
    """The key ``host``: the name of a broker; the only one, if there is but one."""
    name = section.take("host", checks.text, hosts[0].name if len(hosts) == 1 else "")
    at = (*section.at, "host")
    if not name:
        section.where.fail(section.at, f"{show(at)} is missing: {known_host('?', hosts)}")
    if problem := known_host(name, hosts):
        section.where.fail(at, f"{show(at)} {problem}")
    return name


def read_queue(section: Section, hosts: tuple[BrokerHost, ...], **how: Any) -> PlainQueue:
    """A queue that is consumed, and how it is declared."""
    return PlainQueue(
        section.require("queue", checks.short_name),
        section.take("exchange", checks.short_name, ""),
        section.take("routing_key", _keys, ()),
        section.take("exchange_type", checks.one_of(*EXCHANGE_TYPES), "topic"),
        read_host(section, hosts),
        section.take("passive", checks.flag, False),
        section.take("durable", checks.flag, True),
        section.take("arguments", _arguments, {}),
        **how,
    )
