"""What the management API of a broker says beyond AMQP: rights, policies, arguments, bindings, alarms, limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from servicebus.configuration import BrokerHost
from servicebus.errors import ServiceBusError
from servicebus.operations.doctor.facts import BrokerFacts, ManagedFacts
from servicebus.operations.doctor.management import ManagementApi, ManagementFailed, path_of

__all__ = ["look_managed"]

_QUEUE_COLUMNS = "name,durable,auto_delete,exclusive,arguments,policy,operator_policy,consumers,type"
_NO_RIGHTS = {"configure": "", "write": "", "read": ""}


def look_managed(facts: BrokerFacts, api: ManagementApi, exchanges: Sequence[str]) -> None:
    """Ask for everything that checks read; what is refused is noted, and the rest asked for."""
    host, found = facts.host, ManagedFacts()

    def ask(name: str, what: str, answer: Callable[[], Any]) -> None:
        try:
            setattr(found, name, answer())
        except ManagementFailed as failed:
            found.problems[what] = failed.reason

    try:
        found.overview = api.get("/api/overview")
    except (ServiceBusError, OSError) as error:
        facts.unmanaged = getattr(error, "reason", str(error))
        return
    vhost = host.virtual_host
    ask("nodes", "alarms and members", lambda: api.get("/api/nodes"))
    ask("virtual_host", "virtual host", lambda: api.find(path_of("vhosts", vhost)))
    ask("tags", "tags of the user", lambda: _tags(api, host))
    ask("permissions", "permissions", lambda: api.find(path_of("permissions", vhost, host.user)) or _NO_RIGHTS)
    ask("topic_permissions", "topic permissions", lambda: _topic_permissions(api, host))
    ask("policies", "policies", lambda: api.get(path_of("policies", vhost)))
    ask("operator_policies", "operator policies", lambda: api.get(path_of("operator-policies", vhost)))
    ask("exchanges", "exchanges", lambda: _by_name(api.get(path_of("exchanges", vhost))))
    ask("queues", "queues", lambda: _by_name(api.get(f"{path_of('queues', vhost)}?columns={_QUEUE_COLUMNS}")))
    ask("bindings", "bindings", lambda: _bindings(api, vhost, exchanges))
    ask("limits", "limits", lambda: _limits(api, vhost))
    facts.managed = found


def _by_name(listed: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {each["name"]: each for each in listed}


def _tags(api: ManagementApi, host: BrokerHost) -> list[str]:
    found = api.get("/api/whoami") if api.user == host.user else api.find(path_of("users", host.user)) or {}
    tags = found.get("tags") or []
    return tags.split(",") if isinstance(tags, str) else list(tags)  # a text before RabbitMQ 3.9


def _topic_permissions(api: ManagementApi, host: BrokerHost) -> list[Mapping[str, Any]]:
    found = api.find(path_of("topic-permissions", host.virtual_host, host.user)) or []
    return [found] if isinstance(found, dict) else list(found)


def _bindings(api: ManagementApi, vhost: str, exchanges: Sequence[str]) -> list[Mapping[str, Any]]:
    """Those of each exchange that is there."""
    found: list[Mapping[str, Any]] = []
    for exchange in exchanges:
        found += api.find(path_of("exchanges", vhost, exchange, "bindings", "source")) or []
    return found


def _limits(api: ManagementApi, vhost: str) -> dict[str, int]:
    listed = api.get(path_of("vhost-limits", vhost))
    return {name: number for each in listed for name, number in each.get("value", {}).items()}
