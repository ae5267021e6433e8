"""Checks of each broker by itself: version, limits, alarms, members, maintenance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from servicebus.operations.doctor.facts import BrokerFacts, FleetFacts
from servicebus.operations.doctor.finding import DoctorFinding
from servicebus.policy.broker_versions import read_version, warnings_for

__all__ = [
    "alarms", "cluster_members", "consumer_timeout", "default_queue_type", "limits", "maintenance", "resources",
    "version", "virtual_host_limits",
]  # fmt: skip

_OLDEST = (3, 10, 0)
_CHANNELS = 16
"""More than an agent has on one connection."""
_FRAME_MAX = 8192
_SHORT_S = 60.0
_ADVICE = re.compile(r"(.+?): ((?:use|set) .+)")
"""What is known of a version, and what to do about it."""
_FULL = 0.8


def version(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    found = read_version(broker.version)
    if found is None:
        return
    if found < _OLDEST:
        fix = "upgrade it, one broker after the other: servicebus drain HOST"
        yield DoctorFinding(
            "version-untested", broker.name, f"it is RabbitMQ {broker.version}", "3.10 and later are tested", fix
        )
    config = fleet.config
    about: dict[str, Any] = {"queue_type": config.message_queue_type, "has_priorities": config.priorities}
    for text in warnings_for(found, is_cluster=bool(broker.host.members), **about):
        what, fix = _ADVICE.fullmatch(text).groups()  # type: ignore[union-attr]
        yield DoctorFinding(
            "version-advice", broker.name, f"RabbitMQ {broker.version}: {what}", "so this version is", fix
        )


def limits(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    name, config = broker.name, fleet.config
    if 0 < broker.channel_max < _CHANNELS:
        what = f"it allows {broker.channel_max} channels on a connection, too few for an agent"
        fix = f"set channel_max = {_CHANNELS} or more in rabbitmq.conf (2047 by default), and start it again"
        yield DoctorFinding("few-channels", name, what, "channel_max in rabbitmq.conf", fix)
    if 0 < broker.frame_max < _FRAME_MAX:
        what = f"its frames have at most {broker.frame_max} bytes"
        fix = f"set frame_max = {_FRAME_MAX} or more in rabbitmq.conf (131072 by default), and start it again"
        yield DoctorFinding("small-frames", name, what, "frame_max in rabbitmq.conf; 4.1 and later refuse this", fix)
    if broker.largest is not None:
        what = f"its largest message has {broker.largest} bytes, and max_envelope_bytes is {config.max_envelope_bytes}"
        fix = "set max_message_size in rabbitmq.conf, or lower max_envelope_bytes in the files of all nodes and Senders"
        yield DoctorFinding("message-size", name, what, "max_message_size of the broker is smaller", fix)


def consumer_timeout(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    found = broker.consumer_timeout_s
    if found is not None and found < _SHORT_S:
        what = f"what is not acked within {found:g} s is taken back, and the channel closed"
        fix = "set consumer_timeout in rabbitmq.conf above what the slowest service takes (1800000 ms by default)"
        yield DoctorFinding("consumer-timeout", broker.name, what, "consumer_timeout of the broker", fix)


def alarms(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    members = (broker.managed.nodes if broker.managed is not None else None) or ()
    found = False
    for member in members:
        for key, what, fix in (
            ("mem_alarm", "memory", "find out what fills it (backlog), add memory, or raise vm_memory_high_watermark"),
            ("disk_free_alarm", "disk", "make room on the disk of its data, or lower disk_free_limit"),
        ):
            if member.get(key) is True:
                found = True
                cause = f"{member.get('name')} has run out of {what}: it reads from no connection that publishes"
                yield DoctorFinding("alarm", broker.name, f"an alarm for {what} is on", cause, fix)
    if broker.blocked and not found:
        cause = f"an alarm is on: {broker.blocked}; it reads from no connection that publishes"
        fix = "rabbitmq-diagnostics alarms; make room on its disk, find out what fills its memory, or raise its limits"
        yield DoctorFinding("alarm", broker.name, "the broker does not take what we publish", cause, fix)


def resources(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for member in _members(broker):
        fills: tuple[tuple[str, Any, Any, str], ...] = (
            ("file descriptors", member.get("fd_used"), member.get("fd_total"), "raise LimitNOFILE of its service"),
            ("sockets", member.get("sockets_used"), member.get("sockets_total"), "raise LimitNOFILE of its service"),
            ("memory", member.get("mem_used"), member.get("mem_limit"), "add memory, or find out what fills it"),
            ("Erlang processes", member.get("proc_used"), member.get("proc_total"), "raise +P of its Erlang"),
        )
        for what, used, total, fix in fills:
            if _is_number(used) and _is_number(total) and total > 0 and used >= _FULL * total:
                text = f"{what}: {used} of {total} are used by {member.get('name')}"
                cause = "when they run out it accepts no connection, or raises an alarm"
                yield DoctorFinding("resources-low", broker.name, text, cause, fix)
        free: Any = member.get("disk_free")
        least: Any = member.get("disk_free_limit")
        if _is_number(free) and _is_number(least) and not member.get("disk_free_alarm") and free < 2 * least:
            text = f"disk: {free} bytes are free on {member.get('name')}, and the alarm comes at {least}"
            yield DoctorFinding("resources-low", broker.name, text, "its disk is nearly full", "make room on it")


def cluster_members(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for member in _members(broker):
        if member.get("running") is False:
            what = f"member {member.get('name')} does not run"
            fix = "start it; one that is gone for good: rabbitmqctl forget_cluster_node"
            yield DoctorFinding("member-down", broker.name, what, "it has stopped, or the others do not reach it", fix)
        elif parted := member.get("partitions"):
            what = f"member {member.get('name')} has parted from {', '.join(map(str, parted))}"
            cause = "the network between them broke, or one was frozen; each piece has queues of its own since"
            yield DoctorFinding("partition", broker.name, what, cause, "start the members of the smaller piece again")


def maintenance(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    if broker.is_drained:
        cause = "an operator has drained it: workers and callers have left it"
        fix = f"when its maintenance is over: servicebus drain {broker.name} --undo"
        yield DoctorFinding("drained", broker.name, "it is taken out of service", cause, fix)


def virtual_host_limits(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    managed = broker.managed
    if not broker.takes_queues:
        fix = "rabbitmqctl set_vhost_limits, or remove unused queues"
        cause = "the virtual host has a limit (max-queues), and it is reached"
        yield DoctorFinding("limit-near", broker.name, "the broker takes no more queues", cause, fix)
    if managed is None or not managed.limits:
        return
    most = managed.limits.get("max-queues", -1)
    if most >= 0 and managed.queues is not None and len(managed.queues) >= _FULL * most:
        what = f"{len(managed.queues)} of at most {most} queues are there"
        fix = "rabbitmqctl set_vhost_limits, or remove unused queues"
        yield DoctorFinding("limit-near", broker.name, what, "the virtual host has a limit (max-queues)", fix)
    most = managed.limits.get("max-connections", -1)
    if 0 <= most < 4:  # two for a worker, and those of Senders
        what = f"the virtual host takes {most} connections, and each worker needs two"
        fix = "rabbitmqctl set_vhost_limits"
        yield DoctorFinding("limit-near", broker.name, what, "the virtual host has a limit (max-connections)", fix)


def default_queue_type(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    wanted = fleet.config.message_queue_type
    about = (broker.managed.virtual_host if broker.managed is not None else None) or {}
    found = about.get("default_queue_type") or "classic"
    if wanted == "classic" and found not in ("classic", "undefined"):
        what = f"queues without a type are {found} there, and queue_type is classic"
        cause = "the virtual host has another default queue type"
        yield DoctorFinding("default-queue-type", broker.name, what, cause, f"set queue_type: {found} in the file")


def _members(broker: BrokerFacts) -> list[Mapping[str, Any]]:
    return list((broker.managed.nodes if broker.managed is not None else None) or ())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
