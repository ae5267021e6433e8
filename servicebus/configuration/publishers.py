"""The section ``publishers:``: where services publish to in the form of other programs, by name."""

from __future__ import annotations

from collections.abc import Mapping

from servicebus._plain import PlainTarget
from servicebus.configuration import checks
from servicebus.configuration.checks import Unacceptable
from servicebus.configuration.section import Section, show
from servicebus.configuration.values import BrokerHost

__all__ = ["PUBLISHER_KEYS", "known_host", "read_publishers"]

PUBLISHER_KEYS = ("exchange", "routing_key", "host", "mandatory", "persistent")


def read_publishers(section: Section, hosts: tuple[BrokerHost, ...]) -> Mapping[str, PlainTarget]:
    """All entries of ``publishers:``, by their names; *hosts* are all brokers that there are."""
    names = section.mapping("publishers")
    found = {}
    for name in names:
        at = (*section.at, "publishers", name)
        given = Section(names[name] or {}, PUBLISHER_KEYS, section.where, at)
        target = PlainTarget(
            given.take("exchange", checks.short_name, ""),
            given.take("routing_key", checks.short_name, ""),
            given.take("host", checks.text, ""),
            given.take("mandatory", checks.flag, True),
            given.take("persistent", checks.flag, True),
        )
        if problem := known_host(target.host, hosts):
            section.where.fail((*at, "host"), f"{show((*at, 'host'))} {problem}")
        section.check(at, name, _parameter)
        found[str(name)] = target
    return found


def _parameter(name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise Unacceptable("must be named like a parameter of a function, which gets it by this name")
    return name


def known_host(name: str, hosts: tuple[BrokerHost, ...]) -> str:
    """Why *name* is no broker; "" if it is one, or none is named."""
    if not name or any(host.name == name for host in hosts):
        return ""
    return f"must be the name of one of hosts and connections: {', '.join(host.name for host in hosts)}"
