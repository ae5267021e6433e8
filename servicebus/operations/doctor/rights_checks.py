"""Checks of what the user of the bus may do on a broker, and of what it should not."""

from __future__ import annotations

import re
from collections.abc import Iterator

from servicebus.operations.doctor.facts import BrokerFacts, FleetFacts
from servicebus.operations.doctor.finding import DoctorFinding
from servicebus.operations.doctor.rights import RIGHTS, covers, needed_rights
from servicebus.wire.events import events_exchange

__all__ = ["administrators", "permissions", "topic_permissions"]


def permissions(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    host, managed = broker.host, broker.managed
    needed = needed_rights(fleet.config.exchange_name, fleet.own_nodes, has_events=any(fleet.subscriptions.values()))
    if managed is not None and managed.permissions is not None:
        given = {right: str(managed.permissions.get(right, "")) for right in RIGHTS}
        for right, names in needed.lacking(given).items():
            shown = ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
            cause = f"its right to {right} is {given[right] or 'none'!r}"
            whole = " ".join(f"'{_merged(given[each], needed.patterns[each], each == right)}'" for each in RIGHTS)
            fix = f"servicebus setup, or rabbitmqctl set_permissions -p {host.virtual_host} {host.user} {whole}"
            what = f"user {host.user!r} may not {right} {shown}"
            yield DoctorFinding("permissions", host.name, what, cause, fix)
    else:
        for what in broker.refused:
            if not fleet.own_nodes and not what.startswith("write"):
                continue  # a Sender need not
            cause = "its permissions on this virtual host do not cover it"
            fix = "servicebus setup, or rabbitmqctl set_permissions"
            yield DoctorFinding("permissions", host.name, f"user {host.user!r} may not {what}", cause, fix)


def _merged(given: str, needed: str, is_lacking: bool) -> str:
    return needed if is_lacking or not given else given


def topic_permissions(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    managed, host = broker.managed, broker.host
    exchange = events_exchange(fleet.config.exchange_name)
    for found in (managed.topic_permissions if managed is not None else None) or ():
        if found.get("exchange") != exchange:
            continue
        for right in ("write", "read"):
            pattern = str(found.get(right, ""))
            if not covers(pattern, "any.event"):
                what = f"user {host.user!r} may {right} only events that fit {pattern!r} on {exchange}"
                cause = "a topic permission is set: events of other names are refused, and close the channel"
                fix = f"rabbitmqctl clear_topic_permissions -p {host.virtual_host} {host.user} {exchange}"
                yield DoctorFinding("topic-permissions", host.name, what, cause, fix)


def administrators(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    managed, host = broker.managed, broker.host
    if managed is not None and "administrator" in (managed.tags or ()):
        cause = "who finds the password in a file of the bus owns the broker, with all its virtual hosts"
        fix = f"make the bus a user of its own (servicebus setup), or rabbitmqctl set_user_tags {re.escape(host.user)}"
        yield DoctorFinding("administrator", host.name, f"user {host.user!r} is an administrator", cause, fix)
